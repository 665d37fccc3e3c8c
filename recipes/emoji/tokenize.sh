#!/bin/sh
# Every split as codes: .cache/emoji/*.jsonl -> .cache/emoji/tokens/*
set -eu
emoji=.cache/emoji
tokenizer=runs/emoji-tokenizer/tokenizer
for split in common common_noto common_twemoji views views_more views_wide views_styles questions questions_wide questions_styles counts 3d noto twemoji others tones; do
  liquid tokenize $emoji/train_$split.jsonl -t $tokenizer -o $emoji/tokens/$split --batch-size 96
done
for split in train_pairs test_pairs; do
  liquid tokenize $emoji/$split.jsonl -t $tokenizer -o $emoji/tokens/${split#train_} --batch-size 96 --sizes 64x128,128x64
done
liquid tokenize $emoji/chat_common.jsonl -t $tokenizer -o $emoji/tokens/chat_common --batch-size 96
liquid tokenize $emoji/chat_train.jsonl -t $tokenizer -o $emoji/tokens/chat --batch-size 96
for split in validation test_concepts test_compositions test_pictures test_style; do
  liquid tokenize $emoji/$split.jsonl -t $tokenizer -o $emoji/tokens/$split --batch-size 96
done
for split in text text_validation; do
  liquid tokenize $emoji/$split.jsonl -o $emoji/tokens/$split
done

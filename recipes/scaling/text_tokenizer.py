"""A small text tokenizer for small models: byte-level BPE of 2048 entries, from the emoji captions and the plain text.

    python recipes/scaling/text_tokenizer.py                     # .cache/emoji/*.jsonl -> runs/scaling-text-tokenizer

With a tokenizer of 49,152 entries a model of 0.3 M parameters would spend over nine tenths of its work on the output
head, and its "size" would say nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from liquid_mm.files import atomic_dir
from liquid_mm.vocab.prompts import INSTRUCTIONS

END = "<|endoftext|>"
FILES = ("train_3d.jsonl", "train_noto.jsonl", "train_twemoji.jsonl", "train_others.jsonl", "text.jsonl")


def texts(folder: Path) -> Iterator[str]:
    """Every caption with an instruction, and every document."""
    for name in FILES:
        with (folder / name).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                instruction = "" if name == "text.jsonl" else INSTRUCTIONS[number % len(INSTRUCTIONS)]
                yield json.loads(line)["text"] + instruction


def main() -> None:
    """Train and write the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".cache/emoji"), help="what recipes/emoji/build.py wrote")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/scaling-text-tokenizer"))
    parser.add_argument("--size", type=int, default=2048, help="entries of the vocabulary")
    options = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=options.size, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts(options.data), trainer)

    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
    with atomic_dir(options.out) as folder:
        fast.save_pretrained(folder)
    print(f"{options.out}: {len(fast)} entries")


if __name__ == "__main__":
    main()

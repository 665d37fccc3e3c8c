"""Tiny random models of every family that the tests extend, each with a tokenizer built here: no download, no file.

    llm, tokenizer = tiny_base("qwen2")                    # as a user's base model would load
    llm, tokenizer, vocabulary = tiny_liquid("smollm")     # the same, extended by image codes

Each keeps the quirks of its family: Gemma's `<unusedN>` slots and turns, Qwen's table padded past its tokenizer,
Phi-3's tokens that swallow the whitespace behind them, GPT-2's single special token, a space before the first word for
the Llama-2 style tokenizers of Mistral and Phi-3, SmolLM's `<|im_start|>` declared as `<bos>`.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

from liquid_mm.vocab.extend import extend_model
from liquid_mm.vocab.vocabulary import Vocabulary

FAMILIES = ("gemma", "gemma2", "gemma3", "llama3", "qwen2", "qwen3", "mistral", "phi3", "gpt2", "smollm")

CORPUS = (
    "a red apple on a wooden table, a yellow duck and a blue ball under a green tree",
    "Generate an image based on this description. The caption of this image is: a picture of a cat",
    "user assistant system model User: Assistant: Image Size: Width is 128 Height is 64.",
    "What is in this picture? There are three boats on the river in the early morning.",
)

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen 3 drops old reasoning and gives the last answer an empty <think> block.
QWEN3 = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'].lstrip('\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "<start_of_turn>{{ role }}\n{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'] }}"
    "{{ eos_token }}{% else %}[INST] {{ message['content'] }} [/INST]{% endif %}{% endfor %}"
)

PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


def tiny_base(family: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A two-layer random model of `family` (one of `FAMILIES`) in float32 and eval mode, and its tokenizer."""
    tokenizer = _TOKENIZERS[family]()
    config = _config(family, tokenizer)
    torch.manual_seed(seed)
    llm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        # A shifted, wide table: rows that start elsewhere or smaller are then easy to tell apart.
        llm.get_input_embeddings().weight.normal_(0.1, 0.5)
        if llm.get_output_embeddings().weight is not llm.get_input_embeddings().weight:
            llm.get_output_embeddings().weight.normal_(-0.1, 0.2)
    return llm, tokenizer


def tiny_liquid(
    family: str = "smollm",
    *,
    num_codes: int = 16,
    downsampling: int = 8,
    resolution: tuple[int, int] = (32, 32),
    seed: int = 0,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Vocabulary]:
    """`tiny_base(family)` extended by `num_codes` image codes; `options` go to `extend_model`."""
    llm, tokenizer = tiny_base(family, seed)
    vocabulary = extend_model(
        llm, tokenizer, num_codes=num_codes, downsampling=downsampling, resolution=resolution, seed=seed, **options
    )
    return llm, tokenizer, vocabulary


def _config(family: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    ids = {
        "vocab_size": len(tokenizer) + (9 if family in ("qwen2", "phi3") else 0),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "gpt2":
        return GPT2Config(**ids, n_embd=32, n_layer=2, n_head=4, n_positions=512)
    common = {
        **ids,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    gemma = {**common, "head_dim": 8}
    configs: dict[str, PreTrainedConfig] = {
        "gemma": GemmaConfig(**gemma),
        "gemma2": Gemma2Config(**gemma, query_pre_attn_scalar=8, sliding_window=64),
        "gemma3": Gemma3TextConfig(**gemma, query_pre_attn_scalar=8, sliding_window=64),
        "llama3": LlamaConfig(**common, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**common, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**common, head_dim=8, tie_word_embeddings=True),
        "mistral": MistralConfig(**common, tie_word_embeddings=False, sliding_window=None),
        "phi3": Phi3Config(**common, tie_word_embeddings=False),
        "smollm": LlamaConfig(**common, tie_word_embeddings=True),
    }
    return configs[family]


@functools.cache
def _byte_level_bpe() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Tokens and merges of a byte-level BPE (GPT-2's kind) trained on `CORPUS`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _train(tokenizer, pre_tokenizers.ByteLevel.alphabet())


@functools.cache
def _sentencepiece_bpe() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Tokens and merges of a BPE over "▁" for space with bytes to fall back on (SentencePiece's kind)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    tokens, merges = _train(tokenizer, ["▁"])
    return tuple(f"<0x{byte:02X}>" for byte in range(256)) + tokens, merges


def _train(tokenizer: Tokenizer, alphabet: list[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = tuple((left, right) for left, right in model["merges"])
    return tuple(sorted(model["vocab"], key=model["vocab"].__getitem__)), merges


def _build(cls: type, bpe: Any, first: list[str], last: list[str], **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer whose ids are `first`, then the BPE's tokens, then `last`; `first` and `last` are special."""
    tokens, merges = bpe
    vocab = {token: index for index, token in enumerate([*first, *tokens])}
    tokenizer: PreTrainedTokenizerBase = cls(vocab=vocab, merges=list(merges), **options)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in [*first, *last]])
    return tokenizer


def _gemma() -> PreTrainedTokenizerBase:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
    names += [f"<unused{index}>" for index in range(6)] + ["<start_of_turn>", "<end_of_turn>"]
    tokenizer = _build(GemmaTokenizer, _sentencepiece_bpe(), names, [], add_bos_token=True)
    tokenizer.chat_template = GEMMA
    return tokenizer


def _llama3() -> PreTrainedTokenizerBase:
    tokens, merges = _byte_level_bpe()
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = GPT2Tokenizer().backend_tokenizer.decoder
    names = ["<|begin_of_text|>", "<|end_of_text|>"] + [f"<|reserved_special_token_{index}|>" for index in range(4)]
    names += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend.add_special_tokens(names)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        add_bos_token=True,
        chat_template=LLAMA3,
    )
    return tokenizer


def _qwen(template: str, extra: list[str]) -> PreTrainedTokenizerBase:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _build(Qwen2Tokenizer, _byte_level_bpe(), [], names, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in extra])
    tokenizer.chat_template = template
    return tokenizer


def _mistral() -> PreTrainedTokenizerBase:
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = _build(LlamaTokenizer, _sentencepiece_bpe(), names, [], add_bos_token=True)
    tokenizer.chat_template = MISTRAL
    return tokenizer


def _phi3() -> PreTrainedTokenizerBase:
    end = "<|endoftext|>"
    tokenizer = _build(LlamaTokenizer, _sentencepiece_bpe(), ["<unk>", "<s>", "</s>"], [], eos_token=end, pad_token=end)
    names = ["<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>", "<|placeholder4|>"]
    names += ["<|system|>", "<|end|>", "<|user|>"]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False, rstrip=True) for name in names])
    tokenizer.chat_template = PHI3
    return tokenizer


def _gpt2() -> PreTrainedTokenizerBase:
    return _build(GPT2Tokenizer, _byte_level_bpe(), [], ["<|endoftext|>"])


def _smollm() -> PreTrainedTokenizerBase:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    options = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = _build(GPT2Tokenizer, _byte_level_bpe(), names, [], **options)
    tokenizer.chat_template = CHATML
    return tokenizer


_TOKENIZERS = {
    "gemma": _gemma,
    "gemma2": _gemma,
    "gemma3": _gemma,
    "llama3": _llama3,
    "qwen2": lambda: _qwen(CHATML, []),
    "qwen3": lambda: _qwen(QWEN3, ["<think>", "</think>"]),
    "mistral": _mistral,
    "phi3": _phi3,
    "gpt2": _gpt2,
    "smollm": _smollm,
}

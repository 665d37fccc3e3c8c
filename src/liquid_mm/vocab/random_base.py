"""A base model with random weights: any architecture and shape, a text tokenizer, in a folder `liquid extend` takes.

    random_base("bases/1M", shape={"hidden_size": 128, "num_hidden_layers": 4, …}, text_tokenizer="bases/tokenizer")
    random_base("bases/untrained", like="Qwen/Qwen2.5-0.5B")      # the same model, knowing nothing

For scaling studies, and to ask what pretraining is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir
from liquid_mm.vocab.base import load_base


def random_base(
    out: str | Path,
    *,
    like: str | None = None,
    shape: Mapping[str, Any] | None = None,
    text_tokenizer: str | Path | None = None,
    seed: int = 0,
) -> None:
    """Write a causal language model with random weights as the new folder `out`.

    Args:
        out: the new folder.
        like: a base model whose architecture and text tokenizer to take, as `load_base` takes it.
        shape: without `like`: keys of the architecture's transformers configuration; `model_type` is llama unless
            given. The vocabulary and its special ids come from the tokenizer.
        text_tokenizer: folder or Hub id of a fast tokenizer; only with `shape`.
        seed: of the weights.

    Raises:
        UserError: neither or both of `like` and `shape`, a key the architecture does not know, or `out` exists.
    """
    if (like is None) == (shape is None) or (shape is None) != (text_tokenizer is None):
        raise UserError("a random base needs either `like`, or `shape` with `text_tokenizer`.")
    if like is not None:
        model, tokenizer = load_base(like)
        config = model.config
    else:
        assert shape is not None
        tokenizer = _tokenizer(str(text_tokenizer))
        config = _config(shape, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with atomic_dir(out) as folder:
        llm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"cannot load a text tokenizer from {source}: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer {source} names no end-of-sequence token: set `eos_token`.")
    return tokenizer


def _config(shape: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    keys = dict(shape)
    family = keys.pop("model_type", "llama")
    try:
        known = AutoConfig.for_model(family)
    except ValueError as error:
        raise UserError(f"transformers knows no architecture {family!r}.") from error
    unknown = [key for key in keys if not hasattr(known, key)]
    if unknown:
        raise UserError(f"shape.{unknown[0]}: the architecture {family!r} has no such setting.")
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return AutoConfig.for_model(family, **{"vocab_size": len(tokenizer), **special, **keys})

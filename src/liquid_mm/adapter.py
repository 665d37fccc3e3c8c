"""The small form of a checkpoint: only what was trained on top of a base model that users already have.

    OUT/ liquid.json          … "base": {"source": "package:NAME/FILE.gguf", "sha256": "…"}
         rows.safetensors     "ids" (R,), "embedding" (R, D), and for an untied head "head" (R, D)
         adapter/             LoRA weights as PEFT reads them; absent if the new rows alone were trained
         image_tokenizer/

Loading repeats what training started from: base → extend → put the rows in → merge the LoRA. The text tokenizer comes
out of that too, so it need not be stored. On a base that is one file, whose hash is known, this takes place once: the
merged model is kept in the cache (`vocab.base.cache_dir`), from where it loads in a second instead of ten.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from liquid_mm.errors import UserError
from liquid_mm.files import cached_dir
from liquid_mm.vocab.base import cache_dir, file_sha256, load_base, locate
from liquid_mm.vocab.extend import extend_model
from liquid_mm.vocab.vocabulary import Vocabulary

ROWS = "rows.safetensors"
LORA = "adapter"


@dataclasses.dataclass(frozen=True)
class Base:
    """The model an adapter stands on.

    Args:
        source: where it comes from, as `vocab.base.load_base` takes it.
        sha256: hash of its file, where it is one.
    """

    source: str
    sha256: str | None = None

    @classmethod
    def of(cls, source: str) -> Base:
        """The base at `source`, with the hash it has now."""
        return cls(source, _sha256(source))


def save(
    folder: Path, llm: Any, lora: Any | None, vocabulary: Vocabulary, base: Base, dtype: torch.dtype | None
) -> None:
    """Write `rows.safetensors` and `adapter/` into `folder`, in `dtype` (None: as they are)."""
    ids = torch.tensor([vocabulary.boi, vocabulary.eoi, vocabulary.unconditional, *vocabulary.codes])
    rows = {name: table.detach()[ids].to("cpu", dtype) for name, table in _tables(llm).items()}
    save_file({"ids": ids, **rows}, folder / ROWS)
    if lora is None:
        return
    state = get_peft_model_state_dict(lora, save_embedding_layers=False)
    (folder / LORA).mkdir()
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
    save_file(weights, folder / LORA / "adapter_model.safetensors")
    config = lora.peft_config["default"]
    stored = dataclasses.replace(config, base_model_name_or_path=base.source, inference_mode=True)
    if isinstance(stored.target_modules, set):  # PEFT's, in another order each time
        stored.target_modules = sorted(stored.target_modules)
    stored.save_pretrained(folder / LORA)


def merged_folder(folder: Path, base: Base, vocabulary: Vocabulary, dtype: torch.dtype) -> Path:
    """The merged model, in `dtype`, as a plain Hugging Face folder in the cache; made on first use.

    Raises:
        UserError: as `merge`.
    """
    assert base.sha256, "a base without a hash may change behind the cache's back"
    parts = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name in (folder.name, LORA)]
    names = "".join(f"{path.relative_to(folder)} {file_sha256(path)}\n" for path in parts)
    key = hashlib.sha256(f"{names}{dtype}".encode()).hexdigest()[:16]
    cached = cache_dir() / f"merged-{key}"
    if not cached.exists():
        llm, tokenizer = merge(folder, base, vocabulary, dtype)
        with cached_dir(cached) as part:
            llm.save_pretrained(part)
            tokenizer.save_pretrained(part)
    return cached


def merge(folder: Path, base: Base, vocabulary: Vocabulary, dtype: torch.dtype) -> tuple[Any, Any]:
    """The language model, in `dtype` on the CPU, and its tokenizer.

    Raises:
        UserError: the base is missing or another file than the adapter was trained on, or `folder` is damaged.
    """
    if base.sha256 and _sha256(base.source) != base.sha256:
        raise UserError(f"{base.source} is another file than the one {folder} was trained on: install the original.")
    # Merged in float32 and cast once at the end: rounding the sum is better than summing rounded parts.
    llm, tokenizer = load_base(base.source, torch.float32)
    found = extend_model(
        llm,
        tokenizer,
        num_codes=vocabulary.num_codes,
        downsampling=vocabulary.downsampling,
        resolution=vocabulary.resolution,
    )
    if found != vocabulary:
        raise UserError(f"{base.source} is another base than that of {folder}: it extends to another vocabulary.")
    _set_rows(llm, folder)
    merged: Any = llm
    if (folder / LORA).is_dir():
        with warnings.catch_warnings():
            # PEFT asks for an attribute by a name that transformers 5 renamed; nothing a user can act on.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            merged = PeftModel.from_pretrained(llm, str(folder / LORA)).merge_and_unload()
    for parameter in merged.parameters():  # not `.to(dtype)`: that would round the rotary frequencies too
        parameter.data = parameter.data.to(dtype)
    return merged, tokenizer


def read_rows(folder: Path) -> dict[str, Tensor]:
    """The new rows of an adapter: "ids" (R,), "embedding" (R, D) and, for an untied head, "head" (R, D).

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / ROWS
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: the adapter is incomplete.") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): fetch or train the adapter again.") from error


def read_lora(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The LoRA of an adapter: its settings, and its weights by PEFT's names.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder / LORA))
        weights = load_file(folder / LORA / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder / LORA} cannot be read ({error}): fetch or train the adapter again.") from error
    return config, weights


def _set_rows(llm: Any, folder: Path) -> None:
    rows, tables = read_rows(folder), _tables(llm)
    if rows.keys() != {"ids", *tables}:
        raise UserError(f"{folder / ROWS} holds {', '.join(sorted(rows))}; expected ids, {', '.join(tables)}.")
    with torch.no_grad():
        for name, table in tables.items():
            table[rows["ids"]] = rows[name].to(table.dtype)


def _tables(llm: Any) -> dict[str, Tensor]:
    """The embedding table, and the head's unless it is the same tensor."""
    embedding, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    return {"embedding": embedding} if head is embedding else {"embedding": embedding, "head": head}


def _sha256(source: str) -> str | None:
    path = Path(locate(source))
    return file_sha256(path) if path.is_file() else None

"""A tokenised set on disk: Arrow shards, a manifest, and the list of records left out; `data.writer` writes it.

    OUT/ data-00000.arrow …   Arrow IPC streams, memory-mapped by `TokenizedSet`; `datasets` reads them as "arrow" files
         manifest.json        what the shards hold and which image tokenizer made their codes
         rejects.jsonl        {"where", "category", "reason"} of every record left out

    kind     columns
    text     id, text
    pairs    id, text, codes list<uint16>, rows, columns                      codes row by row
    chat     id, messages (JSON), codes list<list<uint16>>, rows, columns     one entry for each image

In `messages` a part is {"type": "text", "text": …} or {"type": "image"}, which stands for the next image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from liquid_mm.errors import UserError
from liquid_mm.files import read_json, write_json

FORMAT = 1
Kind = Literal["text", "pairs", "chat"]

_ID, _TEXT = pa.field("id", pa.string()), pa.field("text", pa.string())
_CODES, _SIDE = pa.list_(pa.uint16()), pa.int32()
SCHEMAS: dict[Kind, pa.Schema] = {
    "text": pa.schema([_ID, _TEXT]),
    "pairs": pa.schema([_ID, _TEXT, ("codes", _CODES), ("rows", _SIDE), ("columns", _SIDE)]),
    "chat": pa.schema(
        [_ID, pa.field("messages", pa.string())]
        + [pa.field(name, pa.list_(item)) for name, item in (("codes", _CODES), ("rows", _SIDE), ("columns", _SIDE))]
    ),
}


@dataclasses.dataclass(frozen=True)
class ImageTokenizerInfo:
    """Which image tokenizer made the codes of a set: hashes of its weights and of its codebook, and its geometry."""

    fingerprint: str
    codebook: str
    num_codes: int
    downsampling: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a tokenised set holds.

    Args:
        kind: "text", "pairs" or "chat"; every record of a set is of one kind.
        records, images: how many there are.
        sizes: how many images of each "WIDTHxHEIGHT" in pixels.
        rejected: how many records were left out, by category; `rejects.jsonl` lists them.
        shards: {"file", "records"} of each data file, in order.
        image_tokenizer: None for text, where no image was encoded.
    """

    kind: Kind
    records: int
    images: int
    sizes: Mapping[str, int]
    rejected: Mapping[str, int]
    shards: Sequence[Mapping[str, Any]]
    image_tokenizer: ImageTokenizerInfo | None

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        write_json(folder / "manifest.json", {"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `manifest.json` of `folder`.

        Raises:
            UserError: there is none, or it is of another format.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"{folder} is no tokenised set (it has no manifest.json): make one with `liquid tokenize`.")
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise UserError(f"{path} is not of format {FORMAT}: tokenise the set again with this version.")
        try:
            info = value.pop("image_tokenizer")
            return cls(**value, image_tokenizer=None if info is None else ImageTokenizerInfo(**info))
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): tokenise the set again.") from error

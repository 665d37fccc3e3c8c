"""A tokenised set on disk: Arrow shards, a manifest, and the list of records left out.

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
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from liquid_mm.data.records import Reject
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

BATCH_ROWS = 1024  # rows of one Arrow record batch: what the writer holds in memory
SHARD_ROWS = 64 * BATCH_ROWS


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


class SetWriter:
    """Write records of one kind into shards of `folder`, and rejects beside them; use as a context manager.

    Memory is bounded by `BATCH_ROWS` records, whatever the size of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kind: Kind | None = None
        self.shards: list[dict[str, Any]] = []
        self.rejected: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._shard: pa.RecordBatchStreamWriter | None = None
        self._rejects = (folder / "rejects.jsonl").open("w", encoding="utf-8")

    @property
    def records(self) -> int:
        """Records written or waiting to be."""
        return sum(int(shard["records"]) for shard in self.shards) + len(self._rows)

    def add(self, kind: Kind, row: dict[str, Any]) -> None:
        """Append a record, given as the columns of its kind (`SCHEMAS`)."""
        assert self.kind in (None, kind), "a set holds records of one kind"
        self.kind = kind
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._flush()

    def reject(self, reject: Reject) -> None:
        """Note a record that is left out."""
        self.rejected[reject.category] = self.rejected.get(reject.category, 0) + 1
        self._rejects.write(json.dumps(dataclasses.asdict(reject), ensure_ascii=False) + "\n")

    def _flush(self) -> None:
        if not self._rows:
            return
        assert self.kind is not None
        schema = SCHEMAS[self.kind]
        if self._shard is None:
            name = f"data-{len(self.shards):05d}.arrow"
            self._shard = pa.ipc.new_stream(str(self.folder / name), schema)
            self.shards.append({"file": name, "records": 0})
        self._shard.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=schema))
        self.shards[-1]["records"] += len(self._rows)
        self._rows = []
        if self.shards[-1]["records"] >= SHARD_ROWS:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def __enter__(self) -> SetWriter:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._flush()
            self._close_shard()
        finally:
            self._rejects.close()


def pack_codes(grid: np.ndarray[Any, Any]) -> list[int]:
    """A (rows, columns) grid as the flat list a shard stores."""
    return grid.astype(np.uint16).reshape(-1).tolist()  # type: ignore[no-any-return]

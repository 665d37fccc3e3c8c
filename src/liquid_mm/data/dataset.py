"""A tokenised set, opened: record number i without reading the rest.

    pairs = TokenizedSet("data/emoji")
    pairs[3]                       TextToImage(text="a red apple", codes=array of shape (8, 8))
    pairs.check(vocabulary)        refuses codes that this model's vocabulary does not speak of

Shards are memory-mapped, so opening costs little memory whatever the size, and ranks on one machine share the pages.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from liquid_mm.data.store import Manifest
from liquid_mm.errors import UserError
from liquid_mm.vocab.records import Chat, Message, Text, TextToImage
from liquid_mm.vocab.vocabulary import Grid, Vocabulary


class TokenizedSet:
    """Random access to the records of a folder written by `tokenize`.

    Args:
        path: the folder.

    Raises:
        UserError: the folder is no tokenised set, or a shard is missing or cut short.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        self._batches = [
            batch for shard in self.manifest.shards for batch in _open(self.path / shard["file"], shard["records"])
        ]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self.manifest.records

    def __getitem__(self, index: int) -> Text | TextToImage | Chat:
        """Record `index` with its answer: a document, a pair (as text to image), or a conversation."""
        batch, row = self._locate(index)
        if self.manifest.kind == "text":
            return Text(batch.column("text")[row].as_py())
        if self.manifest.kind == "pairs":
            codes = batch.column("codes")[row].values.to_numpy()
            grid = codes.reshape(batch.column("rows")[row].as_py(), batch.column("columns")[row].as_py())
            return TextToImage(batch.column("text")[row].as_py(), grid)
        return _chat(batch, row)

    def signature(self) -> dict[str, Any]:
        """What tells it from another set, as JSON values, without reading it all; its folder may move."""
        made = self.manifest.image_tokenizer
        return {
            "records": self.manifest.records,
            "sizes": dict(self.manifest.sizes),
            "bytes": [(self.path / shard["file"]).stat().st_size for shard in self.manifest.shards],
            "image_tokenizer": made and made.fingerprint,
        }

    def id(self, index: int) -> str:
        """The id of record `index`: the source's own, or the place it came from."""
        batch, row = self._locate(index)
        return str(batch.column("id")[row].as_py())

    def codes(self) -> Iterator[NDArray[np.uint16]]:
        """All codes of the set, flat, some thousand records at a time."""
        for batch in self._batches:
            if self.manifest.image_tokenizer is not None:
                column = batch.column("codes")
                while pa.types.is_list(column.type):
                    column = column.flatten()
                yield column.to_numpy()

    def text_lengths(self) -> Iterator[int]:
        """Characters of text in each record, in order."""
        for index in range(len(self)):
            record = self[index]
            if isinstance(record, Chat):
                yield sum(len(part) for m in record.messages for part in m.parts if isinstance(part, str))
            else:
                yield len(record.text)

    def check(self, vocabulary: Vocabulary, fingerprint: str | None = None) -> None:
        """Refuse a set whose codes a model cannot read.

        Args:
            vocabulary: the model's.
            fingerprint: of the model's image tokenizer; None skips that comparison.

        Raises:
            UserError: the codes are of another number, another geometry, or made by another image tokenizer.
        """
        made_by = self.manifest.image_tokenizer
        if made_by is None:
            return
        pairs = {
            "codes": (made_by.num_codes, vocabulary.num_codes),
            "pixels per code": (made_by.downsampling, vocabulary.downsampling),
            "the image tokenizer's fingerprint": (made_by.fingerprint, fingerprint or made_by.fingerprint),
        }
        for name, (here, there) in pairs.items():
            if here != there:
                raise UserError(
                    f"vocabulary mismatch: {self.path} was made with {name} {here}, the model has {there}. "
                    "Tokenise the data again with the image tokenizer of this model."
                )

    def _locate(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.path}, which has {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        batch = self._batches[number]
        return batch, index - self._ends[number] + batch.num_rows


def _open(path: Path, records: int) -> list[pa.RecordBatch]:
    try:
        batches = list(pa.ipc.open_stream(pa.memory_map(str(path))))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read ({error}): tokenise the set again.") from error
    if sum(batch.num_rows for batch in batches) != records:
        raise UserError(f"{path} does not hold the {records} records of the manifest: tokenise the set again.")
    return batches


def _chat(batch: pa.RecordBatch, row: int) -> Chat:
    sides = zip(batch.column("rows")[row].as_py(), batch.column("columns")[row].as_py(), strict=True)
    images = iter(batch.column("codes")[row].as_py())
    grids = iter([np.array(next(images), dtype=np.uint16).reshape(side) for side in sides])

    def part(value: dict[str, str]) -> str | Grid:
        return value["text"] if value["type"] == "text" else next(grids)

    messages = json.loads(batch.column("messages")[row].as_py())
    return Chat(tuple(Message(m["role"], tuple(part(value) for value in m["content"])) for m in messages))

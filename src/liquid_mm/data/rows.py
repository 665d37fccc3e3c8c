"""What the tokenising stage makes of an entry: a row of its kind's columns (`store.SCHEMAS`), ready to be written.

    row(PairEntry("7", …, "a cat", …), (grid of 4×8 codes,), 16)
    Row(where=…, kind="pairs", columns={"id": "7", "text": "a cat", "codes": […], …}, sizes=("128x64",))

Rows hold no pictures, so they are cheap to send from one process to another.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from liquid_mm.data.records import ChatEntry, Entry, ImageRef, PairEntry, TextEntry
from liquid_mm.data.store import Kind
from liquid_mm.vocab.vocabulary import Grid


@dataclasses.dataclass(frozen=True)
class Row:
    """A tokenised record.

    Args:
        where: the record's place in the source.
        kind: "text", "pairs" or "chat".
        columns: its values, by column.
        sizes: "WIDTHxHEIGHT" in pixels of each of its images.
    """

    where: str
    kind: Kind
    columns: dict[str, Any]
    sizes: tuple[str, ...]


def row(entry: Entry, grids: Sequence[Grid], downsampling: int) -> Row:
    """`entry` as a row.

    Args:
        entry: the source record.
        grids: the codes of its images, in order of reading.
        downsampling: pixels per code along each side.
    """
    sizes = tuple(f"{grid.shape[1] * downsampling}x{grid.shape[0] * downsampling}" for grid in grids)
    if isinstance(entry, TextEntry):
        return Row(entry.where, "text", {"id": entry.id, "text": entry.text}, sizes)
    if isinstance(entry, PairEntry):
        (grid,) = grids
        rows, columns = grid.shape
        pair = {"id": entry.id, "text": entry.text, "codes": _flat(grid), "rows": rows, "columns": columns}
        return Row(entry.where, "pairs", pair, sizes)
    return Row(entry.where, "chat", {"id": entry.id, **_chat(entry, grids)}, sizes)


def _chat(entry: ChatEntry, grids: Sequence[Grid]) -> dict[str, Any]:
    messages = [{"role": m.role, "content": [_part(part) for part in m.parts]} for m in entry.messages]
    return {
        "messages": json.dumps(messages, ensure_ascii=False),
        "codes": [_flat(grid) for grid in grids],
        "rows": [grid.shape[0] for grid in grids],
        "columns": [grid.shape[1] for grid in grids],
    }


def _part(part: str | ImageRef) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _flat(grid: Grid) -> list[int]:
    """A (rows, columns) grid as the flat list a shard stores."""
    return grid.astype(np.uint16).reshape(-1).tolist()  # type: ignore[no-any-return]

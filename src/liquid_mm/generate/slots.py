"""Which row holds what: rows are taken by requests, filled, stepped together and given back.

    rows   0 prompt A + 5 codes    1 unconditional + 5 codes    2 prompt B + 9 words  |  3 free   4 free
           `---------------------- live: always the first ones ---------------------´

A row's `ids` are all it is to hold, `filled` how many of them are in the cache. Whatever is missing but the last one is
prefilled; the last one is always fed by the common step, which gives the hidden state that the next id is chosen from.
So a request joins by taking a row, and a stretch of forced codes costs one pass.

What is computed once is copied rather than computed again: before a row is filled, the longest beginning it shares with
any other row is looked for, also among rows given back, which keep what they held until they are overwritten. That
serves several pictures of one prompt, the unconditional prompt, and the next turn of a conversation.

Nothing here touches a device; `Device` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Protocol

WORTH_COPYING = 16
"""Shared beginnings shorter than this are computed with the rest rather than copied first."""

PADDING = 32
"""Up to so many tokens of padding are cheaper than another pass over the weights."""


class Device(Protocol):
    """What carries it out: `runner.Runner`."""

    def forward(self, rows: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int]) -> Any:
        """Append tokens to rows; their last hidden states."""

    def fill(self, rows: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int]) -> Any:
        """Append tokens to rows whose hidden states nobody needs."""

    def copy(self, source: int, target: int, columns: int) -> None:
        """Copy the first `columns` of a row."""

    def clear(self) -> None:
        """Drop what all rows hold."""


@dataclasses.dataclass(eq=False)
class Slot:
    """A live row: its number, the ids it is to hold, and how many of them it does."""

    row: int
    ids: list[int]
    filled: int = 0

    @property
    def held(self) -> list[int]:
        """The ids it holds."""
        return self.ids[: self.filled]

    @property
    def missing(self) -> list[int]:
        """The ids it lacks before the last one, which every step feeds anyway."""
        return self.ids[self.filled : -1]


class Slots:
    """A fixed number of rows.

    Args:
        count: how many.
        device: what computes and copies them.
    """

    def __init__(self, count: int, device: Device) -> None:
        self._device = device
        self._live: list[Slot] = []
        # What each row holds that is not live; for a live one this is empty, as its slot knows.
        self._left: list[list[int]] = [[] for _ in range(count)]
        self._most = count

    @property
    def free(self) -> int:
        """How many more may be taken."""
        return self._most - len(self._live)

    def limit(self, count: int) -> None:
        """Never use more than `count` rows from now on; what they hold must fit already."""
        assert len(self._live) <= count
        self._most = min(self._most, count)

    def take(self, ids: list[int]) -> Slot:
        """A free row that is to hold `ids`; the caller appends to that list as the sequence grows."""
        assert self.free
        row = len(self._live)
        slot = Slot(row, ids, filled=_shared(self._left[row], ids[:-1]))
        self._left[row] = []
        self._live.append(slot)
        return slot

    def release(self, slots: Collection[Slot]) -> None:
        """Give rows back; those that stay move together, so that the live ones are the first again."""
        staying = [slot for slot in self._live if slot not in slots]
        for slot in slots:
            self._left[slot.row] = slot.held
        taken = {slot.row for slot in staying}
        holes = [row for row in range(len(staying)) if row not in taken]
        for row, slot in zip(holes, [slot for slot in staying if slot.row >= len(staying)], strict=True):
            self._device.copy(slot.row, row, slot.filled)
            self._left[slot.row], self._left[row] = slot.held, []
            slot.row = row
        self._live = sorted(staying, key=lambda slot: slot.row)

    def advance(self) -> Any:
        """Bring every live row up to its last id; the hidden states (rows, D) after it."""
        self._fill()
        live = self._live
        hidden = self._device.forward(
            [slot.row for slot in live], [slot.ids[-1:] for slot in live], [len(slot.ids) - 1 for slot in live]
        )
        for slot in live:
            slot.filled = len(slot.ids)
        return hidden

    def clear(self) -> None:
        """Forget everything, as after a failure that may have left rows half written."""
        self._live, self._left = [], [[] for _ in self._left]
        self._device.clear()

    def _fill(self) -> None:
        """Compute or copy what live rows lack before their last id."""
        behind = [slot for slot in self._live if slot.missing]
        first: dict[tuple[int, ...], Slot] = {}
        for slot in behind:
            first.setdefault(tuple(slot.ids[:-1]), slot)
        for slot in first.values():
            self._reuse(slot)
        for group in _alike([slot for slot in first.values() if slot.missing]):
            self._device.fill([s.row for s in group], [s.missing for s in group], [s.filled for s in group])
            for slot in group:
                slot.filled = len(slot.ids) - 1
        for slot in behind:
            if slot.missing:
                self._copy(first[tuple(slot.ids[:-1])].row, slot, len(slot.ids) - 1)

    def _reuse(self, slot: Slot) -> None:
        """Copy the longest beginning of `slot` that another row holds."""
        held = {row: ids for row, ids in enumerate(self._left) if ids}
        held |= {other.row: other.held for other in self._live if other is not slot}
        needed = slot.ids[:-1]
        best, row = max(((_shared(ids, needed), row) for row, ids in held.items()), default=(0, 0))
        if best > slot.filled and (best == len(needed) or best - slot.filled >= WORTH_COPYING):
            self._copy(row, slot, best)

    def _copy(self, row: int, slot: Slot, columns: int) -> None:
        self._device.copy(row, slot.row, columns)
        slot.filled = columns


def _alike(slots: list[Slot]) -> list[list[Slot]]:
    """Slots that lack similarly much together: a pass costs its longest row's tokens for each of its rows."""
    groups: list[list[Slot]] = []
    for slot in sorted(slots, key=lambda slot: -len(slot.missing)):
        longest = len(groups[-1][0].missing) if groups else 0
        if groups and (longest - len(slot.missing) <= PADDING or 2 * len(slot.missing) >= longest):
            groups[-1].append(slot)
        else:
            groups.append([slot])
    return groups


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))

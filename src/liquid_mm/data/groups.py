"""Which records are packed together: a stream cut into groups that double from `FIRST` records to `LARGEST`, then stay.

    group   0      1       2            5             6
    records 0..63  64..191 192..447 …  1984..4031    4032..6079

A group is rendered whole before its first row comes out. Small ones to begin with let a training start at once, large
ones afterwards leave less padding (`packing`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar, overload

FIRST = 64
LARGEST = 2048
"""Records of a group; `LARGEST` is `FIRST` times a power of two."""

T = TypeVar("T")


def start(group: int) -> int:
    """Number of the first record of a group, which is how many the groups before it hold."""
    doublings = (LARGEST // FIRST).bit_length() - 1
    if group <= doublings:
        return FIRST * ((1 << group) - 1)
    return start(doublings) + (group - doublings) * LARGEST


class Groups(Sequence[list[T]]):
    """`records` in groups; the last one holds what is left."""

    def __init__(self, records: Sequence[T]) -> None:
        self._records = records
        length = min(len(records), sys.maxsize - LARGEST)
        self._length = -(-length // LARGEST)  # too few, since the first ones are smaller
        while start(self._length) < length:
            self._length += 1

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> list[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[T]]: ...
    def __getitem__(self, index: int | slice) -> list[T] | list[list[T]]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return [self._records[number] for number in range(start(index), min(start(index + 1), len(self._records)))]

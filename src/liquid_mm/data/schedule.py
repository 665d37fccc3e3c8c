"""Which source gives record number i of a mixture, and which of its records: a pure function of i.

    schedule = Schedule(weights=[3, 1], limits=[None, 2])
    [schedule[i] for i in range(9)]      (0, 0) (0, 1) (0, 2) (1, 0) (0, 3) (0, 4) (0, 5) (1, 1) (0, 6)

Among the first k records every source has its share of k, rounded; where it has given as many as its limit, the others
go on in the proportion of their weights. Nothing is drawn at random: any record is found without those before it.
"""

from __future__ import annotations

import bisect
import dataclasses
import sys
from collections.abc import Sequence

PRECISION = 1000  # the smallest weight counts as this many parts


@dataclasses.dataclass(frozen=True)
class _Phase:
    """A stretch in which the same sources give records.

    Args:
        start: number of its first record.
        given: how many records each source had given before.
        shares: parts of the records each source gives; 0 for one that is used up.
    """

    start: int
    given: tuple[int, ...]
    shares: tuple[int, ...]


class Schedule:
    """The mixture's order; `len` is `sys.maxsize` where a source without limit makes it endless.

    Args:
        weights: shares of records, relative to each other, above 0.
        limits: most records of each source; None for no limit.
    """

    def __init__(self, weights: Sequence[float], limits: Sequence[int | None]) -> None:
        shares = [round(PRECISION * weight / min(weights)) for weight in weights]
        start, given = 0, (0,) * len(shares)
        self._phases: list[_Phase] = []
        self._length = sys.maxsize
        while True:
            left = [None if limit is None else limit - count for limit, count in zip(limits, given, strict=True)]
            now = tuple(0 if rest == 0 else share for rest, share in zip(left, shares, strict=True))
            if not any(now):
                self._length = start
                return
            self._phases.append(_Phase(start, given, now))
            ends = [_when(now, source, rest) for source, rest in enumerate(left) if rest]
            if not ends:
                return
            start += min(ends)
            given = self.given(start)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int]:
        """(source, how many records it has given before) of record `index`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        before, after = self.given(index), self.given(index + 1)
        source = next(number for number, count in enumerate(before) if after[number] > count)
        return source, before[source]

    def given(self, count: int) -> tuple[int, ...]:
        """How many of the first `count` records each source gives."""
        # The phase in which record `count - 1` lies; at the first phase's start there is none.
        number = max(0, bisect.bisect_left(self._phases, count, key=lambda phase: phase.start) - 1)
        phase = self._phases[number]
        return tuple(a + b for a, b in zip(phase.given, _split(count - phase.start, phase.shares), strict=True))


def _split(count: int, shares: Sequence[int]) -> list[int]:
    """`count` records shared out: as `count` grows by one, exactly one source's part does."""
    parts, rest, total = [], count, sum(shares)
    for share in shares:
        after = rest * (total - share) // total if total else 0
        parts.append(rest - after)
        rest, total = after, total - share
    return parts


def _when(shares: Sequence[int], source: int, wanted: int) -> int:
    """The smallest number of records of which `source` gives `wanted`."""
    # Rounding keeps a part within one record of its share for each source.
    enough = (wanted + len(shares)) * sum(shares) // shares[source] + 1
    return bisect.bisect_left(range(enough), wanted, key=lambda count: _split(count, shares)[source])

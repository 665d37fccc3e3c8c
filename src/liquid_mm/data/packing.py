"""Pack examples into rows of one length so that almost nothing is padding.

    plan([90, 600, 424, 40, 34], 1024)        [[1, 2], [0, 3, 4]]

Rows take examples in the order given, which keeps lengths mixed to the end, until up to three of all that are left fill
the rest exactly; those close the row. With a few hundred lengths to choose from there nearly always are such. First-fit
and best-fit see one example at a time, and a row is closed by whatever comes: what remains is about half of the
shortest common length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from liquid_mm.data.examples import NONE, Example


class Row(TypedDict):
    """Several examples one after another, then padding; arrays of shape (T,).

    `segment_ids` count the examples from 1 and are 0 on padding; `positions` restart at each example. `source` and
    `record` say which record of which source a token is from, and are -1 on padding.
    """

    ids: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    positions: NDArray[np.int64]
    segment_ids: NDArray[np.int64]
    modality: NDArray[np.int8]
    source: NDArray[np.int16]
    record: NDArray[np.int64]


class Rows(Sequence[Row]):
    """Packed rows, each made when it is asked for.

    Args:
        examples: what to pack; none longer than `seq_len`.
        seq_len: tokens of a row.
        pad: id of padding.
        rng: shuffles the rows, since those packed last are the emptiest.
    """

    def __init__(self, examples: Sequence[Example], seq_len: int, pad: int, rng: np.random.Generator) -> None:
        self._examples, self._seq_len, self._pad = examples, seq_len, pad
        rows = plan([len(example["ids"]) for example in examples], seq_len)
        self._rows = [rows[number] for number in rng.permutation(len(rows))]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return pack([self._examples[number] for number in self._rows[index]], self._seq_len, self._pad)


def pack(examples: Sequence[Example], seq_len: int, pad: int) -> Row:
    """`examples` one after another in a row of `seq_len` tokens."""
    row = Row(
        ids=np.full(seq_len, pad, np.int64),
        loss_mask=np.zeros(seq_len, np.bool_),
        positions=np.zeros(seq_len, np.int64),
        segment_ids=np.zeros(seq_len, np.int64),
        modality=np.full(seq_len, NONE, np.int8),
        source=np.full(seq_len, -1, np.int16),
        record=np.full(seq_len, -1, np.int64),
    )
    start = 0
    for number, example in enumerate(examples, start=1):
        stop = start + len(example["ids"])
        row["ids"][start:stop] = example["ids"]
        row["loss_mask"][start:stop] = example["loss_mask"]
        row["modality"][start:stop] = example["modality"]
        row["positions"][start:stop] = np.arange(stop - start)
        row["segment_ids"][start:stop] = number
        row["source"][start:stop], row["record"][start:stop] = example["source"], example["record"]
        start = stop
    return row


def plan(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which examples go into which row.

    Args:
        lengths: of the examples, each in [1, capacity].
        capacity: of a row.

    Returns:
        For each row the indices of its examples; every index occurs once.
    """
    pool = _Pool(lengths, capacity)
    rows = []
    while pool:
        gap = capacity
        row: list[int] = []
        while pool and gap >= pool.shortest:
            taken = pool.exact(gap)
            if taken is None:
                # Whatever comes first fits where two of the longest would.
                taken = [pool.first_length] if gap > pool.longest_pair else pool.nearest(gap)
            row += [pool.take(length) for length in taken]
            gap -= sum(taken)
        rows.append(row)
    return rows


class _Pool:
    """Examples not packed yet, by length; of one length the first given is taken first."""

    def __init__(self, lengths: Sequence[int], capacity: int) -> None:
        self._lengths, self._next = lengths, 0
        self._waiting: list[deque[int]] = [deque() for _ in range(capacity + 1)]
        for index, length in enumerate(lengths):
            assert 0 < length <= capacity, f"example {index} of {length} tokens does not fit {capacity}"
            self._waiting[length].append(index)
        self._counts = np.bincount(np.asarray(lengths, np.int64), minlength=capacity + 1)
        self._taken = np.zeros(len(lengths), np.bool_)
        self._left = len(lengths)

    def __bool__(self) -> bool:
        return self._left > 0

    @property
    def shortest(self) -> int:
        return int(self._counts.astype(bool).argmax())

    @property
    def longest_pair(self) -> int:
        """Length of the two longest together, or of the last one."""
        present = np.flatnonzero(self._counts)
        longest = int(present[-1])
        if self._counts[longest] > 1:
            return 2 * longest
        return longest + int(present[-2]) if len(present) > 1 else longest

    @property
    def first_length(self) -> int:
        """Length of the first example left."""
        while self._taken[self._next]:
            self._next += 1
        return self._lengths[self._next]

    def take(self, length: int) -> int:
        """Index of the first example of that length, which is no longer in the pool."""
        index = self._waiting[length].popleft()
        self._counts[length] -= 1
        self._taken[index] = True
        self._left -= 1
        return index

    def exact(self, gap: int) -> list[int] | None:
        """At most three lengths whose sum is `gap`, or None; the first example's is tried before others."""
        found = self._pair(gap)
        if found or gap > 3 * int(np.flatnonzero(self._counts)[-1]):
            return found
        for length in (self.first_length, *np.flatnonzero(self._counts[:gap]).tolist()):
            if length < gap:
                self._counts[length] -= 1
                found = self._pair(gap - length)
                self._counts[length] += 1
                if found:
                    return [length, *found]
        return None

    def nearest(self, gap: int) -> list[int]:
        """The one or two lengths whose sum comes nearest to `gap` from below."""
        return next(found for total in range(gap, 0, -1) if (found := self._pair(total)))

    def _pair(self, total: int) -> list[int] | None:
        """One length or two whose sum is `total`, the longest one of all."""
        if self._counts[total]:
            return [total]
        half = total // 2
        # Entry n speaks of a pair of lengths n + 1 and total - n - 1.
        both = (self._counts[1 : half + 1] > 0) & (self._counts[total - half : total][::-1] > 0)
        if total == 2 * half and self._counts[half] < 2:
            both[half - 1 :] = False
        pairs = np.flatnonzero(both)
        return [total - int(pairs[0]) - 1, int(pairs[0]) + 1] if len(pairs) else None

"""Keys and values of every row, in tensors whose shape does not change from step to step: column = position.

    keys of a layer (rows, heads, columns, dim)      row 0  k0 k1 k2 k3 k4 ·  ·  ·      five tokens so far
                                                     row 1  k0 k1 ·  ·  ·  ·  ·  ·      two

The token at position p of a row is written to column p and sees columns ≤ p of its row. What a row holds further right
is never seen before it is overwritten, so a row needs no clearing when another request takes it over, and what it
still holds of the last one's prompt can be used again. Sliding windows are a matter of the mask (`runner.Masks`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache

BLOCK = 64
"""Attention reads a multiple of this many columns, so that the shapes of a step change seldom."""


class SlotCache(Cache):
    """A transformers cache over a table of rows; `aim` says where the next forward pass writes and what it reads.

    Args:
        max_columns: most positions of a row (the model's context), or None.
    """

    def __init__(self, max_columns: int | None) -> None:
        super().__init__(layers=[])
        self._max_columns = max_columns
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._shape = (0, 0)

    def aim(self, rows: list[int], positions: Tensor, needed: int) -> int:
        """Point at `rows` (R of them), whose next tokens stand at `positions` (R, T), int64 on the model's device.

        Args:
            rows: their numbers.
            positions: all below `needed`, which is given as well so that nobody has to wait for the device.
            needed: columns that attention has to see.

        Returns:
            How many columns it will read: `needed` rounded up.
        """
        self._reserve(max(rows) + 1, needed)
        self._rows = torch.tensor(rows, device=positions.device)
        self._leading = rows == list(range(len(rows)))
        self._positions = positions
        self._read = min(-(-needed // BLOCK) * BLOCK, self._shape[1])
        return self._read

    @property
    def leading(self) -> bool:
        """Whether the rows aimed at are the first ones, in order."""
        return self._leading

    @property
    def addresses(self) -> tuple[int, ...]:
        """Shape of the buffers and where they lie; others after they have grown, none before there are any."""
        places = tuple(buffer.data_ptr() for buffer in (*self._keys, *self._values))
        return (*self._shape, *places) if places else ()

    def hold(self, positions: Tensor) -> Tensor:
        """Take the positions of this pass from a tensor whose memory stays; the other one that has to: the rows."""
        self._positions = positions
        return self._rows

    def copy(self, source: int, target: int, columns: int) -> None:
        """Give row `target` the first `columns` of row `source`."""
        self._reserve(target + 1, columns)
        for buffer in (*self._keys, *self._values):
            buffer[target, :, :columns] = buffer[source, :, :columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (R, heads, T, dim) of a layer; what its attention is to read, each (R, heads, columns, dim)."""
        if layer_idx == len(self._keys):
            for buffers, states in ((self._keys, key_states), (self._values, value_states)):
                rows, columns = self._shape
                # Zeros: a masked column still takes part as 0 · value, which must not be 0 · NaN.
                buffers.append(states.new_zeros(rows, states.shape[1], columns, states.shape[3]))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        return self._write(keys, key_states), self._write(values, value_states)

    def step_of(self, layer: int) -> list[Tensor] | None:
        """What a compiled layer needs for `LayerCache`; None unless it is to read the first rows, in place."""
        if not self._leading or layer >= len(self._keys):
            return None
        return [self._keys[layer], self._values[layer], self._rows, self._positions]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not meaningful where every row has its own length; positions and masks are always given."""
        return 0

    def _write(self, buffer: Tensor, states: Tensor) -> Tensor:
        _put(buffer, states, self._rows, self._positions)
        read = buffer[:, :, : self._read]
        # The rows of an ordinary step are the first ones: they are read in place.
        return read[: len(states)] if self._leading else read[self._rows]

    def _reserve(self, rows: int, columns: int) -> None:
        """Grow to at least so many rows and columns, by powers of two: short work stays cheap, growth is rare."""
        old_rows, old_columns = self._shape
        if rows <= old_rows and columns <= old_columns:
            return
        rows, columns = max(old_rows, _power_of_two(rows)), max(old_columns, _power_of_two(columns), BLOCK)
        if self._max_columns is not None:
            columns = min(columns, self._max_columns)
        more = (0, 0, 0, columns - old_columns, 0, 0, 0, rows - old_rows)
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):  # one at a time, so that only one layer is held twice
                buffers[layer] = functional.pad(buffer, more)
        self._shape = (rows, columns)


class LayerCache:
    """One layer's part of a `SlotCache` as plain tensors, for a layer that is traced.

    Args:
        keys, values: (rows, heads, columns, dim), of at least R rows; written in place.
        rows, positions: (R,) and (R, T), where the R rows of the step are the first ones.
        read: columns that attention sees.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, read: int) -> None:
        self._keys, self._values, self._rows, self._positions, self._read = keys, values, rows, positions, read

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As `SlotCache.update`."""
        _put(self._keys, key_states, self._rows, self._positions)
        _put(self._values, value_states, self._rows, self._positions)
        count = key_states.shape[0]  # len() would fix it where it is traced
        return self._keys[:count, :, : self._read], self._values[:count, :, : self._read]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """As `SlotCache.get_seq_length`."""
        return 0


def _put(buffer: Tensor, states: Tensor, rows: Tensor, positions: Tensor) -> None:
    # Indices (R, 1) and (R, T) around a slice: the assigned shape is (R, T, heads, dim).
    buffer[rows[:, None], :, positions] = states.transpose(1, 2)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()

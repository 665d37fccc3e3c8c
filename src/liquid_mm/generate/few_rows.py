"""Products of a few rows with a weight at the speed of memory, by native/few_rows.c.

A step of generation multiplies two rows, or a few more, with every weight there is. oneDNN's kernels are made for more
rows: on two they read 15 GB/s where 26 are to be had. These read 22, and what a row gives does not depend on the rows
beside it (docs/performance.md).

Where `generate.native` has no library, `generate.packed` uses what PyTorch has.
"""

from __future__ import annotations

import ctypes
import functools
import math
import weakref

import torch
from torch import Tensor
from torch.nn import functional

from liquid_mm.generate.native import library

OUT = 32
"""Outputs of a block, as in the C file."""

MATRIX_UNITS = 64
"""Rows from which on a processor with matrix units (AMX) is faster with them, though the weight is laid out anew for
each product. Guessed; without such units 512 rows were measured and still faster this way. Compiled layers, which are
for steps of one token a row, do not ask."""

BYTES = {torch.float32: 4, torch.bfloat16: 2, torch.int8: 1}
ROWS = (torch.float32, torch.bfloat16)
CHUNK = 32


@functools.cache
def most_rows() -> float:
    """Rows up to which these kernels are the faster ones."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.12
    return MATRIX_UNITS if found.get("amx_tile") else math.inf


def can_hold(weight: Tensor) -> bool:
    """Whether `FewRows` takes a weight (out, in) of float32, bfloat16 or int8 on this machine."""
    return weight.dtype in BYTES and weight.shape[1] % 2 == 0 and library() is not None


class Weight(ctypes.Structure):
    """Where the blocks of a weight lie, for compiled code. It stays in memory when they have gone, and then says so."""

    _fields_ = (
        ("blocks", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("out", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )

    def forget(self) -> None:
        """The blocks have gone."""
        self.blocks = None


_weights: list[Weight] = []


class FewRows:
    """A weight in blocks (a `generate.packed.Kernel`).

    Args:
        weight: (out, in), for which `can_hold` holds.
        scale: (out,) of int8 weights.
        dtype: of the model, if not the weight's.
        result: float32 or bfloat16, if not as the rows.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        dtype: torch.dtype | None = None,
        result: torch.dtype | None = None,
    ) -> None:
        self._out, self._in = weight.shape
        self._dtype, self._result = dtype or weight.dtype, result
        self._scale = None if scale is None else scale.detach().float().contiguous()
        padded = weight.new_zeros(-(-self._out // OUT) * OUT, self._in)
        padded[: self._out] = weight.detach()
        together = 2 if weight.dtype == torch.bfloat16 else 1
        self._blocks = padded.view(-1, OUT, self._in // together, together).transpose(1, 2).contiguous()
        self._places = self._blocks.data_ptr(), None if self._scale is None else self._scale.data_ptr()
        self._sizes = self._in, self._out, BYTES[weight.dtype]
        _weights.append(Weight(*self._places, *self._sizes))
        self.address = ctypes.addressof(_weights[-1])
        # Not at the end of the process, where a thread may still be generating.
        weakref.finalize(self, _weights[-1].forget).atexit = False
        found = library()
        assert found is not None
        self._run = found.few_rows

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `generate.packed.Kernel`."""
        rows, kind, result = x.numel() // self._in, x.dtype, self._result or x.dtype
        if rows > most_rows() or kind not in ROWS:
            return functional.linear(x, self.dense(), bias).to(result)
        x = x.contiguous()
        y = x.new_empty((*x.shape[:-1], self._out), dtype=result)
        types = kind == torch.bfloat16, result == torch.bfloat16
        if self._run(x.data_ptr(), *self._places, y.data_ptr(), rows, *self._sizes, *types, torch.get_num_threads()):
            raise MemoryError(f"no memory for {rows} rows of {self._in} numbers")
        return y if bias is None else y + bias

    def dense(self) -> Tensor:
        """See `generate.packed.Kernel`."""
        weight = self._blocks.transpose(1, 2).reshape(-1, self._in)[: self._out]
        return weight.to(self._dtype) if self._scale is None else (weight * self._scale[:, None]).to(self._dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` of a weight (out, in) as it usually lies: for a head that shares its memory with the embedding.

    By our own kernel where it can, in float32 and so that a row of x (…, in) gives the same whatever rows are beside
    it; otherwise by PyTorch's. Without gradients.
    """
    rows, (out, inputs) = x.numel() // weight.shape[1], weight.shape
    types = x.dtype in ROWS and weight.dtype in ROWS and weight.device.type == "cpu"
    if not types or inputs % CHUNK or not weight.is_contiguous() or rows > most_rows() or (found := library()) is None:
        return functional.linear(x, weight, bias)
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], out), dtype=torch.float32)
    failed = found.few_rows_plain(
        *(x.data_ptr(), weight.data_ptr(), y.data_ptr(), rows, inputs, out),
        *(BYTES[weight.dtype], x.dtype == torch.bfloat16, False, torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for {rows} rows of {inputs} numbers")
    return y if bias is None else y + bias

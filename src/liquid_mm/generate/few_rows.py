"""Products of a few rows with a weight at the speed of memory, by `few_rows.c`.

A step of generation multiplies two rows, or a few more, with every weight there is. oneDNN's kernels are made for more
rows: on two they read 15 GB/s where 26 are to be had. These read 22, and what a row gives does not depend on the rows
beside it (docs/performance.md).

The C file is compiled by gcc when it is first needed, in two seconds, and kept in `vocab.base.cache_dir`. Without gcc,
or on a processor without AVX-512, `library` gives None and `generate.packed` uses what PyTorch has.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from liquid_mm.files import atomic_file
from liquid_mm.vocab.base import cache_dir

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = (
    "-O3",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mfma",
    "-Wno-psabi",
    "-fopenmp",
    "-shared",
    "-fPIC",
)

OUT = 32
"""Outputs of a block, as in the C file."""

MATRIX_UNITS = 64
"""Rows from which on a processor with matrix units (AMX) is faster with them, though the weight is laid out anew for
each product. Guessed; without such units 512 rows were measured and still faster this way."""

BYTES = {torch.float32: 4, torch.bfloat16: 2, torch.int8: 1}
ROWS = (torch.float32, torch.bfloat16)
CHUNK = 32

logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled C file, or None where it cannot be compiled or would not run."""
    gcc = shutil.which("gcc") or shutil.which("g++")
    if sys.platform != "linux" or gcc is None or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return None
    source = SOURCE.read_bytes()
    path = cache_dir() / f"few-rows-{hashlib.sha256(source + ' '.join(FLAGS).encode()).hexdigest()[:16]}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as part:
                command = [gcc, "-x", "c", str(SOURCE), "-o", str(part), *FLAGS]
                subprocess.run(command, check=True, capture_output=True, text=True)
        found = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        logger.warning("generation is slower than it could be, for %s could not be compiled: %s", SOURCE.name, reason)
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    numbers = [size, size, size, number, number, number, number]
    found.few_rows.argtypes = [pointer, pointer, pointer, pointer, *numbers]
    found.few_rows_plain.argtypes = [pointer, pointer, pointer, *numbers]
    return found


@functools.cache
def most_rows() -> float:
    """Rows up to which these kernels are the faster ones."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.12
    return MATRIX_UNITS if found.get("amx_tile") else math.inf


def can_hold(weight: Tensor) -> bool:
    """Whether `FewRows` takes a weight (out, in) of float32, bfloat16 or int8 on this machine."""
    return weight.dtype in BYTES and weight.shape[1] % 2 == 0 and library() is not None


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

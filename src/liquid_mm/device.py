"""Where a model runs and in what numbers, decided by asking the machine rather than by assuming CUDA."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import torch

from liquid_mm.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("int8", "int4")
HARD = 2
"""`omp_pause_hard` of OpenMP 5."""


def pick_device(device: str | torch.device | None) -> torch.device:
    """`device`, or the best there is: CUDA, Metal, CPU.

    Raises:
        UserError: no such device.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}: use 'cpu', 'cuda', 'cuda:1', 'mps', …") from error
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, True):
        raise UserError(f"device {str(chosen)!r} is not available on this machine: leave the device out, or use 'cpu'.")
    return chosen


def default_dtype(device: torch.device) -> torch.dtype:
    """What weights are best held in: bfloat16 where the GPU computes in it, float32 on the CPU."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "mps":
        return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float32
    return torch.float32


def generation_dtype(device: torch.device) -> torch.dtype:
    """As `default_dtype`, but bfloat16 on a CPU with instructions for it: a step reads half the memory."""
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.12
        found = torch.cpu.get_capabilities()
        if found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"):
            return torch.bfloat16
    return default_dtype(device)


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name; None stays None.

    Raises:
        UserError: not one of `DTYPES`.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}: allowed are {', '.join(DTYPES)}.")
    found: torch.dtype = getattr(torch, dtype)
    return found


def quantization_config(name: str, device: torch.device) -> Any:
    """transformers' configuration for weight-only "int8" or "int4": bitsandbytes on CUDA, torchao elsewhere.

    Raises:
        UserError: an unknown name, or the package that does it is not installed.
    """
    from transformers import BitsAndBytesConfig, TorchAoConfig
    from transformers.utils.import_utils import is_bitsandbytes_available, is_torchao_available

    if name not in QUANTIZATIONS:
        raise UserError(f"unknown quantization {name!r}: allowed are {', '.join(QUANTIZATIONS)}.")
    cuda = device.type == "cuda"
    package, there = ("bitsandbytes", is_bitsandbytes_available()) if cuda else ("torchao", is_torchao_available())
    if not there:
        raise UserError(f"quantization on {device.type} needs another package: run `pip install {package}`.")
    if cuda:
        return BitsAndBytesConfig(load_in_8bit=name == "int8", load_in_4bit=name == "int4")
    if name == "int4" and device.type != "cpu":
        raise UserError(f"int4 weights are for CUDA and the CPU: use int8 on {device.type}.")
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8WeightOnlyConfig

    # Groups of 32 weights share a scale: the size that divides every family's layers.
    return TorchAoConfig(Int8WeightOnlyConfig() if name == "int8" else PrototypeInt4WeightOnlyConfig(group_size=32))


def end_helpers() -> None:
    """End the threads that OpenMP keeps to help the calling thread; its next computation starts new ones.

    GNU's OpenMP lets helpers wait awake for the next product only while there are no more of them than processors.
    Where two threads have computed it puts all to sleep, and a step of generation that took 12 ms takes 40.
    """
    with contextlib.suppress(OSError, AttributeError):  # another OpenMP, which has its own rules
        ctypes.CDLL("libgomp.so.1").omp_pause_resource_all(HARD)

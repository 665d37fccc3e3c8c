"""Our own code for the processor: C files beside this one, as one library.

    few_rows.c      products of a few rows with a weight            generate.few_rows
    attention.c     attention, each token on its own                generate.attention
    operations.c    both as compiled layers call them               generate.compiled

They are compiled by gcc when they are first needed, in two seconds, and kept in `vocab.base.cache_dir`. Whoever uses
them has another way where there is no library: without gcc, without AVX-512, elsewhere than on Linux.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from liquid_mm.files import atomic_file
from liquid_mm.vocab.base import cache_dir

SOURCES = [Path(__file__).with_name(name) for name in ("few_rows.c", "attention.c", "operations.c")]
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
    "-Wl,-Bsymbolic",
    f"-L{Path(torch.__file__).parent / 'lib'}",
    "-ltorch_cpu",
)

logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled C files, or None where they cannot be compiled or would not run."""
    gcc = shutil.which("gcc") or shutil.which("g++")
    if sys.platform != "linux" or gcc is None or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return None
    facts = [*(path.read_text(encoding="utf-8") for path in SOURCES), *FLAGS, torch.__version__]
    path = cache_dir() / f"few-rows-{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:16]}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as part:
                command = [gcc, "-x", "c", *map(str, SOURCES), "-o", str(part), *FLAGS]
                subprocess.run(command, check=True, capture_output=True, text=True)
        # Global, for compiled layers look for the operation among all that is loaded.
        found = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        logger.warning("generation is slower than it could be, for its C files could not be compiled: %s", reason)
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    numbers = [*[size] * 3, *[number] * 4]
    found.few_rows.argtypes = [*[pointer] * 4, *numbers]
    found.few_rows_plain.argtypes = [*[pointer] * 3, *numbers]
    found.attend.argtypes = [*[pointer] * 5, *[size] * 6, pointer, ctypes.c_double, number, number]
    return found

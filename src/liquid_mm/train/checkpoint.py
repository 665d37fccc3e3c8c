"""A run's checkpoints: everything needed to go on as if nothing had happened.

    RUN/checkpoints/step-00000500/
        trained.safetensors    the trained parameters, float32 (what is frozen is in the model the run started from)
        state.pt               AdamW's moments, each process's random state, the meter's sums since the last report
        progress.json          {"step": 500, "tokens": …, "data": where the data stand}

A folder is written beside and renamed, so one that exists is complete.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypedDict

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir, read_json, write_json


@dataclasses.dataclass
class Progress:
    """How far a run has come; JSON-serialisable.

    Args:
        step: optimiser steps taken.
        tokens: tokens read, padding not counted.
        data: state of the data iterator.
    """

    step: int = 0
    tokens: int = 0
    data: Any = None


class State(TypedDict):
    """Tensors that are not weights.

    Keys:
        optimizer: its `state_dict`.
        rng: `random_state` of each process, by rank.
        sums: of the meter, over all processes, since the last report.
    """

    optimizer: dict[str, Any]
    rng: list[list[Tensor]]
    sums: Tensor


def save(root: Path, progress: Progress, trained: Mapping[str, Tensor], state: State) -> Path:
    """Write one checkpoint below `root` and return its folder."""
    folder = root / f"step-{progress.step:08d}"
    with atomic_dir(folder, overwrite=True) as part:
        save_file({name: value.detach().contiguous() for name, value in trained.items()}, part / "trained.safetensors")
        torch.save(state, part / "state.pt")
        write_json(part / "progress.json", dataclasses.asdict(progress))
    return folder


def load(folder: Path) -> tuple[Progress, dict[str, Tensor], State]:
    """Read what `save` wrote, tensors on the CPU."""
    try:
        progress = Progress(**read_json(folder / "progress.json"))
        state: State = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        return progress, load_file(folder / "trained.safetensors"), state
    except (OSError, EOFError, RuntimeError, TypeError, UnpicklingError) as error:
        raise UserError(
            f"checkpoint {folder} cannot be read ({type(error).__name__}: {error}): "
            f"remove it to resume from the one before."
        ) from error


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints below `root`, oldest first."""
    return sorted(path for path in root.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def prune(root: Path, keep: int) -> None:
    """Remove all but the latest `keep` checkpoints, and what a killed run left half-written."""
    for path in [*checkpoints(root)[:-keep], *root.glob(".*.part")]:
        shutil.rmtree(path)


def random_state() -> list[Tensor]:
    """This process's random generators: the CPU's, then each GPU's."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def set_random_state(state: list[Tensor]) -> None:
    """Undo every draw since `random_state`."""
    torch.set_rng_state(state[0])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state[1:])

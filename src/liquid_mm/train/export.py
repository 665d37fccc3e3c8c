"""A finished run as a checkpoint folder, and as the small difference to its base that can be shipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from liquid_mm.checkpoint import Checkpoint, save_checkpoint
from liquid_mm.train.adapt import Learner, merge


def export(learner: Learner, base: Checkpoint, run: Path, dtype: torch.dtype) -> None:
    """Write `run/final`, and `run/adapter` if the old weights were frozen.

    Args:
        learner: the trained model; used up.
        base: the checkpoint training started from, for everything but the weights.
        run: run folder.
        dtype: of the weights in `run/final`.
    """
    llm = merge(learner, dtype)
    save_checkpoint(dataclasses.replace(base, llm=llm), run / "final")

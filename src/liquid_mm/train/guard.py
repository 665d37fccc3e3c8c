"""Judges each step before it changes the model: is its loss a number, its gradient finite, its loss no sudden jump?

    guard = Guard(config)
    trouble = guard.judge(progress, loss, norm)      None, or what is wrong

A batch that one skips is gone from the run for good, resumed or not, since steps count whether they were taken or not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from liquid_mm.train.checkpoint import Progress
from liquid_mm.train.config import TrainConfig

WINDOW = 100
"""Steps over which the running mean of the loss reaches back."""

PATIENCE = 10
"""After so many bad steps in a row the model is taken to be broken, and skipping ends."""


class Trouble(NamedTuple):
    """Why a step is not taken; the loss is the mean over its targets, the norm that of the whole gradient."""

    reason: str
    loss: float
    grad_norm: float

    def values(self) -> dict[str, float | None]:
        """The numbers, by name; None for one that is not finite, which JSON does not know."""
        numbers = {"loss": self.loss, "grad_norm": self.grad_norm}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


class Guard:
    """See the module. The running mean is kept in the run's `Progress`, so that a resumed run judges alike."""

    def __init__(self, config: TrainConfig) -> None:
        self._spike = config.spike
        self._in_a_row = 0

    @property
    def hopeless(self) -> bool:
        """Whether so many steps in a row were bad that skipping is no help."""
        return self._in_a_row >= PATIENCE

    def judge(self, progress: Progress, loss: float, norm: float) -> Trouble | None:
        """Look at a step; a good one moves the running mean of the loss."""
        mean = progress.mean_loss
        reason = None
        if not math.isfinite(loss):
            reason = "the loss is not finite"
        elif not math.isfinite(norm):
            reason = "the gradient is not finite"
        elif self._spike is not None and mean is not None and loss > self._spike * mean:
            reason = f"the loss jumped to {loss:.3f}, over {self._spike:g} times its running mean of {mean:.3f},"
        if reason is not None:
            self._in_a_row += 1
            return Trouble(reason, loss, norm)
        self._in_a_row = 0
        progress.mean_loss = loss if mean is None else mean + (loss - mean) / WINDOW
        return None

"""How long an evaluation will take, before it is begun: two batches of each task are done and the second is timed.

A long run compiles the model where that pays, two batches do not, so it may be faster than planned.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from liquid_mm.evaluate.run import Work, load_model


class TaskPlan(NamedTuple):
    """One task: all its examples, how many are done, how many this part of the run has to do, seconds for each."""

    task: str
    examples: int
    done: int
    left: int
    each: float

    @property
    def seconds(self) -> float:
        """For what is left here; scoring by judges comes on top."""
        return self.left * self.each


def plan_work(
    checkpoint: str, work: Sequence[Work], *, device: str | None = None, dtype: str | None = None
) -> list[TaskPlan]:
    """Time a batch of every task that has something left; nothing is kept of it.

    Args:
        checkpoint: a folder, or "demo".
        work: from `run.find_work`.
        device, dtype: as `liquid_mm.load`.

    Raises:
        UserError: the checkpoint is not right.
    """
    model = load_model(checkpoint, device, dtype) if any(each.left for each in work) else None
    plans = []
    for task, context, examples, done, left in work:
        each, size = 0.0, context.batch_size
        if left:
            with tempfile.TemporaryDirectory() as folder:
                aside = dataclasses.replace(context, folder=Path(folder))
                list(task.predict(model, left[:size], aside))  # what is made once is made here
                timed = left[size : 2 * size] or left[:size]
                start = time.perf_counter()
                list(task.predict(model, timed, aside))
                each = (time.perf_counter() - start) / len(timed)
        plans.append(TaskPlan(task.name, len(examples), done, len(left), each))
    return plans

"""AdamW, its parameter groups, and learning-rate schedules as pure functions of the step.

    factor(step, steps, schedule)      what the peak learning rate is multiplied by at `step` = 0 … steps-1

A schedule has no state: a resumed run recomputes the rate from its step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from liquid_mm.train.adapt import Learner
from liquid_mm.train.config import ScheduleConfig, TrainConfig
from liquid_mm.train.shards import held
from liquid_mm.train.tensor import by_mesh


def factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Share of the peak learning rate used by optimiser step `step` of `steps`.

    >>> [factor(step, 10, ScheduleConfig(kind="wsd", warmup=0.2, decay=0.5)) for step in (0, 1, 4, 5, 9)]
    [0.5, 1.0, 1.0, 0.8, 0.0]
    """
    warmup = math.ceil(schedule.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    fall = steps - warmup if schedule.kind == "cosine" else round(schedule.decay * steps)
    done = (step - (steps - fall) + 1) / fall if fall else 0.0
    if done <= 0:
        return 1.0
    left = 0.5 * (1 + math.cos(math.pi * done)) if schedule.kind == "cosine" else 1 - done
    return schedule.min_ratio + (1 - schedule.min_ratio) * left


def make_optimizer(learner: Learner, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what `learner` trains: matrices decay, norms and biases do not, new rows have their own rate."""
    new = {id(parameter) for parameter in learner.new_rows()}
    rest = [parameter for parameter in learner.trained().values() if id(parameter) not in new]
    new_rows_lr = config.new_rows_lr or config.lr
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "peak_lr": config.lr, "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "peak_lr": config.lr, "weight_decay": 0.0},
        {"params": learner.new_rows(), "peak_lr": new_rows_lr, "weight_decay": config.weight_decay},
    ]
    parts = [group | {"params": params} for group in groups for params in by_mesh(group["params"])]
    optimizer = torch.optim.AdamW(parts, betas=config.betas, fused=True)
    _start(optimizer)
    if not new and new_rows_lr != config.lr:
        scale_row_updates(optimizer, learner.tables(), learner.row_ids, new_rows_lr / config.lr)
    return optimizer


def _start(optimizer: torch.optim.AdamW) -> None:
    """Make the optimiser's state now, as its first step would: a checkpoint is then always read into what exists."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to `share` of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak_lr"]


def scale_row_updates(
    optimizer: torch.optim.Optimizer, tables: list[nn.Parameter], row_ids: list[int], ratio: float
) -> None:
    """Give some rows of trained `tables` a learning rate of `ratio` times the rest.

    AdamW's change of a weight, decay included, is proportional to the learning rate, so multiplying the change of a row
    is the same as a rate of its own, which a group of the optimiser cannot express for part of a parameter.
    """
    before: list[Tensor] = []

    def here() -> Iterator[tuple[Tensor, list[int]]]:
        for table in tables:
            local, first = held(table)
            yield local, [row - first for row in row_ids if first <= row < first + len(local)]

    @torch.no_grad()
    def keep(*_: Any) -> None:
        before[:] = [local[rows] for local, rows in here()]

    @torch.no_grad()
    def scale(*_: Any) -> None:
        for (local, rows), old in zip(here(), before, strict=True):
            local[rows] = old + ratio * (local[rows] - old)

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(scale)

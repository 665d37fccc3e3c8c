"""What a study will cost, before it starts: parameters, tokens, FLOPs and time of every cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from rich.table import Table

from liquid_mm.config import changed_keys, load_config
from liquid_mm.errors import UserError
from liquid_mm.scaling.folder import Parameters, finished, parameters, read_metrics
from liquid_mm.scaling.grid import Cell, GridConfig

State = Literal["done", "resume", "new"]

HARMLESS = {"log_every", "save_every", "keep", "sample_every"}
"""Settings of the recipe that may change after a cell has finished: no measurement depends on them."""


class Resolved(NamedTuple):
    """A cell, what `liquid train RECIPE` is told besides, and the recipe that makes."""

    cell: Cell
    overrides: list[str]
    config: Any


@dataclasses.dataclass(frozen=True)
class Job:
    """One cell with its cost.

    Attributes:
        cell: which.
        overrides: of the recipe, for `liquid train`.
        state: finished, begun or new.
        parameters: of its model.
        tokens: read at most; padding at the end of rows is included.
        seconds: expected.
        measured: whether a run of this size told the speed; otherwise it is the grid's guess.
    """

    cell: Cell
    overrides: list[str]
    state: State
    parameters: Parameters
    tokens: int
    seconds: float
    measured: bool

    @property
    def flops(self) -> float:
        """Of its training."""
        return self.parameters.flops(self.tokens)


def resolve(grid: GridConfig, chosen: Sequence[Cell], recipe: type[BaseModel]) -> list[Resolved]:
    """Every cell's recipe, so that a mistake in any of them stops the study before it starts.

    Args:
        grid: the study.
        chosen: its cells.
        recipe: the type of a training recipe.

    Raises:
        UserError: a cell's recipe is not valid, or a finished cell was trained with other settings.
    """
    shared: Any = load_config(recipe, grid.recipe)
    result = []
    for cell in chosen:
        overrides = cell.overrides(grid, shared.steps)
        config = load_config(recipe, grid.recipe, overrides)
        run = cell.run(grid)
        if finished(run):
            keys = changed_keys(load_config(recipe, run / "config.yaml"), config)
            changed = [key for key in keys if key.split(".")[0] not in HARMLESS]
            if changed:
                raise UserError(
                    f"{run} was finished with other settings ({', '.join(changed)}): one study has one recipe. "
                    "Choose another output, put the settings back, or remove that folder to train the cell again."
                )
        result.append(Resolved(cell, overrides, config))
    return result


def plan(grid: GridConfig, resolved: Sequence[Resolved]) -> list[Job]:
    """The cells with their costs; their models must exist."""
    speeds = _measured_speeds(grid, [cell for cell, _, _ in resolved])
    jobs = []
    for cell, overrides, config in resolved:
        batches = config.steps * config.grad_accum
        tokens = batches * config.data.batch_size * config.data.seq_len
        size = parameters(grid.output / "models" / cell.model)
        speed = speeds.get(cell.size)
        guess = size.flops(tokens) / grid.speed.flops + batches * grid.speed.step_seconds
        jobs.append(
            Job(
                cell=cell,
                overrides=overrides,
                state=_state(cell.run(grid)),
                parameters=size,
                tokens=tokens,
                seconds=grid.speed.start_seconds + (tokens / speed if speed else guess),
                measured=speed is not None,
            )
        )
    return jobs


def table(jobs: Sequence[Job], parallel: int = 1) -> Table:
    """The plan for people."""
    left = [job for job in jobs if job.state != "done"]
    seconds = sum(job.seconds for job in left) / parallel
    result = Table(
        title=f"{len(jobs)} cells, {len(jobs) - len(left)} done; {sum(job.flops for job in left):.2e} FLOPs to go, "
        f"some {hours(seconds)}{f', {parallel} at a time' if parallel > 1 else ''}",
        caption="Times with ~ are guessed from the grid's `speed`, the others from runs of the same size.",
    )
    for name in ("cell", "parameters", "+ head", "tokens ≤", "FLOPs", "time", "state"):
        result.add_column(name, justify="left" if name in ("cell", "state") else "right")
    for job in jobs:
        result.add_row(
            job.cell.name,
            f"{job.parameters.body:,}",
            f"{job.parameters.head:,}",
            f"{job.tokens:,}",
            f"{job.flops:.2e}",
            ("" if job.measured else "~") + hours(job.seconds),
            job.state,
        )
    return result


def hours(seconds: float) -> str:
    """A length of time for people.

    >>> hours(5430)
    "1 h 31 min"
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _state(run: Path) -> State:
    if finished(run):
        return "done"
    return "resume" if (run / "checkpoints").is_dir() else "new"


def _measured_speeds(grid: GridConfig, chosen: Sequence[Cell]) -> dict[str, float]:
    """Tokens per second by size, from whatever cells of that size have reported."""
    seen: dict[str, list[float]] = {}
    for cell in chosen:
        for line in read_metrics(cell.run(grid)):
            if line["kind"] == "train":
                seen.setdefault(cell.size, []).append(line["tokens_per_second"])
    return {size: median(values) for size, values in seen.items()}

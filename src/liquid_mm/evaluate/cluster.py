"""Predictions by many machines: the same tasks as in one process, run by Ray Data.

    windows of examples -> one actor per GPU: Task.predict into a folder of its own -> predictions and pictures

Only the calling process writes, as windows come back: pictures first, then the lines of predictions.jsonl. So a killed
run goes on as any other, here or on the cluster, and Ray runs again what a lost actor had not finished. The checkpoint
and the pictures that are asked about must be readable on every machine; what is written comes back through Ray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from liquid_mm.cluster import available, spread
from liquid_mm.evaluate.protocol import Context, Example, Prediction
from liquid_mm.files import atomic_file

WINDOWS_PER_WORKER = 16
"""A task is cut so that each actor gets about so many parts: many enough that all end together, few enough that a part
fills batches."""


class Done(NamedTuple):
    """What one window gave: predictions of a task, and the files they name, by path in the task's folder."""

    task: str
    predictions: list[Prediction]
    files: dict[str, bytes]

    def save_files(self, folder: Path) -> None:
        """Write the files into the task's folder."""
        for name, content in self.files.items():
            with atomic_file(folder / name) as part:
                part.write_bytes(content)


def predict_on_ray(
    checkpoint: str,
    todo: Mapping[str, tuple[Context, Sequence[Example]]],
    *,
    workers: int | None = None,
    dtype: str | None = None,
) -> Iterator[Done]:
    """The predictions of every example, a window at a time, in no particular order.

    Args:
        checkpoint: a folder that every machine can read, or "demo".
        todo: by name of the task, where it runs and what is still to be done.
        workers: actors, each with the model; None takes one for each GPU of the cluster, or for each machine
            if there is no GPU.
        dtype: as `liquid_mm.load`.

    Raises:
        UserError: Ray is not installed.
    """
    if not todo:
        return iter(())
    actors = available(workers).actors
    items = [
        (name, replace(context, folder=Path()), window)
        for name, (context, examples) in todo.items()
        for window in windows(examples, actors, context.batch_size)
    ]
    # Another machine's working directory is another one.
    place = checkpoint if checkpoint == "demo" else str(Path(checkpoint).absolute())
    return spread(items, _Worker, (place, dtype), workers=workers)


def windows(examples: Sequence[Example], workers: int, batch_size: int) -> list[Sequence[Example]]:
    """`examples` in parts of whole batches, about `WINDOWS_PER_WORKER` for each actor."""
    batches = -(-len(examples) // batch_size)
    length = batch_size * max(1, batches // (workers * WINDOWS_PER_WORKER))
    return [examples[start : start + length] for start in range(0, len(examples), length)]


class _Worker:
    """An actor: the model, on the device this actor was given."""

    def __init__(self, checkpoint: str, dtype: str | None) -> None:
        from liquid_mm.generate.model import load

        self.model = load(checkpoint, dtype=dtype)

    def __call__(self, item: tuple[str, Context, Sequence[Example]]) -> Done:
        """Predict a window of a task."""
        from liquid_mm.evaluate.registry import TASKS

        name, context, examples = item
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            predictions = list(TASKS[name].predict(self.model, examples, replace(context, folder=folder)))
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return Done(name, predictions, files)

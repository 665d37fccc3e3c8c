"""Predictions by many machines: the same tasks as in one process, run by Ray Data.

    windows of examples -> one actor per GPU: Task.predict into a folder of its own -> predictions and pictures

Only the calling process writes, as windows come back: pictures first, then the lines of predictions.jsonl. So a killed
run goes on as any other, here or on the cluster, and Ray runs again what a lost actor had not finished. The checkpoint
and the pictures that are asked about must be readable on every machine; what is written comes back through Ray.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from liquid_mm.errors import UserError
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
        workers: actors, each with the model; None takes one for each GPU of the cluster, or one where there is none.
        dtype: as `liquid_mm.load`.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("a cluster needs Ray: run `pip install 'liquid-mm[cluster]'`.") from error
    if not ray.is_initialized():
        ray.init()  # joins the cluster of this machine or of RAY_ADDRESS, otherwise starts one here
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = workers or gpus or 1  # without a GPU one model takes all of a machine's cores
    items = [
        {"window": pickle.dumps((name, replace(context, folder=Path()), window))}
        for name, (context, examples) in todo.items()
        for window in windows(examples, workers, context.batch_size)
    ]
    if not items:
        return
    found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        fn_constructor_args=(checkpoint, dtype),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else 1,
    )
    tables: Iterable[Any] = found.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        for item in table.column("done").to_pylist():
            yield Done(*pickle.loads(item))


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

    def __call__(self, batch: pa.Table) -> pa.Table:
        done = [pickle.dumps(tuple(self._predict(*pickle.loads(item)))) for item in batch.column("window").to_pylist()]
        return pa.table({"done": pa.array(done, pa.large_binary())})

    def _predict(self, name: str, context: Context, examples: Sequence[Example]) -> Done:
        from liquid_mm.evaluate.registry import TASKS

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            predictions = list(TASKS[name].predict(self.model, examples, replace(context, folder=folder)))
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return Done(name, predictions, files)

"""Tokenising on many machines: the same stage as in one process, run by Ray Data.

    pieces -> tasks read windows of entries -> one actor per GPU: Stage -> rows, in the order of the source

Ray moves the work to where there is room, and runs again what a lost task or actor had not finished; rows come back in
order, so the one writer in the calling process makes the same set as without a cluster, resumable in the same way.
Image paths must be readable on every machine: use addresses (`s3://…`) or a shared file system.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from liquid_mm.cluster import join
from liquid_mm.data.records import Entry, Reject
from liquid_mm.data.rows import Row
from liquid_mm.data.sources import Piece, Position, entries
from liquid_mm.device import pick_device
from liquid_mm.errors import UserError

SCHEMA = pa.schema([("piece", pa.int64()), ("record", pa.int64()), ("item", pa.binary())])


class Stage(Protocol):
    """`tokenize.Stage`, which knows of images what this module need not."""

    def __call__(self, found: Sequence[Entry | Reject]) -> list[Row | Reject]:
        """The rows of `found`, in order."""

    def to(self, device: Any) -> Stage:
        """Move to a device; return self."""


def run_on_ray(
    parts: Sequence[Piece], start: Position, stage: Stage, window: int, workers: int | None
) -> Iterator[tuple[Position, Row | Reject]]:
    """The rows of all records from `start` on, in order, each with the position behind it.

    Args:
        parts: the source's pieces; each is read by one task.
        start: where to begin.
        stage: what the actors run; it is sent to each of them.
        window: records an actor gets at a time.
        workers: actors; None takes one for each GPU of the cluster, or for each CPU if there is no GPU.

    Raises:
        UserError: Ray is not installed, or the source cannot be sent to other processes.
    """
    ray = join()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = workers or gpus or int(ray.cluster_resources()["CPU"])
    tasks = [
        {"number": number, "skip": start.record if number == start.piece else 0, "piece": _packed(parts[number])}
        for number in range(start.piece, len(parts))
    ]
    rows = (
        ray.data.from_items(tasks, override_num_blocks=len(tasks))
        .map_batches(_reader(window), batch_size=1, batch_format="pyarrow")
        .map_batches(
            _Worker,
            fn_constructor_args=(stage,),
            batch_size=window,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else 1,
        )
    )
    tables: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        for row in table.to_pylist():
            yield Position(row["piece"], row["record"]), pickle.loads(row["item"])


def _reader(window: int) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """A task that reads pieces, a window of entries at a time."""

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for task in batch.to_pylist():
            found = entries([pickle.loads(task["piece"])], Position(0, task["skip"]))
            rows: list[tuple[int, int, bytes]] = []
            for (_, record), entry in found:
                rows.append((task["number"], record, pickle.dumps(entry)))
                if len(rows) == window:
                    yield _table(rows)
                    rows = []
            yield _table(rows)

    return read


class _Worker:
    """An actor: the stage, on the device this actor was given."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage.to(pick_device(None))

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = [pickle.loads(item) for item in batch.column("item").to_pylist()]
        items = pa.array([pickle.dumps(item) for item in self.stage(found)], pa.binary())
        return batch.select(SCHEMA.names).set_column(2, "item", items)


def _table(rows: list[tuple[int, int, bytes]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


def _packed(piece: Piece) -> bytes:
    try:
        return pickle.dumps(piece)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise UserError(f"{piece.name} cannot be sent to other processes: give a path or a list instead.") from error

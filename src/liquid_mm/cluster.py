"""Ray, as every command uses it that spreads its work over machines.

    for result in spread([1, 2, 3], Square, ()):     # Square() on each actor, one for each GPU; then Square()(1), …
        ...                                          # results as they come, each once, whichever actor dies meanwhile

Ray Data moves the items to actors that have room, starts an actor that died anew and runs again what it had not
finished. An item comes back whole or not at all: were parts of it handed on early, running it again could repeat them.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from liquid_mm.errors import UserError


def join() -> Any:
    """The module `ray`, connected to the cluster of this machine or of RAY_ADDRESS, otherwise to one started here.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("a cluster needs Ray: run `pip install 'liquid-mm[cluster]'`.") from error
    # Nothing is to be reported to anybody unless the user wants that.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    # Ray gives up when nothing was finished for half an hour; a large model without a GPU may well take longer.
    context.execution_no_progress_timeout_s = -1
    return ray


class Share(NamedTuple):
    """How many actors there are, and what each takes: keyword arguments for Ray."""

    actors: int
    resources: dict[str, float]


def share(machines: Sequence[dict[str, float]], workers: int | None = None) -> Share:
    """One actor for each GPU, or for each machine if none has one, or `workers`.

    Without GPUs they divide the processors: Ray lets an actor compute with as many threads as it takes processors.

    Args:
        machines: the resources of each, as Ray names them ("CPU", "GPU").
        workers: how many actors instead.
    """
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    if gpus:
        return Share(workers or gpus, {"num_gpus": 1})
    processors = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]
    actors = workers or len(processors)
    each = -(-actors // len(processors))
    return Share(actors, {"num_cpus": max(1, min(processors) // each)})


def available(workers: int | None = None) -> Share:
    """`share` of the cluster there is.

    Raises:
        UserError: Ray is not installed.
    """
    return share([node["Resources"] for node in join().nodes() if node["Alive"]], workers)


def spread(
    items: Iterable[Any], worker: type, arguments: tuple[Any, ...], *, workers: int | None = None
) -> Iterator[Any]:
    """`worker(*arguments)(item)` for each item, as they are finished, in no particular order.

    Args:
        items: what can be pickled.
        worker: a class whose instances are called with an item, on the device that the actor was given.
        arguments: of its constructor.
        workers: how many actors; None takes one for each GPU of the cluster, or for each machine if there is no GPU.

    Raises:
        UserError: `worker` raised it, or Ray is not installed.
    """
    rows = [{"item": pickle.dumps(item)} for item in items]
    if not rows:
        return
    ray = join()
    actors, resources = available(workers)
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(worker, arguments),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
        **resources,
    )
    # With batches fetched ahead, a result would be held back until there is another one.
    for table in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for item in table.column("item").to_pylist():
            result = pickle.loads(item)
            if isinstance(result, UserError):
                raise result
            yield result


class _Actor:
    """Rows of pickled items in, rows of pickled results out; a `UserError` is a result too."""

    def __init__(self, worker: type, arguments: tuple[Any, ...]) -> None:
        self._worker = _attempt(worker, *arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = [pickle.dumps(self._result(pickle.loads(item))) for item in batch.column("item").to_pylist()]
        return pa.table({"item": pa.array(results, pa.large_binary())})

    def _result(self, item: Any) -> Any:
        return self._worker if isinstance(self._worker, UserError) else _attempt(self._worker, item)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, or its `UserError`: raised here, it would arrive inside Ray's report of where."""
    try:
        return function(*arguments)
    except UserError as error:
        return error

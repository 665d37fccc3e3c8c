"""What the benchmarks share: measures taken by turns, and a table that is shown as it comes and kept as JSON.

table = Table(path_or_none)
table.add(Row("drawing", 12.0, 36.0, 3.0, "ms/step"))      printed; [{case, ours, baseline, ratio, …}] in the file
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Row:
    """One line; `ours` and `baseline` in `unit`, `ratio` above 1 where ours is better, None where nothing is compared.

    `floor_fraction` is the share of what the machine could do at best.
    """

    case: str
    ours: float
    baseline: float | None
    ratio: float | None
    unit: str
    floor_fraction: float | None = None


class Table:
    """Rows, each printed and written at once: what a time limit cuts off has been seen."""

    def __init__(self, path: Path | None) -> None:
        self.rows: list[Row] = []
        self._path = path
        print(f"{'case':48} {'ours':>11} {'baseline':>11} {'ratio':>6} {'floor':>6}")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        baseline, ratio = (f"{value:,.2f}" if value is not None else "" for value in (row.baseline, row.ratio))
        floor = f"{row.floor_fraction:.0%}" if row.floor_fraction else ""
        print(f"{row.case:48} {row.ours:11,.2f} {baseline:>11} {ratio:>6} {floor:>6} {row.unit}", flush=True)
        if self._path:
            self._path.write_text(json.dumps([dataclasses.asdict(row) for row in self.rows], indent=2) + "\n")


def by_turns(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure, taken in turns."""
    taken = [[measure() for measure in measures] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*taken, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """That it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

"""How sure a number is: Wilson's interval for shares, the bootstrap for everything else (both at 95 %).

    wilson(3, 10)                         (0.11, 0.60)
    bootstrap(table, statistic)           {"f1": (low, high), …}

Resampling takes whole units: rows of one picture or question that stand or fall together are drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from liquid_mm.evaluate.protocol import Table, Value

Interval = tuple[float, float]
Summary = Callable[[Table], dict[str, Value]]

Z95 = 1.959963984540054
RESAMPLES = 1000


def wilson(successes: float, n: int) -> Interval:
    """Wilson's 95 % interval for a share of `n` trials (E. B. Wilson, JASA 1927); sound at 0 and n too."""
    share = successes / n
    centre = share + Z95**2 / (2 * n)
    margin = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def resamples(table: Table, unit: str | None, times: int, seed: int) -> list[NDArray[np.int64]]:
    """Row numbers of `times` bootstrap samples of `table`: as many units as it has, drawn with replacement."""
    rng = np.random.default_rng(seed)
    rows = len(next(iter(table.values())))
    if unit is None:
        return [rng.integers(rows, size=rows) for _ in range(times)]
    _, group = np.unique(table[unit], return_inverse=True)
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    members = np.split(order, np.cumsum(sizes)[:-1])
    return [np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(times)]


def bootstrap(
    table: Table, statistic: Summary, unit: str | None = None, *, times: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of every value `statistic` gives (B. Efron, 1979)."""
    draws = [_numbers(statistic(_take(table, rows))) for rows in resamples(table, unit, times, seed)]
    return {name: _percentiles([draw.get(name, math.nan) for draw in draws]) for name in statistic(table)}


def bootstrap_difference(
    first: Table, second: Table, statistic: Summary, unit: str | None = None, *, times: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, Interval]]:
    """Value of `second` minus value of `first`, with its interval.

    Tables over the same `id`s are resampled together, which takes the difficulty of examples out of the difference;
    the comparison is over the examples both have.
    """
    first, second = _common(first, second)
    before, after = _numbers(statistic(first)), _numbers(statistic(second))
    draws = [
        (_numbers(statistic(_take(first, rows))), _numbers(statistic(_take(second, rows))))
        for rows in resamples(first, unit, times, seed)
    ]
    return {
        name: (
            after[name] - before[name],
            _percentiles([b.get(name, math.nan) - a.get(name, math.nan) for a, b in draws]),
        )
        for name in before
    }


def interval(value: Value, fallback: Interval) -> Interval:
    """Wilson's interval for a share, `fallback` for anything else."""
    if not (value.binary and value.n):
        return fallback
    low, high = wilson(value.value / value.scale * value.n, value.n)
    return low * value.scale, high * value.scale


def _take(table: Table, rows: NDArray[np.int64]) -> Table:
    return {name: column[rows] for name, column in table.items()}


def _common(first: Table, second: Table) -> tuple[Table, Table]:
    ids, here, there = np.intersect1d(first["id"], second["id"], return_indices=True)
    assert len(ids), "the caller compares runs that share examples"
    return _take(first, here), _take(second, there)


def _numbers(values: dict[str, Value]) -> dict[str, float]:
    return {name: value.value for name, value in values.items()}


def _percentiles(draws: list[float]) -> Interval:
    # A resample may lack a whole category; its value is then undefined and says nothing.
    known = np.asarray([draw for draw in draws if not math.isnan(draw)])
    if not known.size:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)

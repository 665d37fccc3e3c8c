"""The paper's claims as yes/no questions, answered by intervals: pure functions of arrays.

A claim says that some number is below zero: a slope, a cost, a difference. It holds ("yes") if the whole 95 % interval
is, and not otherwise ("no"); with too few runs for an interval it is "untested". p is one-sided and of one question
alone: nobody corrects it for the number of questions asked.

    shrinks = slope(np.log10(parameters), cost)
    verdict("cost-shrinks", "Does …?", shrinks)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL = 0.95

Answer = Literal["yes", "no", "untested"]
Relation = Literal["=", ">", "<"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and the p-value of its not being below zero; of `n` runs or pairs."""

    value: float
    low: float
    high: float
    p: float
    n: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An answered question.

    Attributes:
        claim: short name.
        question: a yes/no question, "yes" being what the paper found.
        answer: by the rule above.
        evidence: a sentence with the numbers.
        estimate: the number the answer rests on.
    """

    claim: str
    question: str
    answer: Answer
    evidence: str
    estimate: Estimate | None = None


def mean(values: ArrayLike) -> Estimate | None:
    """The mean of independent values (n,) by Student's t; None for fewer than two."""
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n < 2:
        return None
    centre, error = float(array.mean()), float(array.std(ddof=1) / math.sqrt(n))
    return _estimate(centre, error, n - 1, n)


def slope(x: ArrayLike, y: ArrayLike) -> Estimate | None:
    """The slope of y on x by least squares; None for fewer than three points or two different x."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 3 or len(np.unique(x)) < 2:
        return None
    line = stats.linregress(x, y)
    return _estimate(float(line.slope), float(line.stderr), len(x) - 2, len(x))


def _estimate(value: float, error: float, freedom: int, n: int) -> Estimate:
    if error == 0:  # no spread at all, as in a noise-free simulation
        return Estimate(value, value, value, 0.0 if value < 0 else 1.0, n)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Estimate(value, value - margin, value + margin, float(stats.t.cdf(value / error, freedom)), n)


def negated(estimate: Estimate | None) -> Estimate | None:
    """For a claim that a number is above zero."""
    if estimate is None:
        return None
    return Estimate(-estimate.value, -estimate.high, -estimate.low, 1 - estimate.p, estimate.n)


def verdict(claim: str, question: str, estimate: Estimate | None, unit: str, needs: str) -> Verdict:
    """The answer to whether `estimate` is below zero.

    Args:
        claim, question: as in `Verdict`.
        estimate: None if there were too few runs.
        unit: of the estimate, for the evidence.
        needs: which runs the question takes, for an untested one.
    """
    if estimate is None:
        return Verdict(claim, question, "untested", f"It takes {needs}.")
    e = estimate
    text = f"{e.value:+.4g} {unit} [{e.low:+.4g}, {e.high:+.4g}], p = {e.p:.2g}, n = {e.n}."
    return Verdict(claim, question, "yes" if e.high < 0 else "no", text, e)


def compute_factor(
    start: tuple[ArrayLike, ArrayLike], reference: tuple[ArrayLike, ArrayLike]
) -> tuple[float, Relation] | None:
    """How many times the compute of `start` it takes `reference` to reach the same loss.

    Both are learning curves, (FLOPs, loss), oldest first, of models of one size on the same data. They are compared at
    the worse of their final losses, which both reach; between measurements the loss is taken as linear in log FLOPs.

    Returns:
        The factor and how the true one relates to it: ">" where `start` was better already at its first measurement, so
        that it can only be said to have come to that loss by then; "<" the other way round. None for fewer than two
        measurements of either.
    """
    (x, y), (u, v) = ((np.log(np.asarray(a)), np.minimum.accumulate(np.asarray(b))) for a, b in (start, reference))
    if min(len(x), len(u)) < 2:
        return None
    goal = max(float(y[-1]), float(v[-1]))
    relation: Relation = ">" if y[0] < goal else "<" if v[0] < goal else "="
    return float(np.exp(_crossing(u, v, goal) - _crossing(x, y, goal))), relation


def _crossing(x: Floats, falling: Floats, goal: float) -> float:
    """Where a falling curve comes down to `goal`; its first point if that lies below."""
    at = int(np.argmax(falling <= goal))
    if at == 0:
        return float(x[0])
    drop = falling[at - 1] - falling[at]
    return float(x[at - 1] + (x[at] - x[at - 1]) * (falling[at - 1] - goal) / drop)

"""Power laws with a floor, fitted to losses: pure functions of arrays.

One form covers all four laws: L(N), L(D) and L(C) have one variable, L(N, D) has two.

    L(x) = E + Σ_j A_j / x_j^α_j

    law = fit_law(x, loss)                      # x (n, m), loss (n,)
    law(x)                                      # predictions (n,)
    draws = bootstrap(law, x, loss, seed=0)     # refitted laws
    interval([d.exponents[0] for d in draws], law.exponents[0], freedom=len(loss) - 3)   # 95 %

Method: Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3 and appendix D.2): the Huber loss (δ = 1e-3) of
log L - log L̂, with log L̂ a log-sum-exp, minimised by L-BFGS from many starts. As Besiroglu et al. 2024 found when
they repeated it (arXiv 2404.10102), the objective must not be tiny, or the optimiser takes its first point for
a solution: here it is a sum over residuals in units of δ.

Legend: n runs, m variables, k = 1 + 2m parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.stats import norm, t

from liquid_mm.errors import UserError

Floats = NDArray[np.float64]

DELTA = 1e-3
"""Where the Huber loss turns from squares to absolute values, in log loss."""

STAGES = (1e-1, 1e-2, DELTA)
"""Values of δ on the way there: at 1e-3 most residuals lie on the kinked part, where a descent from afar gets stuck."""

FINALISTS = 4
"""Starts that are followed beyond the first stage."""

EXPONENTS = (0.1, 0.3, 0.6, 1.0, 1.6)
FLOORS = (0.2, 0.6, 0.9)
"""Starts: every combination of exponents with a floor at these shares of the lowest loss."""

APART = 1.1
"""Scales closer than this factor count as one: runs of one length read slightly different numbers of tokens."""

BOUNDS = (0.0, 4.0)
"""Of an exponent. One at a bound means that the data do not determine it."""


@dataclasses.dataclass(frozen=True)
class Law:
    """`floor + Σ_j coefficients[j] / x[:, j] ** exponents[j]`; the floor is E, the loss that no scale removes."""

    floor: float
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]

    def __call__(self, x: ArrayLike) -> Floats:
        """Losses (n,) at `x` (n, m); (n,) will do for one variable."""
        terms = np.array(self.coefficients) * _columns(x) ** -np.array(self.exponents)
        return self.floor + np.asarray(terms.sum(1), dtype=np.float64)


def fit_law(x: ArrayLike, loss: ArrayLike, *, starts: Sequence[Law] = ()) -> Law:
    """The law that fits best, over many starts.

    Args:
        x: positive scales, (n, m) or (n,): parameters, tokens or FLOPs.
        loss: positive losses, (n,).
        starts: laws to start from instead of the default grid (bootstrap refits start from the fit itself).

    Raises:
        UserError: too few runs or too few different scales for the parameters; the message names the number needed.
    """
    x, loss = _columns(x), np.asarray(loss, dtype=np.float64)
    check_points(x)
    centre = np.log(x).mean(0)
    u, target = np.log(x) - centre, np.log(loss)
    points = [_parameters(law, centre) for law in starts] or _grid(loss, x.shape[1])
    for delta in STAGES:
        found = [_descend(point, u, target, delta) for point in points]
        points = [point for _, point in sorted(found, key=lambda pair: pair[0])[:FINALISTS]]
    m, best = x.shape[1], points[0]
    exponents = best[1 + m :]
    return Law(
        floor=float(np.exp(best[0])),
        coefficients=tuple(np.exp(best[1 : 1 + m] + exponents * centre).tolist()),
        exponents=tuple(exponents.tolist()),
    )


def check_points(x: Floats) -> None:
    """Raise a `UserError` unless the runs at `x` (n, m) determine a law and leave at least one run to contradict it."""
    n, m = x.shape
    needed = 2 + 2 * m
    if n < needed:
        raise UserError(f"a power law in {m} variable(s) needs at least {needed} points, there are {n}.")
    different = 4 if m == 1 else 3
    for j in range(m):
        found = 1 + int((np.diff(np.log(np.sort(x[:, j]))) > math.log(APART)).sum())
        if found < different:
            raise UserError(
                f"a power law in {m} variable(s) needs at least {different} different values of each, "
                f"there are {found} of variable {j + 1}."
            )


def bootstrap(law: Law, x: ArrayLike, loss: ArrayLike, *, draws: int = 400, seed: int = 0) -> list[Law]:
    """Refits of `law` to losses redrawn around it: the scales are ours and fixed, the deviations are what is random.

    Log losses deviate normally, with the residuals' own variance over n-k degrees of freedom. Drawing from the
    residuals themselves would be too kind: a fit of absolute deviations passes exactly through some k of its points.

    Args:
        law: the fit to `x` and `loss`.
        x, loss: as in `fit_law`.
        draws: refits.
        seed: of the deviations.
    """
    x = _columns(x)
    n, k = len(x), 1 + 2 * x.shape[1]
    rng = np.random.default_rng(seed)
    predicted = np.log(law(x))
    deviation = np.sqrt(((np.log(loss) - predicted) ** 2).sum() / (n - k))
    noise = deviation * rng.standard_normal((draws, n))
    return [fit_law(x, np.exp(predicted + row), starts=[law]) for row in noise]


def interval(draws: ArrayLike, estimate: float, freedom: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap `draws`, widened from normal to Student's t for the degrees of freedom left.

    With few runs their scatter itself is known badly. In 40 simulated studies of five runs the percentile intervals
    held exponent and floor in 31 and 32 cases, the widened ones in 40 and 37.

    Args:
        draws: values of one number over the refits.
        estimate: its value in the fit.
        freedom: runs minus fitted parameters.
        level: the share of cases that should hold the truth.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    widen = t.ppf(1 - tail, freedom) / norm.ppf(1 - tail)
    return float(estimate + (low - estimate) * widen), float(estimate + (high - estimate) * widen)


def r_squared(law: Law, x: ArrayLike, loss: ArrayLike) -> float:
    """Share of the losses' variance that the law explains."""
    loss = np.asarray(loss, dtype=np.float64)
    return float(1 - ((loss - law(x)) ** 2).sum() / ((loss - loss.mean()) ** 2).sum())


@dataclasses.dataclass(frozen=True)
class Extrapolation:
    """What runs of all sizes but the largest say about the largest: mean losses, and their relative difference."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted / self.measured - 1


def leave_out_largest(x: ArrayLike, loss: ArrayLike) -> Extrapolation:
    """Fit without the largest value of the first variable and predict its runs.

    Raises:
        UserError: what remains is too little for a fit.
    """
    x, loss = _columns(x), np.asarray(loss, dtype=np.float64)
    largest = x[:, 0] == x[:, 0].max()
    law = fit_law(x[~largest], loss[~largest])
    return Extrapolation(predicted=float(law(x[largest]).mean()), measured=float(loss[largest].mean()))


def compute_optimal(law: Law, flops: ArrayLike) -> tuple[Floats, Floats]:
    """Parameters and tokens of least loss for a compute budget, under C = 6 N D (Hoffmann et al., equation 4).

    Args:
        law: L(N, D).
        flops: budgets, (n,).

    Returns:
        N (n,) ∝ C^(β / (α+β)) and D (n,) ∝ C^(α / (α+β)).
    """
    (a, b), (alpha, beta) = law.coefficients, law.exponents
    balance = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    budget = np.asarray(flops, dtype=np.float64) / 6
    return balance * budget ** (beta / (alpha + beta)), budget ** (alpha / (alpha + beta)) / balance


def pareto(flops: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Which runs (n,) no other run beats with as little compute: those L(C) is fitted to."""
    flops, loss = np.asarray(flops), np.asarray(loss)
    beaten = (flops[None] <= flops[:, None]) & (loss[None] < loss[:, None])
    return np.asarray(~beaten.any(1), dtype=np.bool_)


def _columns(x: ArrayLike) -> Floats:
    array = np.asarray(x, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _descend(start: Floats, u: Floats, target: Floats, delta: float) -> tuple[float, Floats]:
    """The objective and the parameters that L-BFGS reaches from `start`."""
    m = u.shape[1]
    bounds = [(None, None)] * (1 + m) + [BOUNDS] * m
    result = minimize(_objective, start, args=(u, target, delta), jac=True, method="L-BFGS-B", bounds=bounds)
    return float(result.fun), result.x


def _objective(parameters: Floats, u: Floats, target: Floats, delta: float) -> tuple[float, Floats]:
    """Huber loss in units of δ² and its gradient.

    `parameters` are log E, the logs of the m terms at the centre of the data, and the m exponents. Centring keeps a
    term's size and its exponent from moving together, which plain log A and α do over six decades of N.
    """
    m = u.shape[1]
    terms = np.concatenate([np.full((len(u), 1), parameters[0]), parameters[1 : 1 + m] - parameters[1 + m :] * u], 1)
    highest = terms.max(1)
    weights = np.exp(terms - highest[:, None])
    total = weights.sum(1)
    weights /= total[:, None]
    scaled = (target - highest - np.log(total)) / delta
    size = np.abs(scaled)
    value = np.where(size <= 1, 0.5 * scaled**2, size - 0.5).sum()
    pull = -np.clip(scaled, -1, 1) / delta
    slopes = np.concatenate([weights, -weights[:, 1:] * u], 1)
    return float(value), pull @ slopes


def _parameters(law: Law, centre: Floats) -> Floats:
    exponents = np.array(law.exponents)
    logs = np.log(np.maximum([law.floor, *law.coefficients], 1e-300))
    return np.concatenate([logs[:1], logs[1:] - exponents * centre, exponents])


def _grid(loss: Floats, m: int) -> list[Floats]:
    """Starts in `_objective`'s parameters; the terms share what is over the floor equally."""
    return [
        np.array([math.log(share * loss.min()), *[math.log((loss.mean() - share * loss.min()) / m)] * m, *exponents])
        for share in FLOORS
        for exponents in itertools.product(EXPONENTS, repeat=m)
    ]

import numpy as np
import pytest
from scipy.optimize import minimize

from liquid_mm.errors import UserError
from liquid_mm.scaling import fit
from liquid_mm.scaling.fit import Law

N = np.array([0.3e6, 1e6, 3e6, 1e7, 3e7])
D = np.array([0.25e6, 0.5e6, 1e6, 2e6])
GRID = np.array([(n, d) for n in N for d in D])
ONE = Law(2.0, (60.0,), (0.3,))
TWO = Law(2.0, (60.0, 300.0), (0.3, 0.4))


def noisy(law, x, noise, seed):
    return law(x) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(x)))


def numbers(law):
    return [law.floor, *law.coefficients, *law.exponents]


@pytest.mark.parametrize(("law", "x"), [(ONE, N), (TWO, GRID)], ids=["L(N)", "L(N, D)"])
def test_exact_losses_give_back_the_law(law, x):
    assert numbers(fit.fit_law(x, law(x))) == pytest.approx(numbers(law), rel=1e-3)


def test_a_law_is_its_formula():
    assert TWO([[1e6, 2e6]])[0] == pytest.approx(2.0 + 60 / 1e6**0.3 + 300 / 2e6**0.4)


def test_no_simplex_finds_a_better_fit():
    """The slow, obvious reference: Nelder-Mead on the definition, from the truth and from the fit."""

    def objective(p, x, loss):
        r = np.abs(np.log(loss) - np.log(np.exp(p[0]) + (np.exp(p[1:3]) * x ** -p[3:]).sum(1))) / fit.DELTA
        return np.where(r <= 1, r**2 / 2, r - 0.5).sum()

    for seed in range(3):
        loss = noisy(TWO, GRID, 2e-3, seed)
        found = fit.fit_law(GRID, loss)
        points = [np.array([*np.log(numbers(law)[:3]), *law.exponents]) for law in (found, TWO)]
        options = {"maxiter": 2000, "maxfev": 2000, "adaptive": True}
        best = min(minimize(objective, p, (GRID, loss), "Nelder-Mead", options=options).fun for p in points)
        assert objective(points[0], GRID, loss) <= best * (1 + 1e-4)


def test_the_gradient_is_the_slope():
    loss = noisy(TWO, GRID, 1e-2, 0)
    u = np.log(GRID) - np.log(GRID).mean(0)
    p = np.array([0.5, -0.7, -0.9, 0.25, 0.5])
    for delta in (1e-1, 1e-2):
        _, gradient = fit._objective(p, u, np.log(loss), delta)
        steps = 1e-6 * np.eye(5)
        slopes = [
            (fit._objective(p + s, u, np.log(loss), delta)[0] - fit._objective(p - s, u, np.log(loss), delta)[0]) / 2e-6
            for s in steps
        ]
        np.testing.assert_allclose(gradient, slopes, rtol=1e-4)


def test_one_wild_run_hardly_moves_the_fit():
    loss = ONE(np.repeat(N, 3))
    loss[7] *= 1.5
    assert fit.fit_law(np.repeat(N, 3), loss).exponents[0] == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(
    ("law", "x", "problems"),
    [(ONE, np.repeat(N, 3)[:, None], 40), (TWO, np.repeat(GRID, 2, axis=0), 30)],
    ids=["L(N)", "L(N, D)"],
)
def test_intervals_hold_the_truth(law, x, problems):
    """Known exponents and floors lie in their 95 % intervals in at least 90 % of simulated studies."""
    freedom = len(x) - 1 - 2 * x.shape[1]
    hits = []
    for seed in range(problems):
        loss = noisy(law, x, 5e-3, seed)
        found = fit.fit_law(x, loss, starts=[law])  # the grid of starts has tests of its own
        draws = fit.bootstrap(found, x, loss, draws=40, seed=seed)
        for get in (lambda law: law.floor, *(lambda law, j=j: law.exponents[j] for j in range(x.shape[1]))):
            low, high = fit.interval([get(draw) for draw in draws], get(found), freedom)
            hits.append(low <= get(law) <= high)
    assert np.mean(hits) >= 0.9


def test_intervals_are_not_vacuous_and_tighten_with_less_noise():
    x = np.repeat(N, 3)
    widths = []
    for noise in (1e-2, 1e-3):
        loss = noisy(ONE, x, noise, 0)
        found = fit.fit_law(x, loss)
        draws = [draw.exponents[0] for draw in fit.bootstrap(found, x, loss, draws=40)]
        low, high = fit.interval(draws, found.exponents[0], 12)
        widths.append(high - low)
    assert widths[1] < widths[0] / 4 < 0.1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (N[:3], "needs at least 4 points, there are 3"),
        (np.repeat(N[:3], 3), "at least 4 different values of each, there are 3"),
        (N[:3].repeat(3) * np.tile([1.0, 1.01, 1.02], 3), "at least 4 different values of each, there are 3"),
        (GRID[:5], "needs at least 6 points, there are 5"),
        (GRID[GRID[:, 1] > 0.6e6], "at least 3 different values of each, there are 2 of variable 2"),
    ],
)
def test_too_few_runs_are_refused_with_the_number_needed(x, message):
    with pytest.raises(UserError, match=message):
        fit.fit_law(x, np.full(len(x), 3.0))


def test_the_left_out_size_is_predicted_and_a_broken_law_is_noticed():
    assert fit.leave_out_largest(N, ONE(N)).error == pytest.approx(0, abs=1e-4)
    stalled = ONE(N)
    stalled[-1] = stalled[-2]
    guess = fit.leave_out_largest(N, stalled)
    assert guess.measured == stalled[-1]
    assert guess.error < -0.03


def test_the_frontier_is_where_no_other_split_is_better():
    budgets = np.array([1e14, 1e16])
    n, d = fit.compute_optimal(TWO, budgets)
    np.testing.assert_allclose(6 * n * d, budgets)
    for budget, best in zip(budgets, TWO(np.stack([n, d], 1)), strict=True):
        sizes = np.geomspace(1e4, 1e9, 2001)
        assert TWO(np.stack([sizes, budget / 6 / sizes], 1)).min() == pytest.approx(best, rel=1e-5)


def test_the_frontier_of_runs_keeps_what_nothing_cheaper_beats():
    flops, loss = [1, 2, 2, 4, 8], [5.0, 4.0, 4.5, 4.2, 3.0]
    assert fit.pareto(flops, loss).tolist() == [True, True, False, False, True]


def test_r_squared_of_a_perfect_and_a_useless_law():
    assert fit.r_squared(ONE, N, ONE(N)) == 1
    assert fit.r_squared(Law(float(ONE(N).mean()), (0.0,), (1.0,)), N, ONE(N)) == pytest.approx(0)

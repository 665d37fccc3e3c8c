import math

import numpy as np
import pytest

from liquid_mm.evaluate.protocol import Value, mean_of, to_table
from liquid_mm.evaluate.stats import bootstrap, bootstrap_difference, interval, resamples, wilson


def test_wilson_solves_its_quadratic():
    # The bounds p are where |share - p| is z standard errors of p.
    for successes, n in [(3, 10), (0, 7), (7, 7), (450, 1000)]:
        for bound in wilson(successes, n):
            if 1e-9 < bound < 1 - 1e-9:
                z = abs(successes / n - bound) / math.sqrt(bound * (1 - bound) / n)
                assert z == pytest.approx(1.959964, abs=1e-5)
    assert wilson(0, 7)[0] == pytest.approx(0, abs=1e-12)
    assert wilson(7, 7)[1] == pytest.approx(1)


def test_a_share_gets_wilsons_interval_and_a_mean_the_bootstraps():
    table = to_table([{"id": str(i), "right": float(i % 2), "score": i / 10} for i in range(10)])
    share, mean = mean_of(table, "right", scale=100.0), mean_of(table, "score")
    assert (share.binary, mean.binary) == (True, False)
    assert interval(share, (0, 0)) == tuple(100 * bound for bound in wilson(5, 10))
    assert interval(mean, (0.1, 0.8)) == (0.1, 0.8)
    assert math.isnan(interval(Value(math.nan, 0, True), (math.nan, math.nan))[0])


def test_bootstrap_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        table = {"x": rng.exponential(size=60)}
        low, high = bootstrap(table, lambda t: {"mean": mean_of(t, "x")}, times=300, seed=trial)["mean"]
        hits += low <= 1.0 <= high
    # 95 % nominal; 60 draws of a skewed law cover a little less, and 200 trials are sure to ± 3.5 %.
    assert 0.89 <= hits / 200 <= 0.99


def test_units_stay_together():
    table = {"question": np.array(["a", "b", "a", "c", "b", "c"])}
    for rows in resamples(table, "question", times=50, seed=1):
        counts = np.bincount(rows, minlength=6)
        assert (counts[0], counts[1], counts[3]) == (counts[2], counts[4], counts[5])
        assert counts.sum() == 6


def test_rows_that_hang_together_make_the_interval_wider():
    rng = np.random.default_rng(3)
    x = np.repeat(rng.normal(size=40), 10)
    table = {"x": x, "unit": np.repeat(np.arange(40), 10)}

    def width(unit):
        low, high = bootstrap(table, lambda t: {"m": mean_of(t, "x")}, unit)["m"]
        return high - low

    assert width("unit") > 2 * width(None)


def test_a_paired_difference_forgets_how_hard_examples_are():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300)
    first = {"id": np.arange(300), "x": hard}
    order = rng.permutation(300)
    second = {"id": order, "x": (hard + 0.1)[order]}
    difference, (low, high) = bootstrap_difference(first, second, lambda t: {"m": mean_of(t, "x")})["m"]
    assert difference == pytest.approx(0.1)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_category_that_a_resample_lacks_does_not_spoil_the_interval():
    table = {"x": np.array([1.0, 2.0, 3.0]), "rare": np.array([True, False, False])}

    def summary(t):
        return {"rare": mean_of(t, "x", t["rare"])}

    assert bootstrap(table, summary)["rare"] == (1.0, 1.0)

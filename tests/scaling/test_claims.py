import numpy as np
import pytest
from scipy import stats

from liquid_mm.scaling.claims import compute_factor, mean, negated, slope, verdict


def test_the_mean_is_students():
    values = np.random.default_rng(0).normal(-0.4, 1, 9)
    e = mean(values)
    reference = stats.ttest_1samp(values, 0, alternative="less")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (e.value, e.n) == (pytest.approx(values.mean()), 9)
    assert (e.low, e.high, e.p) == pytest.approx((low, high, reference.pvalue))
    up = negated(e)
    assert (up.low, up.high, up.p) == pytest.approx((-high, -low, 1 - reference.pvalue))


def test_the_slope_is_least_squares():
    rng = np.random.default_rng(1)
    x = np.arange(8.0)
    y = 3 - 0.5 * x + rng.normal(0, 0.1, 8)
    e = slope(x, y)
    reference = stats.linregress(x, y, alternative="less")
    assert (e.value, e.p) == pytest.approx((reference.slope, reference.pvalue))
    assert e.low < -0.5 < e.high < 0


@pytest.mark.parametrize(
    ("values", "answer"),
    [([-1.0, -1.1, -0.9], "yes"), ([-1.0, 1.1, -0.9], "no"), ([1.0, 1.1, 0.9], "no"), ([-1.0], "untested")],
)
def test_a_claim_holds_only_if_its_whole_interval_does(values, answer):
    v = verdict("c", "Is it?", mean(values), "units", "two runs")
    assert v.answer == answer
    assert ("It takes two runs." if answer == "untested" else f"n = {len(values)}") in v.evidence


def test_intervals_and_p_values_are_right_as_often_as_they_say():
    rng = np.random.default_rng(2)
    estimates = [mean(rng.normal(0, 1, 5)) for _ in range(1000)]
    assert np.mean([e.low <= 0 <= e.high for e in estimates]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([e.p < 0.05 for e in estimates]) == pytest.approx(0.05, abs=0.02)


def test_too_little_is_no_estimate_and_no_spread_no_division():
    assert mean([1.0]) is None
    assert slope([1, 1, 1], [1, 2, 3]) is None
    assert slope([1, 2], [1, 2]) is None
    e = mean([-1.0, -1.0])
    assert (e.low, e.high, e.p) == (-1, -1, 0)


def curve(flops, ahead):
    flops = np.array(flops, dtype=float)
    return flops, 10 - np.log(flops * ahead)


def test_a_start_that_is_ahead_saves_its_factor():
    factor, relation = compute_factor(curve([1, 10, 100, 1000], 8), curve([1, 10, 100, 1000], 1))
    assert (factor, relation) == (pytest.approx(8), "=")
    factor, _ = compute_factor(curve([1, 10, 100, 1000], 1), curve([1, 10, 100, 1000], 8))
    assert factor == pytest.approx(1 / 8)


def test_where_one_starts_below_the_others_end_the_factor_is_a_bound():
    ahead, behind = curve([10, 100], 1e6), curve([10, 100], 1)
    assert compute_factor(ahead, behind) == (pytest.approx(10), ">")
    assert compute_factor(behind, ahead) == (pytest.approx(0.1), "<")
    assert compute_factor(curve([10], 2), curve([10, 100], 1)) is None

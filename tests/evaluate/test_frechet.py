import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm

from liquid_mm.evaluate.frechet import (
    FOLDS,
    T95,
    Folds,
    Gaussian,
    distance_of,
    frechet_distance,
    frechet_interval,
    jackknife_error,
)


def spd(rng, d, rank=None):
    root = rng.normal(size=(d, rank or d))
    return root @ root.T / d


def test_gaussians_whose_distance_is_known():
    one = np.eye(3)
    zero = np.zeros(3)
    assert distance_of(zero, one, np.array([1.0, 2.0, 2.0]), one) == pytest.approx(9)
    # Covariances that commute: the sum of (σ₁ - σ₂)².
    assert distance_of(zero, np.diag([1.0, 4, 9]), zero, np.diag([4.0, 4, 0])) == pytest.approx(1 + 0 + 9)


@pytest.mark.parametrize("d", [2, 16, 64])
def test_as_scipys_general_matrix_root(d):
    rng = np.random.default_rng(d)
    a, b, m, n = spd(rng, d), spd(rng, d), rng.normal(size=d), rng.normal(size=d)
    slow = ((m - n) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert distance_of(m, a, n, b) == pytest.approx(slow, abs=1e-6)


def test_fewer_vectors_than_dimensions_are_warned_about_and_stay_finite():
    rng = np.random.default_rng(0)
    first, second = Gaussian(50), Gaussian(50)
    x = rng.normal(size=(20, 50))
    first.add(x)
    second.add(x[::-1])
    with pytest.warns(UserWarning, match="only 20 pictures"):
        assert frechet_distance(first, second) == pytest.approx(0, abs=1e-6)


def test_singular_covariances_do_not_break_it():
    rng = np.random.default_rng(1)
    a, b = spd(rng, 40, rank=3), spd(rng, 40, rank=5)
    there, back = (distance_of(np.zeros(40), x, np.zeros(40), y) for x, y in ((a, b), (b, a)))
    assert there == pytest.approx(back, abs=1e-6)
    assert 0 < there < np.trace(a) + np.trace(b)


def test_streaming_gives_what_all_vectors_at_once_give():
    rng = np.random.default_rng(2)
    x = rng.normal(loc=1000, size=(137, 5))  # far from zero: sums of squares would lose digits
    parts = [Gaussian(5), Gaussian(5)]
    for number, start in enumerate(range(0, 137, 10)):
        parts[number % 2].add(x[start : start + 10])
    parts[0].merge(parts[1])
    parts[0].merge(Gaussian(5))
    np.testing.assert_allclose(parts[0].mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts[0].covariance, np.cov(x, rowvar=False), rtol=1e-9)
    assert parts[0].n == 137


def test_enough_vectors_bring_no_warning():
    first = Gaussian(2)
    first.add(np.random.default_rng(0).normal(size=(10, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(first, first)


def folds(vectors, batch=7):
    found = Folds(vectors.shape[1])
    for start in range(0, len(vectors), batch):
        found.add(vectors[start : start + batch])
    return found


def test_vector_i_goes_into_fold_i_whatever_the_batches():
    x = np.random.default_rng(3).normal(size=(53, 4))
    for batch in (1, 7, 53):
        found = folds(x, batch)
        assert found.n == 53
        for number, part in enumerate(found.parts):
            np.testing.assert_allclose(part.mean, x[number::FOLDS].mean(0), atol=1e-12)
        np.testing.assert_allclose(found.whole().covariance, np.cov(x, rowvar=False), rtol=1e-9)
        rest = np.delete(x, np.s_[2::FOLDS], axis=0)
        np.testing.assert_allclose(found.whole(without=2).covariance, np.cov(rest, rowvar=False), rtol=1e-9)


def test_folds_of_parts_add_up():
    x = np.random.default_rng(4).normal(size=(40, 3))
    parts = folds(x[:20])
    parts.merge(folds(x[20:]))
    assert parts.n == 40
    np.testing.assert_allclose(parts.parts[1].mean, x[1::FOLDS].mean(0))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    groups = np.random.default_rng(5).normal(size=(FOLDS, 6)).mean(1)
    without = [(groups.sum() - group) / (FOLDS - 1) for group in groups]
    assert jackknife_error(without) == pytest.approx(groups.std(ddof=1) / np.sqrt(FOLDS))


def test_t95_is_students():
    from scipy.stats import t

    assert pytest.approx(t.ppf(0.975, FOLDS - 1)) == T95


def test_intervals_cover_the_true_distance():
    """Gaussians of known distance, 200 samples of 300 each: the true value lies inside about 95 % of the intervals."""
    rng = np.random.default_rng(6)
    scale = np.array([1.0, 2.0])
    true = 4 + ((scale - 1) ** 2).sum()
    inside, widths = 0, []
    for _ in range(200):
        first, second = rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) * scale + [2, 0]
        _, (low, high) = frechet_interval(folds(first, 300), folds(second, 300))
        inside += low <= true <= high
        widths.append(high - low)
    assert 0.88 <= inside / 200 <= 0.995
    assert np.median(widths) < 3, "not by being as wide as the value"


def test_pictures_that_belong_together_stay_together():
    """A set against itself shifted by a constant: the distance is certain, so the interval has no width."""
    x = np.random.default_rng(7).normal(size=(60, 3))
    distance, (low, high) = frechet_interval(folds(x), folds(x + 2))
    assert distance == pytest.approx(12)
    assert (low, high) == pytest.approx((12, 12))


def test_too_few_pictures_have_a_distance_but_no_interval():
    x = np.random.default_rng(8).normal(size=(2 * FOLDS - 1, 2))
    assert frechet_interval(folds(x), folds(x)) == (pytest.approx(0, abs=1e-9), None)

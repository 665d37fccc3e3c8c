import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm

from liquid_mm.evaluate.frechet import Gaussian, distance_of, frechet_distance


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

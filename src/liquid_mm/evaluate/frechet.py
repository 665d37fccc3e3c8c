"""Fréchet distance between two sets of feature vectors, seen as Gaussians, in memory that does not grow with the sets.

    real, drawn = Gaussian(2048), Gaussian(2048)
    for batch in …: drawn.add(net(batch))
    frechet_distance(real, drawn)

d² = |m₁ − m₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^½ (Dowson and Landau 1982; FID: Heusel et al. 2017, arXiv 1706.08500).
The last term is computed from symmetric matrices: (C₁ C₂)^½ and (C₁^½ C₂ C₁^½)^½ have the same trace, and the second
has real eigenvalues ≥ 0 even with fewer vectors than dimensions, where a general matrix root breaks down.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDS = 10
T95 = 2.2621571628
"""The 97.5 % point of Student's t with `FOLDS` - 1 degrees of freedom."""


class Gaussian:
    """Mean and covariance of vectors of `dim` numbers, fed in batches (Chan, Golub and LeVeque 1979)."""

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean: Array = np.zeros(dim)
        self._scatter: Array = np.zeros((dim, dim))

    def add(self, vectors: NDArray[np.floating[Any]]) -> None:
        """Take in a batch (B, dim)."""
        batch = Gaussian(len(self.mean))
        batch.n = len(vectors)
        batch.mean = vectors.astype(np.float64).mean(0)
        centred = vectors - batch.mean
        batch._scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: Gaussian) -> None:
        """Take in everything `other` has seen: the parts of a set add up to the whole."""
        n = self.n + other.n
        if not n:
            return
        shift = other.mean - self.mean
        self._scatter = self._scatter + other._scatter + np.outer(shift, shift) * (self.n * other.n / n)
        self.mean = self.mean + shift * (other.n / n)
        self.n = n

    @property
    def covariance(self) -> Array:
        """The unbiased covariance (dim, dim)."""
        assert self.n > 1, "a covariance needs two vectors"
        return self._scatter / (self.n - 1)


class Folds:
    """`FOLDS` Gaussians of vectors of `dim` numbers: vector i goes into number i mod `FOLDS`.

    Two of them fed pictures that belong together in the same order (a prompt's reference and its drawing) have the
    pairs in the same folds. Memory is `FOLDS` covariances, whatever the number of vectors.
    """

    def __init__(self, dim: int) -> None:
        self.parts = [Gaussian(dim) for _ in range(FOLDS)]
        self.n = 0

    def add(self, vectors: NDArray[np.floating[Any]]) -> None:
        """Take in a batch (B, dim)."""
        first = -self.n % FOLDS
        for number, part in enumerate(self.parts):
            if len(mine := vectors[(first + number) % FOLDS :: FOLDS]):
                part.add(mine)
        self.n += len(vectors)

    def merge(self, other: Folds) -> None:
        """Take in everything `other` has seen, fold by fold."""
        for mine, others in zip(self.parts, other.parts, strict=True):
            mine.merge(others)
        self.n += other.n

    def whole(self, without: int | None = None) -> Gaussian:
        """All vectors, or all but those of one fold."""
        total = Gaussian(len(self.parts[0].mean))
        for number, part in enumerate(self.parts):
            if number != without:
                total.merge(part)
        return total


def frechet_interval(first: Folds, second: Folds) -> tuple[float, tuple[float, float] | None]:
    """The distance of `first` and `second` with its 95 % interval, by the delete-a-group jackknife.

    The distance is computed without each fold in turn; how much these ten differ says how much chance there is in it
    (J. Shao and D. Tu, The Jackknife and Bootstrap, 1995). Not the bootstrap: a resample repeats pictures, holds 63 %
    of the different ones, and so has a distance well above that of the set (its bias goes with 1/n), which an interval
    of percentiles would report as chance. Without a fold 90 % are left, all ten times, and the common shift cancels.

    The interval is None for fewer than two pictures in a fold. It speaks of the pictures drawn, not of the bias of few.
    """
    distance = frechet_distance(first.whole(), second.whole())
    if min(first.n, second.n) < 2 * FOLDS:
        return distance, None
    without = [_unwarned(first.whole(number), second.whole(number)) for number in range(FOLDS)]
    margin = T95 * jackknife_error(without)
    return distance, (max(0.0, distance - margin), distance + margin)


def jackknife_error(without: Sequence[float]) -> float:
    """The standard error of a value from what it is without each of the groups in turn."""
    groups = len(without)
    centre = sum(without) / groups
    return math.sqrt((groups - 1) / groups * sum((value - centre) ** 2 for value in without))


def _unwarned(first: Gaussian, second: Gaussian) -> float:
    return distance_of(first.mean, first.covariance, second.mean, second.covariance)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Fréchet distance, as FID is reported; never below 0.

    With fewer vectors than dimensions the covariance is singular and the distance far too high: it is still computed,
    under a warning.
    """
    dim = len(first.mean)
    if (n := min(first.n, second.n)) <= dim:
        warnings.warn(
            f"a Fréchet distance over {dim} features from only {n} pictures is strongly biased upwards: compare it "
            "with nothing but distances from as many pictures.",
            stacklevel=2,
        )
    return distance_of(first.mean, first.covariance, second.mean, second.covariance)


def distance_of(mean1: Array, covariance1: Array, mean2: Array, covariance2: Array) -> float:
    """The squared Fréchet distance of two Gaussians from their means (d,) and covariances (d, d)."""
    root = _root(covariance1)
    cross = np.sqrt(_eigenvalues(root @ covariance2 @ root)).sum()
    distance = ((mean1 - mean2) ** 2).sum() + np.trace(covariance1) + np.trace(covariance2) - 2 * cross
    return max(0.0, float(distance))


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def _eigenvalues(matrix: Array) -> Array:
    # Rounding leaves the product a little unsymmetric and its smallest eigenvalues a little below zero.
    return np.linalg.eigvalsh((matrix + matrix.T) / 2).clip(0)

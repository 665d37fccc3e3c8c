"""Fréchet distance between two sets of feature vectors, seen as Gaussians, in memory that does not grow with the sets.

    real, drawn = Gaussian(2048), Gaussian(2048)
    for batch in …: drawn.add(net(batch))
    frechet_distance(real, drawn)

d² = |m₁ − m₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^½ (Dowson and Landau 1982; FID: Heusel et al. 2017, arXiv 1706.08500).
The last term is computed from symmetric matrices: (C₁ C₂)^½ and (C₁^½ C₂ C₁^½)^½ have the same trace, and the second
has real eigenvalues ≥ 0 even with fewer vectors than dimensions, where a general matrix root breaks down.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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

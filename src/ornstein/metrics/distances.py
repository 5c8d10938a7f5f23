"""Distances between two sets of samples, each an `Estimate`.

In all of them `x` and `y` are tensors (N, ...) and (M, ...) of equal event shape, counted in
float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .estimate import Estimate, Strata, bootstrap, rows

__all__ = ["energy_distance", "frechet_distance", "sliced_wasserstein"]

_CHUNK = 1024  # rows of a distance matrix at a time


def energy_distance(
    x: Tensor, y: Tensor, resamples: int = 200, seed: int = 0, strata: Strata = None
) -> Estimate:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased: zero on average if and only if the laws agree.

    Each expectation is a mean over pairs of different samples, so the value may be slightly
    negative. It is in the unit of the samples (`scipy.stats.energy_distance` is its square root,
    with pairs of a sample and itself counted). Resampling leaves out pairs of copies of one sample.

    Args:
        x: samples (N, ...).
        y: samples (M, ...).
        resamples: bootstrap replicates.
        seed: of the bootstrap.
        strata: class numbers of x (N,) and of y (M,) where the share of each class was fixed.

    Raises:
        TypeError: not tensors.
        ValueError: fewer than two samples, other event shapes, or values that are not finite;
            strata that do not fit.

    Source: Székely and Rizzo, Energy statistics (2013).
    """
    x, y = _pair(x, y)

    def statistic(wx: Tensor, wy: Tensor) -> Tensor:
        cross = _pair_sum(x, y, wx, wy) / (wx.sum(1) * wy.sum(1))
        within = (_pair_sum(z, z, w, w) / (w.sum(1) ** 2 - (w**2).sum(1)) for z, w in ((x, wx), (y, wy)))
        return 2 * cross - sum(within)

    return bootstrap(statistic, (len(x), len(y)), resamples, seed, -math.inf, strata)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    projections: int = 128,
    resamples: int = 200,
    seed: int = 0,
    strata: Strata = None,
) -> Estimate:
    """Mean over random directions of the 1-Wasserstein distance between projections.

    Each is the area between two distribution functions, exact for any N and M. The value is biased
    upwards by about 1 / sqrt(N), also where the laws agree: compare at equal sizes.

    Args:
        x: samples (N, ...).
        y: samples (M, ...).
        projections: directions, uniform on the sphere.
        resamples: bootstrap replicates; the directions stay the same.
        seed: of directions and bootstrap.
        strata: class numbers of x (N,) and of y (M,) where the share of each class was fixed.

    Raises:
        TypeError: not tensors.
        ValueError: fewer than two samples, other event shapes, or values that are not finite;
            strata that do not fit.

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures (2015).
    """
    x, y = _pair(x, y)
    if projections < 1:
        raise ValueError(f"projections: expected at least 1, got {projections}")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, x.shape[1], dtype=torch.float64, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    places, order = (torch.cat([x, y]) @ directions.T).T.sort(dim=1)

    def statistic(wx: Tensor, wy: Tensor) -> Tensor:
        mass = torch.cat([wx / len(x), -wy / len(y)], dim=1)
        areas = (
            mass[:, index].cumsum(1)[:, :-1].abs_() @ place.diff()
            for index, place in zip(order, places, strict=True)
        )
        return sum(areas, torch.zeros(len(wx), dtype=torch.float64)) / projections

    return bootstrap(statistic, (len(x), len(y)), resamples, seed, strata=strata)


def frechet_distance(
    x: Tensor, y: Tensor, resamples: int = 200, seed: int = 0, strata: Strata = None
) -> Estimate:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) between Gaussians fitted to two sets.

    `x` and `y` are usually features of images, see `classifier_features`; values made with other
    features, other classifiers or other sizes cannot be compared. The value is biased upwards by a
    term of order 1 / N, more so the more dimensions there are.

    Args:
        x: features (N, D).
        y: features (M, D).
        resamples: bootstrap replicates.
        seed: of the bootstrap.
        strata: class numbers of x (N,) and of y (M,) where the share of each class was fixed.

    Raises:
        TypeError: not tensors.
        ValueError: fewer than two samples, other event shapes, or values that are not finite;
            strata that do not fit.

    Source: Dowson and Landau, The Fréchet distance between multivariate normal distributions
        (1982).
    """
    x, y = _pair(x, y)

    def statistic(wx: Tensor, wy: Tensor) -> Tensor:
        (mx, sx), (my, sy) = _moments(x, wx), _moments(y, wy)
        traces = (sx + sy).diagonal(dim1=1, dim2=2).sum(1)
        return (mx - my).square().sum(1) + traces - 2 * _root_trace(sx, sy)

    return bootstrap(statistic, (len(x), len(y)), resamples, seed, strata=strata)


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a, b = rows(x, "x"), rows(y, "y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"y: expected samples of shape {tuple(x.shape[1:])} as in x, got {tuple(y.shape[1:])}"
        )
    return a, b


def _pair_sum(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor) -> Tensor:
    """sum_ij wx_i wy_j |x_i - y_j| for each row of weights, in blocks of the distance matrix."""
    total = torch.zeros(len(wx), dtype=torch.float64)
    for block, weights in zip(x.split(_CHUNK), wx.split(_CHUNK, dim=1), strict=True):
        # The other modes lose half of the digits where points are close.
        distances = torch.cdist(block, y, compute_mode="donot_use_mm_for_euclid_dist")
        total += (weights * (wy @ distances.T)).sum(1)
    return total


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means (R, D) and unbiased covariances (R, D, D) under each row of weights (R, N)."""
    means = weights @ x / len(x)
    centred = (x - mean for mean in means)
    sums = [(z * w[:, None]).T @ z for z, w in zip(centred, weights, strict=True)]
    return means, torch.stack(sums) / (len(x) - 1)


def _root_trace(a: Tensor, b: Tensor) -> Tensor:
    """tr (A B)^(1/2) of covariances (R, D, D); with A = L L^T, A B is similar to L^T B L."""
    values, vectors = torch.linalg.eigh(a)
    factor = vectors * values.clamp(min=0).sqrt()[:, None, :]
    return torch.linalg.eigvalsh(factor.mT @ b @ factor).clamp(min=0).sqrt().sum(1)

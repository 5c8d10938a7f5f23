"""Laws that a run can start from when its far end is not a plain Gaussian: a mixture, or given samples.

As distributions they are functions of noise like every other step, so runs from them are reproducible row by row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Distribution, Noise, Tree

__all__ = ["GaussianMixture", "Points"]


class GaussianMixture(nn.Module):
    """The law sum_k w_k N(m_k, C_k) on vectors.

    Args:
        weights: (K,), positive; they are normalised.
        means: (K, D).
        covariances: one number or (K,), for multiples of the identity, or (K, D, D).

    Raises:
        ValueError: shapes that do not fit, weights that are not positive, covariances that are not positive definite.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    roots: Tensor

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        super().__init__()
        means = torch.as_tensor(means)
        means = means if means.is_floating_point() else means.to(torch.get_default_dtype())
        if means.ndim != 2 or not bool(torch.isfinite(means).all()):
            raise ValueError(f"means: expected finite numbers (K, D), got shape {tuple(means.shape)}")
        weights = torch.as_tensor(weights, dtype=means.dtype)
        if weights.shape != means.shape[:1] or not bool((weights > 0).all()):
            raise ValueError(f"weights: expected {len(means)} positive numbers, got {weights.tolist()}")
        full = _full_covariances(torch.as_tensor(covariances, dtype=means.dtype), means)
        roots, failed = torch.linalg.cholesky_ex(full)
        if bool(failed.any()):
            raise ValueError("covariances: not positive definite")
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("means", means)
        self.register_buffer("covariances", full)
        self.register_buffer("roots", roots)

    def law(self, like: Tensor) -> Distribution:
        """As the distribution of a batch like `like`, (B, D)."""
        return _MixtureLaw(self, like)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,)."""
        gap = (x.unsqueeze(1) - self.means).unsqueeze(-1)
        z = torch.linalg.solve_triangular(self.roots, gap, upper=False).squeeze(-1)
        volume = self.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_p = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1) - volume
        return (log_p + self.weights.log()).logsumexp(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws, (n, D)."""
        u = torch.rand(n, dtype=self.means.dtype, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        return self.placed(u, z)

    def placed(self, u: Tensor, z: Tensor) -> Tensor:
        """The draw that uniform numbers `u` (...) and normal ones `z` (..., D) lead to."""
        edges = self.weights.cumsum(0)[:-1].contiguous()
        k = torch.searchsorted(edges, u.contiguous())
        return self.means[k] + (self.roots[k] @ z.unsqueeze(-1)).squeeze(-1)


class _Drawn(Distribution):
    """A law that is no step of anything: it has draws, and perhaps a density."""

    __slots__ = ("like",)
    gain = None
    deterministic = False

    def __init__(self, like: Tensor) -> None:
        self.like = like

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """A uniform number a row, which says where it comes from, and normal numbers of the state's shape."""
        column = self.like.new_empty(len(self.like), 1)
        which = source.fold("which").uniform(column, shape).squeeze(-1)
        return {"which": which, "within": source.fold("within").normal(self.like, shape)}


class _MixtureLaw(_Drawn):
    __slots__ = ("mixture",)

    def __init__(self, mixture: GaussianMixture, like: Tensor) -> None:
        if like.ndim != 2 or like.shape[1] != mixture.means.shape[1]:
            shape = tuple(mixture.means.shape[1:])
            raise ValueError(
                f"GaussianMixture: states of shape {tuple(like.shape[1:])}, the law's are {shape}"
            )
        super().__init__(like)
        self.mixture = mixture

    def transform(self, noise: Tree) -> Tensor:
        """The component that the uniform number picks, and a place within it."""
        which, within = (noise[k].to(self.mixture.means) for k in ("which", "within"))
        return self.mixture.placed(which, within).to(self.like)

    def log_prob(self, x: Tree) -> Tensor:
        """log p(x), (B,)."""
        return self.mixture.log_density(x)


class Points(_Drawn):
    """Draws, with replacement, from given samples; it has no density.

    Args:
        points: (N, *event).
        like: a batch (B, *event).
    """

    __slots__ = ("points",)

    def __init__(self, points: Tensor, like: Tensor) -> None:
        if points.shape[1:] != like.shape[1:] or not len(points):
            raise ValueError(
                f"base: samples of shape {tuple(points.shape[1:])}, states {tuple(like.shape[1:])}"
            )
        super().__init__(like)
        self.points = points

    def transform(self, noise: Tree) -> Tensor:
        """The row that the uniform number points at."""
        last = len(self.points) - 1
        index = (noise["which"].double() * len(self.points)).long().clamp(max=last).to(self.points.device)
        return self.points[index].to(self.like)


def _full_covariances(given: Tensor, means: Tensor) -> Tensor:
    k, d = means.shape
    if given.ndim < 2:
        return given.expand(k).reshape(k, 1, 1) * torch.eye(d, dtype=means.dtype)
    if given.shape != (k, d, d):
        raise ValueError(
            f"covariances: expected a number, ({k},) or ({k}, {d}, {d}); got {tuple(given.shape)}"
        )
    return given

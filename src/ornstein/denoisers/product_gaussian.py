"""The exact denoiser of a tree state whose leaves are jointly Gaussian, each at its own time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    Condition,
    Denoiser,
    Posterior,
    ProductPosterior,
    Step,
    Time,
    Tree,
    batch_size,
    leaf_time,
)
from ornstein.processes import ProductProcess

__all__ = ["ProductGaussian"]


class ProductGaussian(Denoiser):
    """Data (x, y, ...) ~ N(m, C) under a product of affine processes. With A and S the diagonal matrices of every
    entry's alpha and sigma,

        E[data | state] = m + C A (A C A + S^2)^-1 (state - A m)

    So a leaf at time 0 is conditioned on, and one at a time without signal is left out: with unequal times this is
    every marginal, conditional and mixture of noise levels of the pair.

    The condition field `joint` (B,) multiplies the covariances between leaves: 0 keeps them apart, as
    `guides.JointSeparate` asks; absent it is 1.

    Args:
        mean: {leaf: (*event)}.
        covariance: (D, D) over the leaves' flattened events, in the order of `process.parts`.
        process: a `ProductProcess` of affine processes without anchors.

    Raises:
        ValueError: leaves or sizes that do not fit.
    """

    process: ProductProcess
    mean: Tensor
    covariance: Tensor
    between: Tensor

    def __init__(self, mean: dict[str, Any], covariance: Any, process: ProductProcess) -> None:
        super().__init__()
        means = {k: torch.as_tensor(v) for k, v in mean.items()}
        if not isinstance(process, ProductProcess) or set(means) != set(process.parts):
            raise ValueError(f"mean: expected the leaves of the process, {process!r}; got {sorted(means)}")
        self.process, self.shape = process, {k: tuple(means[k].shape) for k in process.parts}
        self.sizes = [means[k].numel() for k in process.parts]
        c = torch.as_tensor(covariance, dtype=next(iter(means.values())).dtype)
        if c.shape != (sum(self.sizes),) * 2:
            raise ValueError(f"covariance: expected {(sum(self.sizes),) * 2}, got {tuple(c.shape)}")
        own = torch.block_diag(*[torch.ones(d, d) for d in self.sizes]).to(c)
        self.register_buffer("mean", torch.cat([means[k].flatten() for k in process.parts]))
        self.register_buffer("covariance", c * own)
        self.register_buffer("between", c * (1 - own))
        self.fields = frozenset({"joint"})

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact, with the variance (B, d, d) of every leaf."""
        alpha, spread, gap = self._state(x, t, condition)
        c = self._covariance(condition)
        gain = torch.linalg.solve(spread, alpha.unsqueeze(-1) * c).mT  # C A (A C A + S^2)^-1
        mean = self.mean + (gain @ gap.unsqueeze(-1)).squeeze(-1)
        variance = c - gain @ (alpha.unsqueeze(-1) * c)
        means, blocks = mean.split(self.sizes, -1), self._blocks(variance)
        parts = {}
        for k, m, v in zip(self.process.parts, means, blocks, strict=True):
            own: dict[str, Any] = {"variance": v.expand(len(m), *v.shape[-2:]), "condition": condition}
            parts[k] = Posterior(self.process.parts[k], x[k], leaf_time(t, k), m.reshape(x[k].shape), **own)
        return ProductPosterior(self.process, x, t, parts, condition=condition)

    def log_density(self, x: Tree, t: Time, condition: Condition | None = None) -> Tensor:
        """log q_t of the whole tree in nats, (B,)."""
        _, spread, gap = self._state(x, t, condition)
        root = torch.linalg.cholesky(spread)
        z = torch.linalg.solve_triangular(root, gap.unsqueeze(-1), upper=False).squeeze(-1)
        volume = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1) - volume

    def sample_data(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draws of the data themselves."""
        root = torch.linalg.cholesky(self.covariance + self.between)
        z = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        flat = (self.mean + z @ root.T).split(self.sizes, -1)
        return {k: v.reshape(n, *self.shape[k]) for k, v in zip(self.shape, flat, strict=True)}

    def _covariance(self, condition: Condition | None) -> Tensor:
        """C, (1, D, D), or with its covariances between leaves scaled for each row, (B, D, D)."""
        if not condition or "joint" not in condition:
            return (self.covariance + self.between)[None]
        scale = torch.where(condition.present["joint"], condition["joint"].to(self.mean), 1.0)
        return self.covariance + scale[:, None, None] * self.between

    def _state(self, x: Tree, t: Time, condition: Condition | None) -> tuple[Tensor, Tensor, Tensor]:
        """alpha of every entry, (1 or B, D), A C A + S^2, and the state less its mean, (B, D)."""
        n = batch_size(x)
        levels = [p.at(leaf_time(t, k)) for k, p in self.process.parts.items()]
        alpha, sigma = (
            torch.cat(
                [_column(getattr(v, name), self.mean, d) for v, d in zip(levels, self.sizes, strict=True)], -1
            )
            for name in ("alpha", "sigma")
        )
        spread = alpha.unsqueeze(-1) * self._covariance(condition) * alpha.unsqueeze(-2)
        gap = torch.cat([x[k].reshape(n, -1) for k in self.process.parts], -1) - alpha * self.mean
        return alpha, spread + torch.diag_embed(sigma**2), gap

    def _blocks(self, c: Tensor) -> list[Tensor]:
        """The diagonal blocks of a matrix, one for each leaf."""
        rows = c.split(self.sizes, -2)
        return [r.split(self.sizes, -1)[i] for i, r in enumerate(rows)]


def _column(value: Any, like: Tensor, size: int) -> Tensor:
    """A number, or numbers (B,), for all `size` entries of a leaf: (1 or B, size)."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1).expand(-1, size)

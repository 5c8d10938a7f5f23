"""The exact denoiser of a tree state whose leaves are independent given a shared component."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Denoiser, Posterior, ProductPosterior, Step, Time, Tree, leaf_time
from ornstein.processes import ProductProcess

from .analytic import MixtureDenoiser
from .discrete import TableDenoiser, responsibilities

__all__ = ["JointDenoiser"]


class JointDenoiser(Denoiser):
    """Data drawn as component k with weight w_k, then every leaf from its own law given k: a Gaussian of a
    `MixtureDenoiser`, a row of a `TableDenoiser`. All leaves tell of the component:

        p(k | x_t) is proportional to w_k prod_leaf q(x_t[leaf] | k)

    Args:
        parts: {leaf: MixtureDenoiser or TableDenoiser}, with equal numbers of components and equal weights.

    Raises:
        ValueError: components or weights that differ.
    """

    def __init__(self, parts: dict[str, MixtureDenoiser | TableDenoiser]) -> None:
        super().__init__()
        self.leaves = torch.nn.ModuleDict(parts)
        self.process = ProductProcess({k: d.process for k, d in parts.items()})
        self.shape = {k: d.shape for k, d in parts.items()}
        weights = [d.log_weights for d in parts.values()]
        if any(w.shape != weights[0].shape or not torch.allclose(w, weights[0]) for w in weights):
            raise ValueError("parts: the leaves must have the same components with the same weights")

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact: every leaf sees all noisy leaves, each at its own time."""
        weights = responsibilities(self._told(x, t), self._log_weights)
        parts = {k: d.given(x[k], leaf_time(t, k), weights) for k, d in self._parts.items()}
        return ProductPosterior(self.process, x, t, parts, condition=condition)

    def log_density(self, x: Tree, t: Time) -> Tensor:
        """log q_t of the whole tree, (B,)."""
        return (self._told(x, t) + self._log_weights).logsumexp(1)

    def _told(self, x: Tree, t: Time) -> Tensor:
        """log q(x_t | component) over all leaves, (B, K)."""
        leaves = [d.log_likelihoods(x[k], leaf_time(t, k)) for k, d in self._parts.items()]
        return torch.stack(leaves).sum(0)

    @property
    def _log_weights(self) -> Tensor:
        weights: Tensor = next(iter(self._parts.values())).log_weights
        return weights

    @property
    def _parts(self) -> dict[str, Any]:
        return dict(self.leaves.items())

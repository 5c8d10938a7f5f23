"""A mixture of low-rank Gaussians as a denoiser whose subspaces can be trained (2409.02426)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Posterior,
    Step,
    Time,
    Tree,
    align,
    suggest,
)

__all__ = ["ASSIGNMENTS", "LowRankMixture"]

ASSIGNMENTS = ("soft", "hard")


class LowRankMixture(Denoiser):
    """The posterior of data x_0 = U_k a, a ~ N(0, I_d), k ~ pi, for orthonormal U_k of D rows:

        D(x_t) = alpha / (alpha^2 + sigma^2) sum_k w_k U_k U_k^T x_t
        w = softmax_k(log pi_k + phi |U_k^T x_t|^2),    phi = alpha^2 / (2 sigma^2 (alpha^2 + sigma^2))

    which is exact with "soft" assignment; "hard" gives all weight to the nearest subspace, argmax_k |U_k^T x_t|. The
    U_k are the orthonormal factors (QR) of free matrices, so any optimiser trains them: for one component that is
    principal component analysis, and with assignments by the clean x_0 (see `given`, `assigned`) it is K-subspaces.

    Args:
        process: an affine process.
        shape: event shape, of D numbers.
        rank: d, the dimension of every subspace.
        components: K.
        assignment: "soft" or "hard".
        seed: of the random subspaces that it starts with.

    Raises:
        ValueError: numbers out of range, unknown assignment, or a process that is not affine.
    """

    process: AffineProcess

    def __init__(
        self,
        process: AffineProcess,
        shape: Any,
        rank: int,
        components: int = 1,
        assignment: str = "soft",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(process, AffineProcess):
            raise ValueError(f"process: expected an affine process, got {process!r}")
        if assignment not in ASSIGNMENTS:
            raise ValueError(suggest(assignment, ASSIGNMENTS, "assignment"))
        self.process, self.shape, self.assignment = process, tuple(shape), assignment
        size = torch.Size(self.shape).numel()
        if not 1 <= rank <= size or components < 1:
            raise ValueError(
                f"rank, components: expected 1 to {size} and at least 1, got {rank} and {components}"
            )
        start = torch.randn(components, size, rank, generator=torch.Generator().manual_seed(seed))
        self.frames = nn.Parameter(torch.linalg.qr(start)[0].contiguous())
        self.log_weights = nn.Parameter(torch.zeros(components))

    @classmethod
    def of(
        cls, bases: Tensor, process: AffineProcess, weights: Any = None, shape: Any = None, **options: Any
    ) -> LowRankMixture:
        """With these subspaces: `bases` (K, D, d), any bases of them; `weights` (K,), positive, equal by default."""
        count, size, rank = bases.shape
        made = cls(process, (size,) if shape is None else shape, rank, count, **options).to(bases)
        with torch.no_grad():
            made.frames.copy_(torch.linalg.qr(bases)[0])
            if weights is not None:
                made.log_weights.copy_(torch.as_tensor(weights).to(bases).log())
        return made

    @property
    def bases(self) -> Tensor:
        """U, (K, D, d), orthonormal columns."""
        return torch.linalg.qr(self.frames)[0]

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The posterior mean; heads hold the `responsibilities` (B, K)."""
        bases = self.bases
        u, along, alpha, sigma = self._along(x, t, bases, condition)
        power = (along**2).sum(-1)
        if self.assignment == "hard":
            weights = torch.nn.functional.one_hot(power.argmax(-1), power.shape[-1]).to(power)
        else:
            focus = alpha**2 / (2 * sigma**2 * (alpha**2 + sigma**2)).clamp(
                min=torch.finfo(u.dtype).tiny ** 0.5
            )
            weights = (self.log_weights + focus * (power - power.amax(-1, keepdim=True))).softmax(-1)
        return self._posterior(x, t, bases, along, weights, alpha, sigma, condition)

    def given(self, x: Tree, t: Time, weights: Tensor, condition: Condition | None = None) -> Posterior:
        """The posterior where the components have the responsibilities `weights` (B, K)."""
        bases = self.bases
        _, along, alpha, sigma = self._along(x, t, bases, condition)
        return self._posterior(x, t, bases, along, weights, alpha, sigma, condition)

    def assigned(self, x_0: Tensor) -> Tensor:
        """The subspace nearest to each clean point, argmax_k |U_k^T x_0|, (B,)."""
        along = torch.einsum("bd,kde->bke", x_0.flatten(1), self.bases)
        return (along**2).sum(-1).argmax(-1)

    def _along(
        self, x: Tensor, t: Time, bases: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, its coordinates U_k^T u (B, K, d), and alpha and sigma aligned with (B, D)."""
        level = self.process.at(t)
        u = self.process.add_anchor(x, -level.anchor, condition).flatten(1)
        alpha, sigma = (torch.as_tensor(align(v, u), dtype=u.dtype) for v in (level.alpha, level.sigma))
        return u, torch.einsum("bd,kde->bke", u, bases), alpha, sigma

    def _posterior(
        self,
        x: Tensor,
        t: Time,
        bases: Tensor,
        along: Tensor,
        weights: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        condition: Any,
    ) -> Posterior:
        back = torch.einsum("bk,bke,kde->bd", weights, along, bases)
        mean = (alpha / (alpha**2 + sigma**2) * back).reshape(x.shape)
        return Posterior(self.process, x, t, mean, heads={"responsibilities": weights}, condition=condition)

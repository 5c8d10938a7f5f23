"""Fields that change no density, added to a denoiser (Horvat and Pfister 2024, 2402.03845).

In L2(p_t) every field is a gradient and a rest r, uniquely and orthogonally, where the rest has

    div r + r . grad log p_t = 0,    which is div(p_t r) = 0

Neither the marginals of the probability flow nor its density depend on r: it is a gauge. The two terms need not vanish
on their own, and for mixtures they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Distribution,
    Module,
    Posterior,
    Step,
    Time,
    Tree,
    accumulate,
)

from .analytic import MixtureDenoiser
from .pretrained import inner_shape

__all__ = ["GaugeField", "Gauged", "ScoreDenoiser"]

Field = Callable[[Tensor, Time, Condition | None], Tensor]


class GaugeField(Module):
    """A gauge of mixture data at every time,

        r(x, t) = sum_k w_k(x, t) A_k Sigma_k(t)^-1 (u - alpha m_k),    Sigma_k(t) = alpha^2 C_k + sigma^2 I

    with antisymmetric A_k and responsibilities w_k, in the unit of a score; of one Gaussian it is A Sigma^-1 (u - alpha
    m), whose divergence and product with the score vanish separately. Under a `label` it is a gauge of that class.

    Args:
        truth: exact denoiser of the data.
        turns: antisymmetric matrices, (K, D, D), or (D, D) for all components.

    Raises:
        TypeError: a denoiser that is not exact for a mixture.
        ValueError: matrices that do not fit or are not antisymmetric.
    """

    turns: Tensor

    def __init__(self, truth: MixtureDenoiser, turns: Any) -> None:
        super().__init__()
        if not isinstance(truth, MixtureDenoiser):
            raise TypeError(f"truth: expected a MixtureDenoiser or a GaussianDenoiser, got {truth!r}")
        k, d = truth.means.shape
        given = torch.as_tensor(turns).to(truth.means)
        if given.shape not in ((d, d), (k, d, d)) or not torch.equal(given, -given.mT):
            raise ValueError(
                f"turns: expected antisymmetric ({d}, {d}) or ({k}, {d}, {d}), got {tuple(given.shape)}"
            )
        self.truth = truth
        self.register_buffer("turns", given.expand(k, d, d).clone())

    def forward(self, x: Tensor, t: Time, condition: Condition | None = None) -> Tensor:
        """r(x, t), like x."""
        whitened, weights = self.truth.whitened(x, t, condition)
        turned = torch.einsum("kde,bke->bkd", self.turns, whitened)
        return (weights.unsqueeze(-1) * turned).sum(1).reshape(x.shape)


class Gauged(Denoiser):
    """A denoiser with a field added to its score: D + weight (sigma^2 / alpha) r.

    Where alpha = 0 the posterior mean has no share in the score, and r is left out.

    Args:
        denoiser: of an affine process.
        field: r(x, t, condition), in the unit of a score; a `GaugeField`, or any other.
        weight: factor of r.

    Raises:
        ValueError: a process that is not affine.
    """

    process: AffineProcess
    shape = inner_shape

    def __init__(self, denoiser: Denoiser, field: Field, weight: float = 1.0) -> None:
        super().__init__()
        if not isinstance(denoiser.process, AffineProcess):
            raise ValueError(f"denoiser: expected one of an affine process, got {denoiser.process!r}")
        self.denoiser, self.field, self.weight = denoiser, field, float(weight)
        self.process, self.estimates = denoiser.process, denoiser.estimates
        self.fields = denoiser.fields

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The posterior of the sum."""
        inner: Posterior = self.denoiser(x, t, condition, step)
        level = self.process.at(t)
        alpha = torch.as_tensor(level.alpha, dtype=torch.float64)
        share = torch.where(alpha == 0, 0.0, level.sigma**2 / torch.where(alpha == 0, 1.0, alpha))
        moved = accumulate(inner.mean, self.weight * share, self.field(x, t, condition), inplace=False)
        return inner.with_mean(moved)

    def before_draw(self, distribution: Distribution, step: Step) -> Distribution:
        """The inner denoiser's."""
        return self.denoiser.before_draw(distribution, step)

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """The inner denoiser's."""
        return self.denoiser.after_draw(x, step)

    def prepare(self, condition: Condition) -> Condition:
        """The inner denoiser's."""
        return self.denoiser.prepare(condition)

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The inner denoiser's."""
        return self.denoiser.tokenise(name, words)

    def like(self, n: int) -> Tree:
        """The inner denoiser's."""
        return self.denoiser.like(n)


class ScoreDenoiser(Denoiser):
    """A score function as a denoiser: D = (u + sigma^2 s) / alpha.

    Args:
        score: s(x, t, condition), like x.
        process: an affine process.
        shape: event shape.
    """

    process: AffineProcess

    def __init__(self, score: Field, process: AffineProcess, shape: Any = None) -> None:
        super().__init__()
        self.score, self.process, self.shape = score, process, shape

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The posterior mean of Tweedie's formula."""
        mean = self.process.mean_from("score", x, self.score(x, t, condition), t, condition)
        return Posterior(self.process, x, t, mean, condition=condition)

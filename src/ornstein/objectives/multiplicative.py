"""Denoising of positive data under multiplicative noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ornstein.core import AffineProcess, Losses, Noise, Objective, align, sum_event

from .batch import condition_of, weighed

__all__ = ["MultiplicativeDenoising"]


class MultiplicativeDenoising(Objective):
    """sigma^2 |h(x_t, t) - x_t . grad log p(x_t | x_0)|^2 / dim, with h = x . score, the score of Hyvärinen's loss for
    positive data (Dale meets Langevin, 2510.02730):

        log x_t = alpha log x_0 + anchor_weight y + sigma z,    x . grad log p(x_t | x_0) = -1 - z / sigma

    The model is a denoiser of log x. By the change of variables, score_x = (score_log x - 1) / x, so h is its score
    less 1: the loss is the log-domain one, whose output and target both lack that 1, and it has the same gradients.

    Args:
        first: smallest time drawn.
        weighting: "target" (times sigma^2, bounded at small times) or "score" (plain).

    Raises:
        ValueError: data that are not positive, a process that is not affine, unknown weighting.
    """

    def __init__(self, first: float = 1e-3, weighting: str = "target") -> None:
        super().__init__()
        if not 0 < first < 1:
            raise ValueError(f"first: expected a number in (0, 1), got {first}")
        if weighting not in ("target", "score"):
            raise ValueError(f"weighting: expected 'target' or 'score', got {weighting!r}")
        self.first, self.weighting = first, weighting

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch of positive x_0."""
        x_0, process, condition = batch["x_0"], model.process, condition_of(batch)
        if not isinstance(process, AffineProcess) or not bool((x_0 > 0).all()):
            raise ValueError(
                "MultiplicativeDenoising: needs positive data and an affine process of their logarithm"
            )
        t = batch["time"] if batch.get("time") is not None else self._times(x_0, noise)
        law = process.marginal(x_0.log(), t, condition)
        sigma = align(process.at(t).sigma, x_0)
        x_t = law.sample(noise.fold("state")).exp()
        target = -1 - (x_t.log() - law.mean) / sigma**2
        hyvarinen = model(x_t.log(), t, condition).score - 1
        weight = sigma**2 if self.weighting == "target" else 1.0
        sample = sum_event(weight * (hyvarinen - target) ** 2) / x_0[0].numel()
        return Losses(weighed(sample, batch.get("weight")), {}, {})

    def _times(self, x_0: Tensor, noise: Noise) -> Tensor:
        u = noise.fold("time").uniform(x_0.new_empty(len(x_0), 1)).squeeze(1)
        return self.first + (1 - self.first) * u.double()

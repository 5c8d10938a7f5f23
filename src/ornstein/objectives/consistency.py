"""Consistency of a denoiser with itself along its own reverse process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Losses, Noise, Sampler, TimeGrid, align, suggest, sum_event
from ornstein.solvers import Ancestral

from .denoising import Seen
from .regularised import Term

__all__ = ["Consistency", "mean_square", "product_square"]


def mean_square(draws: Tensor, mean: Tensor) -> Tensor:
    """|average of the draws - mean|^2, (B,), for draws (k, B, ...): biased by Var / k, summed over entries."""
    return sum_event((draws.mean(0) - mean) ** 2)


def product_square(draws: Tensor, mean: Tensor) -> Tensor:
    """<D_1 - mean, D_2 - mean>, averaged over disjoint pairs of draws: an unbiased estimate of |E D - mean|^2, (B,)."""
    first, second = draws[::2] - mean, draws[1::2] - mean
    return (first * second).flatten(2).sum(2).mean(0)


ESTIMATORS = {"mean": mean_square, "product": product_square}


class Consistency(Term):
    """weight |E[D(x_s, s) | x_t] - D(x_t, t)|^2 / dim, x_s drawn by the model's own reverse process from x_t to a
    random earlier time s: the posterior mean is a martingale along it (Daras et al. 2023, 2302.09057). Where nearly all
    data are noisy it teaches the levels below theirs (Ambient diffusion, 2411.02780; weight 1 there, off by default).

    The trajectories carry no gradient; both estimates do.

    Args:
        weight: >= 0.
        steps: ancestral steps from t to s.
        draws: trajectories a sample; even for "product".
        estimator: "mean", of all draws, or "product", unbiased.

    Raises:
        ValueError: unknown estimator, or a number out of range.
    """

    def __init__(self, weight: float = 1.0, steps: int = 4, draws: int = 4, estimator: str = "mean") -> None:
        super().__init__()
        if estimator not in ESTIMATORS:
            raise ValueError(suggest(estimator, ESTIMATORS, "estimator"))
        if not weight >= 0 or steps < 1 or draws < 1 or (estimator == "product" and draws % 2):
            raise ValueError(
                "expected weight >= 0, steps >= 1 and draws >= 1 (even for 'product'), got "
                f"{weight}, {steps} and {draws}"
            )
        self.weight, self.steps, self.draws, self.estimator = float(weight), steps, draws, estimator

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """Sample by sample."""
        u = noise.fold("time").uniform(torch.empty(len(seen.t), device=seen.t.device)).double()
        s = align(u, seen.t) * seen.t
        draws = torch.stack([self._drawn(model, seen, s, noise.fold(i)) for i in range(self.draws)])
        square = ESTIMATORS[self.estimator](draws, seen.posterior.mean)
        return Losses(self.weight * square / seen.x_0[0].numel(), {}, {})

    def _drawn(self, model: Any, seen: Seen, s: Tensor, noise: Noise) -> Tensor:
        """D(x_s, s) of one trajectory."""
        times = [seen.t + (s - seen.t) * i / self.steps for i in range(self.steps + 1)]
        run = Sampler(Ancestral(), grid=TimeGrid.through(times))
        *_, last = run.steps(model, seen.x_t.detach(), seed=noise, condition=seen.condition)
        mean: Tensor = model(last.next, s, seen.condition).mean
        return mean

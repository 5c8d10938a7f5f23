"""The Fokker-Planck residual as a term of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Losses, Noise, Objective
from ornstein.processes.fokker_planck import log_density_residual

__all__ = ["FokkerPlanck"]


class FokkerPlanck(Objective):
    """weight times the mean of R^2 over collocation points drawn uniformly in space and time, with

        R = d_t u + div(f x) + f x . grad u - g^2 / 2 (Laplacian u + |grad u|^2)

    for the model's log-density u: where it is 0, the ODE and the SDE of the model have the same marginals (Deveney,
    Stanczuk, Kreusser, Budd and Schönlieb 2023, 2311.15996). The residual also sees a constant c(t) added to u, which
    no score does: with `centred`, its mean over the points of one time is taken off first, so that a potential need not
    be normalised; then `times` times share the points.

    Args:
        weight: >= 0. The residual is in nats per unit of the process's time, so its size goes with the rate.
        collocation: points per call.
        box: half the side of the cube that points are drawn in, in the units of x.
        first: smallest time.
        centred: whether the residual is taken up to a function of time.
        times: number of times that share the points, where it is centred.

    Raises:
        ValueError: a number out of range; a model whose network has no `potential`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        collocation: int = 1024,
        box: float = 3.5,
        first: float = 1e-3,
        centred: bool = False,
        times: int = 32,
    ) -> None:
        super().__init__()
        if not weight >= 0 or not box > 0 or not 0 < first < 1:
            raise ValueError(
                f"expected weight >= 0, box > 0 and first in (0, 1), got {weight}, {box} and {first}"
            )
        if collocation < 1 or (centred and not 2 * times <= collocation):
            raise ValueError(
                f"collocation: expected at least 1, and two a time where centred, got {collocation}"
            )
        self.weight, self.collocation, self.box, self.first = float(weight), collocation, float(box), first
        self.centred, self.times = centred, times

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The term as a batch loss."""
        if not hasattr(model, "log_density"):
            raise ValueError(
                f"FokkerPlanck needs a log-density, which {type(model).__name__} has not; "
                "use denoisers.PotentialDenoiser over networks.Potential"
            )
        x, t = self.points(batch["x_0"], noise)
        r = log_density_residual(model.process, model.log_density, x, t, create_graph=torch.is_grad_enabled())
        if self.centred:
            groups = r.reshape(-1, self.times)
            r = groups - groups.mean(0)
        return Losses(
            batch["x_0"].new_zeros(len(batch["x_0"])), {}, {"residual": self.weight * (r**2).mean()}
        )

    def points(self, x_0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Places (N, *event) in the box and times (N,), drawn of the first row's noise."""
        row, rounds = noise[:1], -(-self.collocation // self.times) if self.centred else 1
        count = rounds * self.times if self.centred else self.collocation
        place = (
            row.fold("place").uniform(x_0.new_empty(1, count * x_0[0].numel())).reshape(count, *x_0.shape[1:])
        )
        drawn = self.times if self.centred else count
        t = row.fold("time").uniform(x_0.new_empty(1, drawn)).reshape(drawn).double().repeat(rounds)
        return self.box * (2 * place - 1), self.first + (1 - self.first) * t

"""LML: the direction of another solver's step, turned by a damped rank-one matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Gaussian,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
    align,
)

__all__ = ["LML"]


class LML(Solver):
    """Levenberg-Marquardt-Langevin (2505.24222) as its released code computes it, around any affine solver.

    With g the direction of the inner solver's step and e = momentum g_before + (1 - momentum) g,

        v = (damping + e e^T)^-1 g, given the length of g:      g_across + share g_along,  then |v| = |g|

    g_along and g_across being g along and across e, and share = damping / (damping + |e|^2). This form does not
    cancel; g - e <e, g> / (damping + |e|^2), which is the same in exact arithmetic, leaves in float32 little but
    rounding noise where the damping is small beside |e|^2. With momentum = 0, e is g and LML is its inner solver:
    the released defaults change samples by that rounding alone.

    Args:
        solver: any solver of affine processes with one row a step. What it draws is drawn as before.
        damping: > 0, in units of |e|^2 if `relative`.
        momentum: share of the step before, 0 to 1.
        direction: "increment" turns what the step adds to (sigma_s / sigma_t) x, as the released DPM-Solver
            variants do; "noise" turns the predicted noise and leaves the predicted data, as the released DDIM does.
        relative: whether the damping is in units of |e|^2.
    """

    def __init__(
        self,
        solver: Solver,
        damping: float = 1.0,
        momentum: float = 0.1,
        direction: str = "increment",
        relative: bool = True,
    ) -> None:
        if not damping > 0:
            raise ValueError(f"damping: expected a number > 0, got {damping}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {momentum}")
        if direction not in ("increment", "noise"):
            raise ValueError(f"direction: expected 'increment' or 'noise', got {direction!r}")
        self.solver, self.damping, self.momentum = solver, float(damping), float(momentum)
        self.direction, self.relative = direction, relative
        self.order, self.stochastic = solver.order, solver.stochastic

    def check(self, process: Process) -> None:
        """An affine process, and whatever the inner solver asks."""
        super().check(process)
        self.solver.check(process)

    def on(self, process: Process) -> Solver:
        """Bound, and the inner solver with it."""
        bound = super().on(process)
        if isinstance(bound, LML):
            bound.solver = self.solver.on(process)
        return bound

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The inner solver's."""
        rows = self.solver.rows(process, grid)
        if len(rows) != len(grid):
            raise ValueError(f"LML: needs a solver with one row a step, got {self.solver!r}")
        return rows

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: Any,
        condition: Condition | None = None,
    ) -> tuple[Distribution, Any]:
        """The inner law, its mean moved by (turned - direction); what is remembered is g and the inner memory."""
        before, inner = memory or (None, None)
        law, inner = self.solver.law(x, posterior, row, inner, condition)
        if not isinstance(law, Gaussian) or posterior is None:
            raise ValueError(
                f"LML: {self.solver!r} takes a step that is not a Gaussian around an affine mean"
            )
        g, weight = self._direction(x, posterior, row, law.mean, condition)
        e = g if before is None else self.momentum * before + (1 - self.momentum) * g
        moved = law.mean + align(weight, x) * (self._turned(g, e) - g)
        return Gaussian(moved, law.scale, law.space), (g, inner)

    def _direction(
        self, x: Tensor, posterior: Posterior, row: Row, mean: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Any]:
        """g, and its weight in the mean."""
        if self.direction == "noise":
            assert isinstance(self.process, AffineProcess)
            return posterior.noise, row.a * self.process.at(row.t).sigma
        still = Posterior(posterior.process, x, row.t, torch.zeros_like(mean), end=posterior.end)
        linear, _ = Solver.law(self.solver, x, still, row._replace(past=()), None, condition)
        return mean - linear.mean, 1.0  # type: ignore[attr-defined]

    def _turned(self, g: Tensor, e: Tensor) -> Tensor:
        return turned(g, e, self.damping, self.relative)


def turned(g: Tensor, e: Tensor, damping: float, relative: bool) -> Tensor:
    """(damping + e e^T)^-1 g with the length of g, sample by sample, without cancellation."""
    flat, along = g.flatten(1), e.flatten(1)
    square = (along * along).sum(1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    part = (flat * along).sum(1, keepdim=True) / square * along
    share = damping / (1 + damping) if relative else damping / (damping + square)
    v = (flat - part) + share * part
    length = v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    return (v * (flat.norm(dim=1, keepdim=True) / length)).reshape(g.shape)

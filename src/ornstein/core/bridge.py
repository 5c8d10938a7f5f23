"""Processes whose far end is a point: how a run leaves it, and an affine process given its state at some time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .condition import Condition
from .distribution import Distribution
from .grid import TimeGrid
from .posterior import Posterior
from .process import AffineProcess, Process
from .solver import Row, Solver
from .tree import Tree

__all__ = ["Departure", "Pinned", "departing"]


class Departure(Solver):
    """The first row of a run that starts at a point: the bridge averaged over the posterior, whatever solver goes
    on from there. u_s ~ N(alpha_s D, sigma_s^2) is the true law of the state but for the posterior's variance,
    which counts little where sigma_s >> alpha_s.
    """

    stochastic = True
    reverses = True

    def check(self, process: Process) -> None:
        """Any process; in a tree state the other leaves take an ancestral step."""

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The ancestral numbers; of a process that is not affine, the times."""
        if not isinstance(process, AffineProcess):
            return [Row(r.t, r.s) for r in grid]
        return [Row.of(r.t, r.s, process.step(r.t, r.s, 1.0)) for r in grid]

    def law(
        self, x: Tree, posterior: Posterior | None, row: Row, memory: Any, condition: Condition | None = None
    ) -> tuple[Distribution, Any]:
        """The averaged bridge."""
        if row.a is None:
            return self.process.bridge(x, posterior, row.t, row.s, condition), memory
        return super().law(x, posterior, row, memory, condition)


def departing(grid: TimeGrid, process: AffineProcess) -> TimeGrid:
    """The grid, its rows that start from a point (alpha = sigma = 0) given to a `Departure`."""
    leave = Departure()
    return TimeGrid(row._replace(solver=leave) if bool(process.is_point(row.t)) else row for row in grid)


class Pinned(AffineProcess):
    """An affine process given its state x_end at `t_end`, by Bayes' rule for linear Gaussian kernels:

        g = (alpha_T / alpha_t) sigma_t^2 / sigma_T^2
        alpha = alpha_t - g alpha_T,    anchor_weight = g,    sigma = sigma_t sqrt(1 - g alpha_T / alpha_t)

    From `t_end` on the state rests at x_end. Of variance exploding this is a Brownian bridge, of OU its bridge;
    these are the processes of denoising diffusion bridge models (Zhou et al. 2023, 2309.16948).

    Args:
        process: without an anchor, for a second one has no single weight.
        x_end: broadcast against states: (B, ...) or (1, ...).
        t_end: in (0, 1].

    Raises:
        ValueError: a process with an anchor, a time outside (0, 1], or one at which nothing is random.
    """

    anchored = True
    x_end: Tensor

    def __init__(self, process: AffineProcess, x_end: Tensor, t_end: float = 1.0) -> None:
        super().__init__(process.space)
        if process.anchored:
            raise ValueError(f"pin: {type(process).__name__} has an anchor already")
        if not 0 < t_end <= 1 or process.at(float(t_end)).sigma == 0:
            raise ValueError(f"t_end: expected in (0, 1], where the state is random; got {t_end}")
        self.process, self.t_end = process, float(t_end)
        self.register_buffer("x_end", x_end, persistent=False)

    @property
    def learned(self) -> bool:
        """As of the process that is pinned."""
        return self.process.learned

    def end(self, condition: Condition | None) -> Tensor:
        """The state it is pinned to."""
        return self.x_end

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The formulas above; 1 - g alpha_T / alpha_t = 1 - ratio(T, t)^2 keeps the ends exact."""
        t = t.clamp(max=self.t_end)
        (alpha, _, sigma), (alpha_end, _, sigma_end) = self.process.schedule(t), self.process.at(self.t_end)
        free = 1 - (alpha_end * sigma / (alpha * sigma_end)) ** 2 if alpha_end else 1 + 0 * t
        free = free.masked_fill(t == self.t_end, 0.0)
        weight = alpha_end / alpha * (sigma / sigma_end) ** 2 if alpha_end else (t == self.t_end).to(t)
        return alpha * free, weight, sigma * free.clamp(min=0).sqrt()

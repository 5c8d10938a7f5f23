"""Rows that are not a step of a method: noise again, churn, or wait."""

from __future__ import annotations

import math

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Forward,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
)

__all__ = ["Churn", "Hold", "Renoise", "churned"]


class Renoise(Solver):
    """x_s ~ q(x_s | x_0 = what the denoiser says): predict, then noise afresh to any level, also t itself.

    For discrete states the prediction is a draw through the posterior's probabilities.
    """

    stochastic = True

    def check(self, process: Process) -> None:
        """Any process that has marginals."""
        if type(process).marginal is Process.marginal:
            raise ValueError(f"Renoise: {type(process).__name__} has no marginal to noise to")

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The level at s, for an affine process."""
        if not isinstance(process, AffineProcess):
            return [Row(r.t, r.s) for r in grid]
        rows = []
        for r in grid:
            level = process.at(r.s)
            rows.append(Row(r.t, r.s, 0.0, level.alpha, (), level.anchor, level.sigma))
        return rows

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """The marginal at s of the prediction."""
        if row.a is not None or posterior is None:
            return super().law(x, posterior, row, memory, condition)
        return self.process.marginal(posterior.mean, row.s, condition), memory


class Hold(Solver):
    """The state stays as it is, and no network is called: for a leaf of a tree state that waits."""

    def check(self, process: Process) -> None:
        """Any process."""

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """Identity rows.

        Raises:
            ValueError: a row that moves.
        """
        for r in grid:
            if r.t is not r.s and r.t != r.s:
                raise ValueError(f"Hold: a row from t={r.t} to s={r.s} moves")
        return [Row(r.t, r.s, 1.0, 0.0, calls=False) for r in grid]


class Churn(Forward):
    """A row up by the process's own kernel with its noise multiplied by `noise` (S_noise of 2206.00364).

    Args:
        noise: > 0; 1 is `Forward`, and a little above 1 makes up for detail that a network loses (1.003 there).
    """

    def __init__(self, noise: float = 1.0) -> None:
        if not noise > 0:
            raise ValueError(f"noise: expected a number > 0, got {noise}")
        self.noise = float(noise)

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The kernel's numbers, the scale multiplied."""
        if not isinstance(process, AffineProcess):
            raise ValueError(f"Churn needs an affine process, got {type(process).__name__}; use Forward()")
        return [row._replace(scale=self.noise * row.scale) for row in super().rows(process, grid)]


def churned(
    grid: TimeGrid,
    process: AffineProcess,
    churn: float = 40.0,
    low: float = 0.05,
    high: float = 50.0,
    noise: float = 1.003,
) -> TimeGrid:
    """The stochastic sampler of 2206.00364, algorithm 2, as a grid: before a row t -> s with k = sigma / alpha
    from `low` to `high` comes a row up to k_hat = (1 + gamma) k, gamma = min(churn / N, sqrt(2) - 1), and the
    step goes from there. Run it with `Heun()`; no call is added. Up is at most to the process's own end.

    Args:
        grid: rows of which N are counted; those with tensor times are refused.
        process: gives the levels.
        churn: S_churn >= 0; 0 leaves the grid as it is. The defaults are the paper's for its VP and VE networks
            on CIFAR-10 and ImageNet 64, roughly: S_churn is tuned for every network.
        low: S_min, the lowest k that is churned.
        high: S_max, the highest.
        noise: S_noise.
    """
    if not churn >= 0:
        raise ValueError(f"churn: expected a number >= 0, got {churn}")
    if not isinstance(process, AffineProcess):
        raise ValueError(f"churned: needs an affine process, got {type(process).__name__}")
    if not isinstance(grid, TimeGrid):
        raise TypeError(f"grid: expected a TimeGrid, such as TimeGrid.karras(18, process), got {grid!r}")
    if any(not isinstance(row.t, float) for row in grid):
        raise ValueError("churned: needs a grid of one time for all rows and entries")
    up, gamma = Churn(noise), min(churn / len(grid), math.sqrt(2) - 1)
    made = TimeGrid()
    for row in grid:
        k = math.exp(-process.half_log_snr(row.t))
        target = process.time_at(-math.log(k * (1 + gamma))) if gamma > 0 and low <= k <= high else row.t
        if target > row.t:
            made += TimeGrid([(row.t, target, up), (target, row.s, row.solver)])
        else:
            made += TimeGrid([row])
    return made

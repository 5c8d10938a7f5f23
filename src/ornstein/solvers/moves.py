"""Rows that are not a step of a method: noise again, or wait."""

from __future__ import annotations

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
)

__all__ = ["Hold", "Renoise"]


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

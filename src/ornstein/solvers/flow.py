"""Runge-Kutta methods on the probability flow dx/dt = v(x, t), in the process's own time."""

from __future__ import annotations

from typing import Any

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
    combine,
)

from .ancestral import refuse_from_data

__all__ = ["Euler", "Heun"]


def _slopes(process: AffineProcess, t: Any) -> tuple[Any, Any, Any]:
    """v = p x + q D + r y: the probability flow's velocity as numbers."""
    level, slope = process.at(t), process.slope(t)
    p = slope.sigma / level.sigma
    return p, slope.alpha - p * level.alpha, slope.anchor - p * level.anchor


class Euler(Solver):
    """x_s = x + (s - t) v(x, t). DDIM is the same order and exact where the denoiser is constant: prefer it."""

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step."""
        assert isinstance(process, AffineProcess)
        refuse_from_data(self, process, grid)
        return [_euler(process, r.t, r.s) for r in grid]


def _euler(process: AffineProcess, t: Any, s: Any) -> Row:
    h = s - t
    p, q, r = _slopes(process, t)
    if isinstance(h, float) and h == 0.0:
        return Row(t, s, 1.0, 0.0)
    return Row(t, s, 1.0 + h * p, h * q, (), h * r)


class Heun(Solver):
    """The trapezoidal predictor-corrector, two rows and two network calls a step:

        predict   x' = x + h v(x, t)
        correct   x_s = x' + h/2 (v(x', s) - v(x, t))

    The correction is an increment to the exposed x', so that what a guide did to it is kept. The step that
    ends at time 0 where sigma = 0 is Euler's alone, since the velocity may be infinite there (as in
    2206.00364).
    """

    order = 2
    history = 1

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """Two rows a step."""
        assert isinstance(process, AffineProcess)
        refuse_from_data(self, process, grid)
        if any(isinstance(r.s, Tensor) for r in grid):
            raise ValueError("Heun: needs one time for all rows and entries; use DDIM() for vector time")
        rows = []
        for r in grid:
            rows.append(_euler(process, r.t, r.s))
            if process.at(r.s).sigma != 0 and r.s != r.t:
                rows.append(_corrector(process, r.t, r.s))
        return rows

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """The predictor remembers its increment h v(x, t); the corrector takes half of it back."""
        law, _ = super().law(x, posterior, row, memory, condition)
        assert isinstance(law, Gaussian)
        if row.past:
            weights = row.past[0]
            if isinstance(weights, Tensor) and len(weights.unique()) > 1:
                raise ValueError("Heun: samples at predictor and at corrector rows cannot share a step")
            return law, None
        return law, (combine(1.0, law.mean, -1.0, x),)


def _corrector(process: AffineProcess, t: float, s: float) -> Row:
    half = 0.5 * (s - t)
    p, q, r = _slopes(process, s)
    return Row(s, s, 1.0 + half * p, half * q, (-0.5,), half * r)

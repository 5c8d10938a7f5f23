"""Runge-Kutta methods on the probability flow dx/dt = v(x, t), in the process's own time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
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
from .stochastic import one_time

__all__ = ["Euler", "Heun", "RungeKutta4"]

Tableau = tuple[tuple[float, ...], ...]


class RungeKutta(Solver):
    """An explicit method, given as its tableau: as many rows and network calls a step as it has lines.

    Line i holds the weights a_ij of stage i + 1, X_(i+1) = x + h sum_j a_ij k_j with k_j = v(X_j, t_j); the last
    line's state is the step's. Each row adds to the exposed X_i the difference of two lines,

        X_(i+1) = X_i + h sum_j (a_ij - a_(i-1)j) k_j

    with the earlier k_j read off the increments that were made, so that what a guide did to X_i is kept. The
    step that ends at time 0 where sigma = 0 is Euler's alone, since the velocity may be infinite there (as in
    2206.00364).
    """

    latent = True
    tableau: Tableau

    def __init_subclass__(cls, **options: Any) -> None:
        """The number of increments that are read."""
        super().__init_subclass__(**options)
        cls.history = len(cls.tableau) - 1

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """As many rows a step as there are stages."""
        assert isinstance(process, AffineProcess)
        refuse_from_data(self, process, grid)
        rows: list[Row] = []
        for r in grid:
            t, s = one_time(self, r.t, r.s) if self.history else (r.t, r.s)
            if isinstance(t, float) and process.at(t).sigma == 0:
                rows.append(Row.of(t, s, process.step(t, s, 0.0)))  # waits, or is refused
            elif not self.history or process.at(s).sigma == 0 or s == t:
                rows.append(_stage(process, t, s, s - t, (1.0,)))
            else:
                rows += self._stages(process, t, s)
        return rows

    def _stages(self, process: AffineProcess, t: float, s: float) -> list[Row]:
        h = s - t
        times = [t, *(t + h * sum(line) for line in self.tableau[:-1]), s]
        weights = _increments(self.tableau)
        return [_stage(process, times[i], times[i + 1], h, line) for i, line in enumerate(weights)]

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """A row remembers its increment, unless it is a step's last."""
        law, _ = super().law(x, posterior, row, memory, condition)
        assert isinstance(law, Gaussian)
        if len(row.past) == self.history and not isinstance(row.a, Tensor):
            return law, memory
        return law, (combine(1.0, law.mean, -1.0, x), *(memory or ()))[: self.history]


class Euler(RungeKutta):
    """x_s = x + (s - t) v(x, t). DDIM is the same order and exact where the denoiser is constant: prefer it."""

    tableau = ((1.0,),)


class Heun(RungeKutta):
    """The trapezoidal predictor-corrector, two rows and two network calls a step:

    predict   x' = x + h v(x, t)
    correct   x_s = x' + h/2 (v(x', s) - v(x, t))
    """

    order = 2
    tableau = ((1.0,), (1 / 2, 1 / 2))


class RungeKutta4(RungeKutta):
    """The classical method of order 4, four rows and four network calls a step (Kutta 1901)."""

    order = 4
    tableau = ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@cache
def _increments(tableau: Tableau) -> list[tuple[float, ...]]:
    """For each stage the weight of its own h k, then those of the earlier increments, newest first."""
    found: list[tuple[float, ...]] = []
    slopes: list[list[float]] = []  # h k_j as a sum of increments
    before: Sequence[float] = ()
    for i, line in enumerate(tableau):
        change = [a - b for a, b in zip(line, [*before, 0.0], strict=True)]
        past = [sum(c * k[j] for c, k in zip(change, slopes, strict=False) if j < len(k)) for j in range(i)]
        found.append((change[i], *reversed(past)))
        slopes.append([*(-p / change[i] for p in past), 1 / change[i]])
        before = line
    return found


def _stage(process: AffineProcess, t: Any, s: Any, h: Any, weights: Sequence[float]) -> Row:
    """x + h weights_0 v(x, t) + earlier increments, where v = p u + q D + b' y is the flow's velocity."""
    h = h * weights[0]
    if isinstance(h, float) and h == 0.0:
        return Row(t, s, 1.0, 0.0)
    level, slope = process.at(t), process.slope(t)
    p = slope.sigma / level.sigma
    return Row(
        t,
        s,
        1.0 + h * p,
        h * (slope.alpha - p * level.alpha),
        tuple(weights[1:]),
        h * (slope.anchor - p * level.anchor),
    )

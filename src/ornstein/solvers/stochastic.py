"""The reverse SDE discretised in the process's own time: the predictors of score-based SDEs (2011.13456).

For one process dx = (f x + c y) dt + g dW there are many reversals with the same marginals, one for every
amount of noise w >= 0 that is added on the way back:

    dx = [f x + c y - (1 + w^2)/2 g^2 score] dt + w g dW,        t running down

w = 1 is Anderson's reversal, w = 0 the probability flow. `stochasticity` is this w in every solver of the
library; `Stochastic` integrates the same equations with their linear part exact, and is to be preferred.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from ornstein.core import AffineProcess, Process, Row, Solver, TimeGrid

from .ancestral import refuse_upwards

__all__ = ["EulerMaruyama", "ReverseDiffusion"]


class _Reversed(Solver):
    """x_s = kept x - constant y + (1 + w^2)/2 variance score + w sqrt(variance) z.

    A step that starts where there is no signal or no noise (g or the score is infinite there) is
    `AffineProcess.step`'s; one that ends where there is no noise draws none, as in 2011.13456, appendix G.
    """

    stochastic = True

    def __init__(self, stochasticity: float = 1.0) -> None:
        if not stochasticity >= 0:
            raise ValueError(f"stochasticity: expected a number >= 0, got {stochasticity}")
        self.stochasticity = float(stochasticity)
        self.stochastic = stochasticity > 0

    @abstractmethod
    def _numbers(self, process: AffineProcess, t: float, s: float) -> tuple[Any, Any, Any]:
        """kept, constant and variance."""

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step."""
        assert isinstance(process, AffineProcess)
        refuse_upwards(self, grid)
        return [self._row(process, *one_time(self, r.t, r.s)) for r in grid]

    def _row(self, process: AffineProcess, t: float, s: float) -> Row:
        level = process.at(t)
        if s >= t or level.alpha == 0 or level.sigma == 0:
            return Row.of(t, s, process.step(t, s, self.stochasticity))
        kept, constant, variance = self._numbers(process, t, s)
        w = self.stochasticity
        pull = 0.5 * (1 + w**2) * variance / level.sigma**2  # score = (alpha D + b y - x) / sigma^2
        scale = w * variance**0.5 if process.at(s).sigma else 0.0
        return Row(t, s, kept - pull, pull * level.alpha, (), pull * level.anchor - constant, scale)


class EulerMaruyama(_Reversed):
    """The reverse SDE by Euler's rule, h = t - s (2011.13456, appendix E):

        x_s = x - h (f x + c y) + h (1 + w^2)/2 g^2 score + w g sqrt(h) z

    Weak order 1. It needs many steps wherever f or g is large; kept as the baseline it is.

    Args:
        stochasticity: w >= 0; 0 is Euler's rule on the probability flow.
    """

    def _numbers(self, process: AffineProcess, t: float, s: float) -> tuple[Any, Any, Any]:
        f, c, g = process.drift_and_diffusion(t)
        return 1 - (t - s) * f, (t - s) * c, (t - s) * g**2


class ReverseDiffusion(_Reversed):
    """The step that mirrors the forward step x_t = A x_s + C y + G z (2011.13456, appendix E, eq. 46):

        x_s = (2 - A) x - C y + (1 + w^2)/2 G^2 score + w G z

    with A, C, G of the exact forward kernel. Weak order 1; for variance-exploding processes A = 1.

    Args:
        stochasticity: w >= 0.
    """

    def _numbers(self, process: AffineProcess, t: float, s: float) -> tuple[Any, Any, Any]:
        a, _, c, scale = process.forward_step(s, t)
        return 2 - a, c, scale**2


def one_time(solver: Solver, t: object, s: object) -> tuple[float, float]:
    """The two times as numbers.

    Raises:
        ValueError: the times are tensors.
    """
    if not isinstance(t, float) or not isinstance(s, float):
        name = type(solver).__name__
        raise ValueError(f"{name}: needs one time for all rows and entries; use Stochastic() for vector time")
    return t, s

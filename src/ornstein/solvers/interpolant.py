"""Generation with a diffusion coefficient chosen at will: one family from the flow to any amount of noise."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    accumulate,
    combine,
)

from .ancestral import refuse_from_data

__all__ = ["FreeDiffusion"]


class FreeDiffusion(Solver):
    """dx = velocity dt + epsilon(t) score |dt| + sqrt(2 epsilon(t)) dW: the same marginals for every epsilon(t) >= 0.

    It goes down (generates) and up (encodes) alike: the noise and the score's pull are taken along the direction of
    travel. epsilon = 0 is the probability flow, epsilon = g^2 / 2 the reverse SDE of a process with diffusion g.
    Albergo, Boffi and Vanden-Eijnden 2023 (2303.08797), and for diffusion models Song et al. 2020 (2011.13456).

    The velocity and the score are asked of the posterior, so this is the solver of a two-sided `Interpolant`, from both
    of whose ends it may start: there the noise cannot be read off the state, while velocity and score are finite.

    Args:
        epsilon: a number >= 0, or a function of time to one.
        order: 1 is Euler-Maruyama; 2 corrects it by Heun's increment, with the same noise: two network calls a step,
            order 2 for the flow, and in law where epsilon is constant.

    Raises:
        ValueError: a negative epsilon, or another order.
    """

    latent = True  # it is right where the other end is known through the posterior only
    history = 1

    def __init__(self, epsilon: float | Callable[[float], float] = 0.0, order: int = 1) -> None:
        if not callable(epsilon) and not epsilon >= 0:
            raise ValueError(f"epsilon: expected a number >= 0, or a function of time, got {epsilon}")
        if order not in (1, 2):
            raise ValueError(f"order: expected 1 or 2, got {order}")
        self.epsilon, self.order = epsilon, order
        self.stochastic = callable(epsilon) or epsilon > 0

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step, or two: `past` holds what velocity, score and the remembered increment are multiplied by.

        Raises:
            ValueError: times that differ over rows or entries.
        """
        assert isinstance(process, AffineProcess)
        latent = getattr(process, "latent", False)
        if not latent:
            refuse_from_data(self, process, grid)
        found = []
        for r in grid:
            if isinstance(r.t, Tensor) or isinstance(r.s, Tensor):
                raise ValueError(
                    "FreeDiffusion: needs one time for all rows and entries; use DDIM() for vector time"
                )
            found.append(self._row(process, r.t, r.t, r.s, 1.0))
            if self.order == 2 and r.s != r.t and (latent or process.at(r.s).sigma != 0):
                found.append(self._row(process, r.s, r.t, r.s, 0.5))
        return found

    def _row(self, process: AffineProcess, at: float, t: float, s: float, share: float) -> Row:
        """A predictor from t to s, or where it is evaluated `at` s the corrector that replaces half of it."""
        h, width = share * (s - t), share * abs(s - t) * self._epsilon(at)
        gain, scale = _gain(process, at, h, width), 0.0
        if share == 1.0:
            middle = self._epsilon(0.5 * (s + t)) if self.order == 2 else self._epsilon(t)
            scale = math.sqrt(2 * middle * abs(s - t))
        back = () if share == 1.0 else (-share,)
        return Row(at, s, 1.0, gain, (h, width, *back), 0.0, scale)

    def _epsilon(self, t: float) -> float:
        value = float(self.epsilon(t) if callable(self.epsilon) else self.epsilon)
        if not value >= 0:
            raise ValueError(f"epsilon: expected numbers >= 0, got {value} at t={t}")
        return value

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """N(x + h velocity + |h| epsilon score, 2 epsilon |h|); the corrector takes half the predictor's drift back."""
        assert posterior is not None
        h, width, *back = row.past
        mean = combine(1.0, x, h, posterior.velocity)
        if _any(width):
            mean = accumulate(mean, width, posterior.score, inplace=False)
        drift = combine(1.0, mean, -1.0, x)
        if back:
            if not memory:
                raise ValueError("FreeDiffusion: a corrector reads the row before it; pass its memory")
            mean = accumulate(mean, back[0], memory[0], inplace=False)
        return Gaussian(mean, row.scale, self.process.space, row.b), (drift,)


def _any(width: Any) -> bool:
    return bool(width.any()) if isinstance(width, Tensor) else width != 0


def _gain(process: AffineProcess, t: float, h: float, width: float) -> float | None:
    """d mean / d posterior mean: of the velocity alpha' - alpha sigma' / sigma, of the score alpha / sigma^2."""
    level = process.at(t)
    if level.sigma == 0:
        return None
    slope = process.slope(t)
    gain: float = h * (slope.alpha - level.alpha * slope.sigma / level.sigma)
    return gain + width * level.alpha / level.sigma**2

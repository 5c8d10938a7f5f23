"""Corrector rows t -> t: Langevin steps that leave the law q_t as it is, and pull a state of another law to it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Gaussian,
    Matrix,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
    align,
)

__all__ = ["Langevin", "PreconditionedLangevin", "predictor_corrector"]


class _Corrector(Solver):
    """A row whose a, b and c make the score: score = (alpha D + anchor_weight y - x) / sigma^2."""

    stochastic = True

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """Rows that stay.

        Raises:
            ValueError: a row that moves, or one where there is no noise and so no score.
        """
        assert isinstance(process, AffineProcess)
        for r in grid:
            if r.t is not r.s and r.t != r.s:
                raise ValueError(
                    f"{type(self).__name__}: a row from t={r.t} to s={r.s} moves; correctors stay, and "
                    "predictor_corrector(grid, corrector) places them between a predictor's rows"
                )
        return [self._row(process, r.t) for r in grid]

    def _row(self, process: AffineProcess, t: Any) -> Row:
        level = process.at(t)
        if not isinstance(level.sigma, Tensor) and level.sigma == 0:
            raise ValueError(f"{type(self).__name__}: there is no noise at t={t}, and so no score")
        inverse = 1 / level.sigma**2
        return Row(t, t, -inverse, level.alpha * inverse, (), level.anchor * inverse, level.sigma)


_LONGEST = 4.0  # steps by the score's norm, in those by the level


class Langevin(_Corrector):
    """The corrector of score-based SDEs (2011.13456, algorithms 4 and 5) as a proper Gaussian given x:

        x <- x + e score + sqrt(2 e) z

    "level": e = 2 snr^2 sigma_t^2, one number for all states, so that q_t is left invariant as snr -> 0.
    "score": e = 2 (snr E|z| / |score|)^2 with the norm of each sample's own score: the paper's rule, with its
    drawn |z| replaced by the mean and its average over the batch left out, and at most 4 times the step of "level",
    since at a mode the score vanishes and the rule's own step has no bound. Since e then varies with x, what is
    left invariant as snr -> 0 is q_t / e, not q_t; in many dimensions, where |score| hardly varies, the two meet.

    Args:
        snr: the paper's signal-to-noise ratio r, 0.16 there for images; > 0.
        step: "level" or "score".
    """

    def __init__(self, snr: float = 0.16, step: str = "level") -> None:
        if not snr > 0:
            raise ValueError(f"snr: expected a number > 0, got {snr}")
        if step not in ("level", "score"):
            raise ValueError(f"step: expected 'level' or 'score', got {step!r}")
        self.snr, self.step = float(snr), step

    def _row(self, process: AffineProcess, t: Any) -> Row:
        score = super()._row(process, t)
        if self.step == "score":
            return score
        e = 2 * (self.snr * score.scale) ** 2
        noise = 2 * self.snr * score.scale
        return score._replace(a=1 + e * score.a, b=e * score.b, c=e * score.c, scale=noise)

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """Linear in x and D at "level"; at "score" the step size is each sample's own."""
        law, memory = super().law(x, posterior, row, memory, condition)
        if self.step == "level":
            return law, memory
        assert isinstance(law, Gaussian)
        score, space = law.mean, law.space
        square = space.inner(score, score).clamp(min=torch.finfo(score.dtype).tiny)
        e = align(2 * (self.snr * mean_norm(space.dim(score))) ** 2 / square, x)
        e = e.clamp(max=align(_LONGEST * 2 * (self.snr * row.scale) ** 2, x))  # at a mode the score vanishes
        return Gaussian(x + e * score, (2 * e).sqrt(), space, e * align(row.b, x)), memory


class PreconditionedLangevin(_Corrector):
    """Langevin with a damped Hessian: Newton's direction where the density is log-concave, by the denoiser's
    covariance C = Var(x_0 | x_t), which `Posterior.variance` must hold:

        H = (1 - alpha^2 C / sigma^2) / sigma^2 = -Hessian of log q_t,      M = (|H| + damping / sigma^2)^-1
        x <- x + e M score + sqrt(e M (2 - e M |H|)) z

    |H| has the absolute eigenvalues of H. On a Gaussian q_t is left exactly as it is for every step and damping;
    elsewhere M varies with x, and q_t is left only as far as M is constant. This is what the abstract of
    Levenberg-Marquardt-Langevin (2505.24222) describes; its released code does `LML`.

    Args:
        step: e, in (0, 2); at 1 and without damping a Gaussian is reached in one step.
        damping: >= 0, in units of 1 / sigma^2. H itself is at most 1 / sigma^2.
    """

    def __init__(self, step: float = 0.2, damping: float = 0.1) -> None:
        if not 0 < step < 2:
            raise ValueError(f"step: expected a number between 0 and 2, got {step}")
        if not damping >= 0:
            raise ValueError(f"damping: expected a number >= 0, got {damping}")
        self.step, self.damping = float(step), float(damping)

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """A Gaussian whose scale is a matrix where the covariance is one, else entry by entry."""
        variance = None if posterior is None else posterior.variance
        if variance is None:
            raise ValueError("PreconditionedLangevin: this denoiser gives no variance of x_0 given x_t")
        law, memory = super().law(x, posterior, row, memory, condition)
        assert isinstance(law, Gaussian)
        score, e = law.mean, self.step
        inverse, weight = -align(row.a, variance), align(row.b, variance)
        curvature = -(weight**2) * variance  # H less its first term, 1 / sigma^2
        if variance.shape == x.shape:
            move, spread = self._inverted((curvature + inverse).abs(), inverse)
            return Gaussian(x + e * move * score, spread, law.space), memory
        eye = torch.eye(variance.shape[-1], dtype=variance.dtype, device=variance.device)
        values, vectors = torch.linalg.eigh(curvature + inverse * eye)
        lead = inverse.reshape(-1, 1) if isinstance(inverse, Tensor) else inverse
        move, spread = self._inverted(values.abs(), lead)
        newton = (vectors @ (move.unsqueeze(-1) * (vectors.mT @ score.flatten(1).unsqueeze(-1)))).reshape(
            x.shape
        )
        return Gaussian(x + e * newton, Matrix(vectors * spread.unsqueeze(-2)), law.space), memory

    def _inverted(self, steepness: Tensor, inverse: Any) -> tuple[Tensor, Tensor]:
        """M, and the square root of e M (2 - e M |H|)."""
        floor = 1e-12 * inverse  # without damping a flat direction would move without bound
        move = 1 / (steepness + self.damping * inverse + floor)
        return move, (self.step * move * (2 - self.step * move * steepness)).sqrt()


def mean_norm(dim: Any) -> Tensor:
    """E|z| of z ~ N(0, I) in `dim` dimensions: sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2)."""
    half = 0.5 * torch.as_tensor(dim, dtype=torch.float64)
    return math.sqrt(2) * torch.exp(torch.lgamma(half + 0.5) - torch.lgamma(half))


def predictor_corrector(grid: TimeGrid, corrector: Solver, times: int = 1) -> TimeGrid:
    """A grid with `times` rows s -> s of `corrector` after every row t -> s but the last (2011.13456, algorithm 1).

    Each costs a network call: against a predictor alone, compare at equal calls. Rows of the predictor keep their
    solver, and a sampler's own solver is used where they name none.
    """
    if not isinstance(times, int) or times < 1:
        raise ValueError(f"times: expected an integer of at least 1, got {times!r}")
    made = TimeGrid(grid[:1])
    for row in grid[1:]:
        made += TimeGrid([(row.t, row.t, corrector)]) * times + TimeGrid([row])
    return made

"""Two-sided stochastic interpolants: paths between any two laws, through latent noise.

    x_t = alpha(t) x_0 + beta(t) y + gamma(t) z,    alpha(0) = beta(1) = 1,  all others 0 at the ends

Albergo, Boffi and Vanden-Eijnden 2023 (2303.08797). The paper's time is s = 1 - t. It is an affine process whose
other end y is latent: a denoiser's posterior carries `end` = E[y | x_t] beside `mean` = E[x_0 | x_t].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Gaussian,
    Level,
    Posterior,
    StepNumbers,
    Time,
    TimeGrid,
    Tree,
    align,
    combine,
    suggest,
)

from .laws import GaussianMixture, Points

__all__ = ["Interpolant"]

SQUARED_GAMMAS: dict[
    str, Callable[[Tensor], Tensor]
] = {  # gamma^2 of time t; its slope is finite at both ends
    "brownian": lambda t: t * (1 - t),
    "quadratic": lambda t: (t * (1 - t)) ** 2,
    "sine-squared": lambda t: torch.sin(math.pi * t) ** 4,
    "zero": lambda t: 0.0 * t,
}


def _linear(t: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - t, t


def _trigonometric(t: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps alpha^2 + beta^2 + gamma^2 = 1. Sines from the near end, so that both ends are exact."""
    size, angle = (1 - gamma2).sqrt(), 0.5 * math.pi * t
    return size * torch.sin(0.5 * math.pi * (1 - t)), size * torch.sin(angle)


def _encoding_decoding(t: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    """Through pure noise half way: each end is gone before the other comes."""
    wave = torch.cos(math.pi * t) ** 2
    return torch.where(t < 0.5, wave, 0.0), torch.where(t > 0.5, wave, 0.0)


PATHS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "linear": _linear,
    "trigonometric": _trigonometric,
    "encoding-decoding": _encoding_decoding,
}


class Interpolant(AffineProcess):
    """x_t = alpha x_0 + beta y + gamma z with y latent, drawn from `base` and independent of x_0 unless paired.

    Where y is given, as the condition's `anchor`, this is the affine process with that anchor (a bridge): the two
    have the same conditional laws, and denoisers that know y and that do not know it.

    Args:
        path: "linear" (1 - t, t), "trigonometric" (sqrt(1 - gamma^2) times cosine and sine) or "encoding-decoding"
            (cos^2(pi t) on each half: through noise alone half way).
        gamma: "brownian" sqrt(t (1 - t)), "quadratic" t (1 - t), "sine-squared" sin^2(pi t), or "zero".
        variance: multiplies gamma^2.
        base: law of y: None for a standard normal, a `GaussianMixture`, or samples (N, *event).

    Raises:
        ValueError: unknown names, a variance that is not positive, a path that passes through no noise at all or
            needs a smaller gamma.
    """

    anchored = True
    latent = True  # the other end is known only through the posterior
    base: GaussianMixture | Tensor | None
    fields = frozenset({"anchor"})

    def __init__(
        self, path: str = "linear", gamma: str = "brownian", variance: float = 1.0, base: Any = None
    ) -> None:
        super().__init__()
        for name, known, what in ((path, PATHS, "path"), (gamma, SQUARED_GAMMAS, "gamma")):
            if name not in known:
                raise ValueError(suggest(name, known, what))
        if not variance > 0:
            raise ValueError(f"variance: expected a number > 0, got {variance}")
        largest = variance * float(SQUARED_GAMMAS[gamma](torch.tensor(0.5, dtype=torch.float64)))
        if path == "trigonometric" and largest >= 1:
            raise ValueError(f"path 'trigonometric' needs gamma below 1, got {largest**0.5:.3g} at t=0.5")
        if path == "encoding-decoding" and largest == 0:
            raise ValueError("path 'encoding-decoding' passes through noise alone: gamma cannot be 'zero'")
        self.path, self.gamma, self.variance = path, gamma, float(variance)
        self._ends: dict[float, Level] = {}
        object.__setattr__(self, "base", base if isinstance(base, GaussianMixture) else _samples(base))

    def squared_gamma(self, t: Tensor) -> Tensor:
        """gamma^2 at float64 times, differentiable also at the ends."""
        return self.variance * SQUARED_GAMMAS[self.gamma](t)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, beta, gamma."""
        gamma2 = self.squared_gamma(t)
        alpha, beta = PATHS[self.path](t, gamma2)
        # autograd's slope of sqrt(0) is NaN
        gamma = torch.zeros_like(t) if self.gamma == "zero" else gamma2.clamp(min=0.0).sqrt()
        return alpha, beta, gamma

    def slopes(self, t: Time) -> Level:
        """alpha', beta' and gamma gamma' = (gamma^2)' / 2: finite at the ends, where gamma' may not be.

        float64 tensors, 0-d for a number (kept).
        """
        if isinstance(t, Tensor):
            return self._both_slopes(t)
        if t not in self._ends:
            self._ends[t] = self._both_slopes(torch.tensor(t, dtype=torch.float64))
        return self._ends[t]

    def _both_slopes(self, t: Tensor) -> Level:
        with torch.inference_mode(False), torch.enable_grad():
            clock = t.detach().double().clone().requires_grad_()
            gamma2 = self.squared_gamma(clock)
            values = (*PATHS[self.path](clock, gamma2), 0.5 * gamma2)
            found = [torch.autograd.grad(v.sum(), clock, retain_graph=True)[0] for v in values]
        return Level(*found)

    def slope(self, t: Time) -> Level:
        """alpha', beta', gamma'.

        Raises:
            ValueError: where gamma = 0: what a solver divides by gamma has a limit that these numbers cannot give.
        """
        self._inside(t)
        return super().slope(t)

    def step(self, t: Time, s: Time, stochasticity: Any = 1.0) -> StepNumbers:
        """The core's step, with y as the posterior has it: of order 1, since nothing of y is remembered."""
        self._refuse_redrawn(t, s, stochasticity)
        return super().step(t, s, stochasticity)

    def ddim_step(self, t: Time, s: Time, eta: Any) -> StepNumbers:
        """The core's, likewise."""
        self._refuse_redrawn(t, s, eta)
        return super().ddim_step(t, s, eta)

    def _refuse_redrawn(self, t: Time, s: Time, stochasticity: Any) -> None:
        """Refuse to draw noise anew where it is all that is left of y, or where alpha / gamma does not grow."""
        if isinstance(stochasticity, float | int) and stochasticity == 0:
            return
        level, to = (Level(*map(_double, self.at(v))) for v in (t, s))
        shrinks = level.alpha * to.sigma > to.alpha * level.sigma * (1 + 1e-12)
        if bool((shrinks | ((level.alpha == 0) & (level.sigma > 0))).any()):
            raise ValueError(
                f"Interpolant({self.path!r}, {self.gamma!r}): a stochastic step from t={t} to s={s} would draw anew "
                "noise that the path does not have there; use solvers.FreeDiffusion(epsilon), or a deterministic step"
            )

    def _inside(self, t: Time) -> None:
        if not isinstance(t, Tensor) and self.at(t).sigma == 0:
            raise ValueError(
                f"Interpolant: gamma = 0 at t={t}, and the latent noise cannot be read off the state there; start at a "
                "time below 1, or use solvers.FreeDiffusion, which reads velocity and score instead"
            )

    def half_log_snr(self, t: Time) -> Any:
        """Refused: what is signal, and what is noise, is not the same at the two ends."""
        raise ValueError(
            "Interpolant has no log-SNR, since its other end y is latent: a solver built on one takes y as known. "
            "Use solvers.FreeDiffusion, Ancestral or Stochastic, or below time 1 Euler, Heun or DDIM; where y is "
            "given, a process with an anchor"
        )

    ratio = time_at = half_log_snr  # type: ignore[assignment]

    def drift_and_diffusion(self, t: Time) -> tuple[Any, Any, Any]:
        """Refused: without y the noised state is no Markov process with a drift of its own."""
        raise ValueError(
            "Interpolant: given x_0 alone its path follows no stochastic differential equation, since y is latent; "
            "solvers.FreeDiffusion goes up and down by velocity and score"
        )

    def clock(self, t: Time) -> Any:
        """log((1 - t) / t) / 2: the half-log-SNR of the linear Brownian path, finite for every path inside (0, 1)."""
        numbers = torch.as_tensor(t, dtype=torch.float64)
        value = (0.5 * torch.logit(1 - numbers)).clamp(-10.0, 10.0)
        return value if isinstance(t, Tensor) else value.item()

    def prior(self, like: Tree, condition: Condition | None = None) -> Any:
        """The law of y, or y itself where it is given."""
        if condition is not None and "anchor" in condition:
            return super().prior(like, condition)
        return self.base_law(like)

    def base_law(self, like: Tensor) -> Distribution:
        """The law of y for a batch like `like`."""
        if self.base is None:
            return Gaussian(torch.zeros_like(like), 1.0)
        if isinstance(self.base, GaussianMixture):
            return self.base.law(like)
        return Points(self.base, like)

    def readout(
        self, x: Tree, posterior: Posterior | None = None, condition: Condition | None = None
    ) -> Tree:
        """x: nothing of y is left at time 0."""
        return x

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """Uniform in t: both ends are data."""
        if kind in (None, "uniform"):
            return TimeGrid.uniform(steps)
        raise ValueError(f"grid {kind!r} resolves one end of a path; an Interpolant has two: use 'uniform'")

    def view(self, name: str, posterior: Posterior) -> Tree:
        """score and velocity as the denoiser made them; noise = -gamma score.

        A guide that moved the mean (or the end) since moves them too: the shift goes to the noise, as where y is known.
        Nothing else is divided by gamma. A posterior that was not made by `posterior` is read as one whose y is known.
        """
        heads = posterior.heads
        if not heads or "velocity" not in heads:
            return super().view(name, posterior)
        level, slope = self.at(posterior.t), self.slopes(posterior.t)
        score = heads["score"]
        gaps = posterior.mean - heads["mean"], posterior.end - heads["end"]
        shift = combine(level.alpha, gaps[0], level.anchor, gaps[1])
        pull = shift / torch.where(shift == 0, 1.0, align(level.sigma, shift) ** 2)
        if name == "velocity":
            moved = combine(slope.alpha, gaps[0], slope.anchor, gaps[1])
            return heads["velocity"] + moved - align(slope.sigma, pull) * pull
        if score is None:
            raise ValueError(
                f"posterior.{name}: this denoiser gives no score; it only follows the flow, epsilon=0"
            )
        if name == "score":
            return score + pull
        if name == "noise":
            return -align(level.sigma, score) * (score + pull)
        raise self._lacks(f"posterior.{name}")

    def posterior(
        self,
        x: Tensor,
        t: Time,
        ends: tuple[Tensor, Tensor],
        score: Tensor | None,
        velocity: Tensor | None = None,
        condition: Condition | None = None,
        **heads: Tensor,
    ) -> Posterior:
        """The posterior with these E[x_0 | x_t] and E[y | x_t]. Its heads hold score and velocity as they are given,
        and the two means, which tell whether a guide has moved them since.

        Without a velocity it is alpha' x_0 + beta' y - gamma gamma' score.
        """
        mean, end = ends
        if velocity is None:
            slope = self.slopes(t)
            velocity = combine(slope.alpha, mean, slope.anchor, end)
            velocity = velocity if score is None else velocity - align(slope.sigma, score) * score
        kept = {"mean": mean, "end": end, "score": score, "velocity": velocity, **heads}
        return Posterior(self, x, t, mean, end=end, heads=kept, condition=condition)

    def solved(self, x: Tensor, velocity: Tensor, score: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and E[y | x_t] from velocity b and score, by the 2x2 system

            alpha x_0 + beta y = x + gamma^2 score,    alpha' x_0 + beta' y = b + gamma gamma' score

        of determinant alpha beta' - beta alpha' (1 for the linear path); where it is singular (encoding-decoding), the
        least solution: the end that the state says nothing of is 0.
        """
        level, slope = Level(*map(_double, self.at(t))), self.slopes(t)
        rows = torch.stack([level.alpha, level.anchor, slope.alpha, slope.anchor], -1)
        inverse = torch.linalg.pinv(rows.unflatten(-1, (2, 2)))
        sides = (x + _like(level.sigma**2, x) * score, velocity + _like(slope.sigma, x) * score)
        x_0, y = (
            _like(inverse[..., i, 0], x) * sides[0] + _like(inverse[..., i, 1], x) * sides[1] for i in (0, 1)
        )
        return x_0, y


def _samples(base: Any) -> Tensor | None:
    if base is None:
        return None
    points = torch.as_tensor(base)
    if points.ndim < 2 or not len(points) or not bool(torch.isfinite(points).all()):
        raise ValueError(f"base: expected finite samples (N, *event), got shape {tuple(points.shape)}")
    return points


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _like(value: Tensor, x: Tensor) -> Any:
    return align(value, x) if value.ndim else value.item()

"""A clock in which the probability flow of every affine process is one smooth equation, finite at the prior's end.

With tan(theta) = sigma / alpha, r = sqrt(alpha^2 + sigma^2), v = (x - anchor_weight y) / r and
tau = log tan(theta / 2),

    dv / dtau = cos(theta) v - D,        cos(theta) = -tanh(tau),        log(alpha / sigma) = log sinh(-tau)

tau runs from -infinity (data, where v = x_0) to at most 0 (no signal left, v = z). Towards the data dv / dtau falls as
theta^2 wherever the data have a density, so what lies below a small theta is half of dv / dtau there. Integration is
over s = asinh(e^tau / SOFT), which goes as tau above sigma / alpha of about 2 SOFT and as theta below, where the flow
has little left to do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Denoiser, Process, Time, Tree, batch_size, leaves

__all__ = [
    "Flow",
    "affine_process",
    "condition_of",
    "inside",
    "pace_at",
    "place_of",
    "tau_at",
    "tau_of",
    "tau_of_level",
    "time_of",
    "times_between",
]

SOFT = 0.1  # half the sigma / alpha below which data of unit scale are taken to be smooth


def place_of(tau: Tensor) -> Tensor:
    """s = asinh(e^tau / SOFT)."""
    return torch.asinh(tau.exp() / SOFT)


def tau_of(place: Tensor) -> Tensor:
    """The inverse of `place_of`; held at 0, which rounding would pass."""
    return (SOFT * torch.sinh(place)).log().clamp(max=0.0)


def pace_at(place: Tensor) -> Tensor:
    """dtau / ds."""
    return 1 / torch.tanh(place)


def tau_at(process: AffineProcess, t: float) -> float:
    """tau of a time: log(sigma / (r + alpha)); -infinity where there is no noise."""
    if process.is_point(t):
        raise ValueError(f"{type(process).__name__} is a point at t={t}: it has no density and no flow there")
    level = process.at(t)
    sigma, alpha = float(level.sigma), float(level.alpha)
    return math.log(sigma / (math.hypot(alpha, sigma) + alpha)) if sigma else -math.inf


def tau_of_level(level: float) -> float:
    """tau where sigma / alpha = level."""
    return -math.asinh(1 / level)


def time_of(process: AffineProcess, tau: Tensor) -> Tensor:
    """The time of each tau <= 0, in float64."""
    half_log_snr = torch.sinh(-tau.double()).log()
    return torch.as_tensor(process.time_at(half_log_snr)).clamp(0.0, 1.0)


def times_between(process: AffineProcess, first: float, last: float, steps: int) -> list[float]:
    """steps + 1 times from `first` to `last`, both exact, evenly spaced in tau between."""
    start, end = (tau_at(process, t) for t in (first, last))
    inner = time_of(process, torch.linspace(start, end, steps + 1, dtype=torch.float64)[1:-1])
    return [first, *inner.tolist(), last]


def affine_process(denoiser: Denoiser, what: str) -> AffineProcess:
    """The denoiser's process, where it has a flow and a known other end.

    Raises:
        ValueError: it is discrete, over a tree state, or has a latent other end.
    """
    process: Process = denoiser.process
    if not isinstance(process, AffineProcess):
        raise ValueError(
            f"{what}: needs the probability flow of an affine process, got {type(process).__name__}; "
            "diagnostics.elbo bounds the likelihood of any process that has a bridge"
        )
    if getattr(process, "latent", False):
        raise ValueError(f"{what}: the other end of {type(process).__name__} is latent; give it as anchor=")
    return process


def condition_of(
    denoiser: Denoiser, x: Tree, condition: Condition | None, fields: dict[str, Any]
) -> Condition:
    """What a run would be given: `condition`, or one made of fields, prepared."""
    if condition is None:
        accepted = denoiser.process.fields | denoiser.fields
        condition = Condition.make(batch_size(x), fields, accepted, leaves(x)[0].device, denoiser.tokenise)
    return denoiser.prepare(condition)


def inside(process: AffineProcess, t: Time, what: str) -> Time:
    """The time, where there is noise: a score needs it.

    Raises:
        ValueError: a time without noise.
    """
    if bool(torch.as_tensor(process.at(t).sigma == 0).any()):
        raise ValueError(f"{what}: t: there is no noise at t={t}, and no score; expected a time above 0")
    return t


class Flow:
    """The probability flow of a denoiser (guided or not: a guide's field is a flow too) under one condition.

    Attributes:
        evaluations: network calls so far, for each sample.
    """

    def __init__(self, denoiser: Denoiser, process: AffineProcess, condition: Condition | None) -> None:
        self.denoiser, self.process, self.condition = denoiser, process, condition
        self.evaluations = 0

    def scale(self, t: Time) -> Any:
        """r = sqrt(alpha^2 + sigma^2)."""
        level = self.process.at(t)
        return (level.alpha**2 + level.sigma**2) ** 0.5

    def state(self, v: Tensor, t: Time) -> Tensor:
        """x = r v + anchor_weight y."""
        found: Tensor = self.process.add_anchor(self.scale(t) * v, self.process.at(t).anchor, self.condition)
        return found

    def scaled(self, x: Tensor, t: Time) -> Tensor:
        """v = (x - anchor_weight y) / r."""
        found: Tensor = self.process.add_anchor(x, -self.process.at(t).anchor, self.condition) / self.scale(t)
        return found

    def mean(self, x: Tensor, t: Time) -> Tensor:
        """D(x, t), counted."""
        posterior = self.denoiser(x, t, self.condition)
        self.evaluations += int(torch.as_tensor(posterior.evaluations).max())
        mean: Tensor = posterior.mean
        return mean

    def time(self, tau: Tensor) -> Tensor:
        """The time of tau."""
        return time_of(self.process, tau)

    def slope(self, tau: Tensor, v: Tensor) -> Tensor:
        """dv / dtau = cos(theta) v - D."""
        t = self.time(tau)
        return -torch.tanh(tau).to(v.dtype) * v - self.mean(self.state(v, t), t)

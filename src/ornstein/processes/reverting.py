"""Processes that fall back to a known other end y, and keep some noise there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ornstein.core import AffineProcess, Time, suggest

__all__ = ["OUVE", "MeanReverting"]

OFFSET = 0.008  # of the cosine, as in 2102.09672
GROWTH = 200.0  # how much the linear rate grows, as in DDPM (1e-4 to 0.02)


class MeanReverting(AffineProcess):
    """IR-SDE (Luo et al. 2023, 2301.11699): dx = theta (y - x) dt + sigma dW with sigma^2 = 2 sigma_inf^2 theta,

        alpha = exp(-int_0^t theta),   anchor_weight = 1 - alpha,   sigma = sigma_inf sqrt(1 - alpha^2)

    which is variance preservation of the residual (x_0 - y) / sigma_inf. The prior is N(y, sigma_inf^2 ...).

    Args:
        theta: the rate over time: "cosine" (theta = 1 - alpha_bar of the cosine schedule), "linear" (growing
            200-fold) or "constant"; each scaled so that alpha ends at `last_alpha`.
        sigma_inf: noise about y in the end; the paper's is 50 / 255 for images in [0, 1].
        last_alpha: share of x_0 - y that is left at time 1, in (0, 1).

    Raises:
        ValueError: an unknown theta, or numbers outside these ranges.
    """

    anchored = True
    fields = frozenset({"anchor"})

    def __init__(self, theta: str = "cosine", sigma_inf: float = 50 / 255, last_alpha: float = 0.005) -> None:
        super().__init__()
        if theta not in INTEGRALS:
            raise ValueError(suggest(theta, INTEGRALS, "theta"))
        if not sigma_inf > 0 or not 0 < last_alpha < 1:
            raise ValueError(
                f"expected sigma_inf > 0 and 0 < last_alpha < 1, got {sigma_inf} and {last_alpha}"
            )
        self.theta, self.sigma_inf, self.last = theta, sigma_inf, -math.log(last_alpha)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The formulas above."""
        log_alpha = -self.last * INTEGRALS[self.theta](t)
        sigma = self.sigma_inf * (-torch.expm1(2 * log_alpha)).sqrt()
        return log_alpha.exp(), -torch.expm1(log_alpha), sigma

    def time_at(self, half_log_snr: Time) -> Any:
        """Closed form but for the cosine: -log alpha = log(1 + e^(-2 lambda) / sigma_inf^2) / 2."""
        if self.theta == "cosine":
            return super().time_at(half_log_snr)
        wanted = -2 * (torch.as_tensor(half_log_snr, dtype=torch.float64) + math.log(self.sigma_inf))
        share = 0.5 * softplus(wanted, threshold=1e9) / self.last
        t = share if self.theta == "constant" else _linear_inverse(share)
        return t if isinstance(half_log_snr, Tensor) else t.item()


def _cosine(t: Tensor) -> Tensor:
    """int_0^t 1 - cos^2(a(u)) / cos^2(a(0)) du over its value at 1, a(u) = pi/2 (u + 0.008) / 1.008.

    With a = a_0 + d the integrand is sin(d) sin(d + 2 a_0) / cos^2 a_0.
    """
    first, pace = math.pi / 2 * OFFSET / (1 + OFFSET), math.pi / 2 / (1 + OFFSET)

    def area(d: Tensor) -> Tensor:
        return math.cos(2 * first) * (d - d.sin() * d.cos()) + math.sin(2 * first) * d.sin() ** 2

    return area(pace * t) / area(torch.full_like(t, pace))


def _linear(t: Tensor) -> Tensor:
    return t * (2 + (GROWTH - 1) * t) / (GROWTH + 1)


def _linear_inverse(share: Tensor) -> Tensor:
    """The positive root of (GROWTH - 1) t^2 + 2 t = (GROWTH + 1) share."""
    target = (GROWTH + 1) * share
    return target / (1 + (1 + (GROWTH - 1) * target).sqrt())


INTEGRALS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": lambda t: t,
}


class OUVE(AffineProcess):
    """Ornstein-Uhlenbeck with exploding variance, for speech (Richter et al. 2022, 2208.05830):

        dx = stiffness (y - x) dt + sigma_min r^t sqrt(2 log r) dW,   r = sigma_max / sigma_min
        sigma^2 = sigma_min^2 (r^(2t) - e^(-2 stiffness t)) log r / (stiffness + log r)

    The prior is N(y, sigma(1)^2): y is the noisy recording.

    Args:
        stiffness: how fast the mean falls to y, > 0.
        sigma_min: sets the rate at time 0, > 0.
        sigma_max: sets the rate at time 1, > sigma_min.
    """

    anchored = True
    fields = frozenset({"anchor"})

    def __init__(self, stiffness: float = 1.5, sigma_min: float = 0.05, sigma_max: float = 0.5) -> None:
        super().__init__()
        if not stiffness > 0 or not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"expected stiffness > 0 and 0 < sigma_min < sigma_max, got {stiffness}, {sigma_min}, {sigma_max}"
            )
        self.stiffness, self.sigma_min, self.log_r = stiffness, sigma_min, math.log(sigma_max / sigma_min)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The formulas above, the variance's difference written by expm1."""
        decay = torch.exp(-self.stiffness * t)
        spread = decay**2 * torch.expm1(2 * (self.stiffness + self.log_r) * t)
        share = self.log_r / (self.stiffness + self.log_r)
        return decay, -torch.expm1(-self.stiffness * t), self.sigma_min * (share * spread).sqrt()

    def time_at(self, half_log_snr: Time) -> Any:
        """sigma^2 / alpha^2 = sigma_min^2 share (e^(2 (stiffness + log r) t) - 1), inverted."""
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        both = self.stiffness + self.log_r
        ratio = torch.exp(-2 * wanted) * both / (self.log_r * self.sigma_min**2)
        t = torch.log1p(ratio) / (2 * both)
        return t if isinstance(half_log_snr, Tensor) else t.item()

"""Presets of the affine family: each is its schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Time, suggest

__all__ = ["RectifiedFlow", "VarianceExploding", "VariancePreserving"]


class VariancePreserving(AffineProcess):
    """alpha^2 + sigma^2 = 1: dx = -rate(t)/2 x dt + sqrt(rate(t)) dW.

    "linear" (Song et al. 2020, 2011.13456): rate = rate_min + t (rate_max - rate_min), so that
    log alpha = -t^2 (rate_max - rate_min) / 4 - t rate_min / 2.
    "cosine" (Nichol and Dhariwal 2021, 2102.09672): alpha^2 = f(t) / f(0), f = cos^2(pi/2 (t + 0.008) /
    1.008), in continuous time, stretched to end at alpha = `last_alpha` instead of 0.

    Args:
        schedule: "linear" or "cosine".
        rate_min: noise rate at time 0, of the linear schedule.
        rate_max: noise rate at time 1, of the linear schedule.
        last_alpha: alpha at time 1, of the cosine schedule; above 0, so that predicted noise stays
            meaningful.

    Raises:
        ValueError: unknown schedule, or rates that are not 0 < rate_min <= rate_max.
    """

    def __init__(
        self,
        schedule: str = "linear",
        rate_min: float = 0.1,
        rate_max: float = 20.0,
        last_alpha: float = 0.005,
    ) -> None:
        super().__init__()
        if schedule not in ("linear", "cosine"):
            raise ValueError(suggest(schedule, ("linear", "cosine"), "schedule"))
        if not 0 < rate_min <= rate_max:
            raise ValueError(f"rates: expected 0 < rate_min <= rate_max, got {rate_min} and {rate_max}")
        if not 0 < last_alpha < 1:
            raise ValueError(f"last_alpha: expected between 0 and 1, got {last_alpha}")
        self.kind, self.rate_min, self.rate_max = schedule, rate_min, rate_max
        self.first_angle = math.pi / 2 * 0.008 / 1.008
        self.last_angle = math.acos(last_alpha * math.cos(self.first_angle))

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha and sigma = sqrt(1 - alpha^2), the latter without cancellation near time 0."""
        if self.kind == "linear":
            log_alpha = -0.25 * t**2 * (self.rate_max - self.rate_min) - 0.5 * t * self.rate_min
            return log_alpha.exp(), torch.zeros_like(t), (-torch.expm1(2 * log_alpha)).sqrt()
        # sin^2(a) - sin^2(b) = sin(a + b) sin(a - b) keeps sigma exact where the angle is its first
        turn = t * (self.last_angle - self.first_angle)
        angle = self.first_angle + turn
        first = math.cos(self.first_angle)
        sigma = (torch.sin(angle + self.first_angle) * torch.sin(turn)).sqrt() / first
        return torch.cos(angle) / first, torch.zeros_like(t), sigma

    def time_at(self, half_log_snr: Time) -> Any:
        """Closed form for the linear schedule: -2 log alpha = log(1 + e^(-2 lambda)), a quadratic in t."""
        if self.kind == "cosine":
            return super().time_at(half_log_snr)
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        rate = torch.nn.functional.softplus(-2 * wanted, threshold=1e9)
        slope = self.rate_max - self.rate_min
        t = 2 * rate / ((self.rate_min**2 + 2 * slope * rate).sqrt() + self.rate_min)
        return t if isinstance(half_log_snr, Tensor) else t.item()


class VarianceExploding(AffineProcess):
    """alpha = 1: dx = g(t) dW, g = sigma_min r^t sqrt(2 log r), r = sigma_max / sigma_min (2011.13456).

    sigma(t)^2 = sigma_min^2 (r^(2t) - 1) is the exact noise added since time 0, so time 0 is clean data and
    the SDE is the paper's (there x(0) is taken to carry sigma_min already).

    Args:
        sigma_min: sets the rate at time 0; > 0.
        sigma_max: noise level at time 1 (to within sigma_min^2); > sigma_min.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma: expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.log_r = math.log(sigma_max / sigma_min)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1, 0, sigma."""
        sigma = self.sigma_min * torch.expm1(2 * self.log_r * t).sqrt()
        return torch.ones_like(t), torch.zeros_like(t), sigma

    def time_at(self, half_log_snr: Time) -> Any:
        """log(1 + (sigma / sigma_min)^2) / (2 log r)."""
        sigma = torch.exp(-torch.as_tensor(half_log_snr, dtype=torch.float64))
        t = torch.log1p((sigma / self.sigma_min) ** 2) / (2 * self.log_r)
        return t if isinstance(half_log_snr, Tensor) else t.item()


class RectifiedFlow(AffineProcess):
    """alpha = 1 - t, sigma = t: straight lines from data to noise (Liu et al. 2022, 2209.03003).

    At time 1 there is no signal (alpha = 0), so a prediction of noise cannot be turned into data there.
    """

    def __init__(self) -> None:
        super().__init__()

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 - t, 0, t."""
        return 1 - t, torch.zeros_like(t), t

    def time_at(self, half_log_snr: Time) -> Any:
        """1 / (1 + e^lambda)."""
        t = torch.sigmoid(-torch.as_tensor(half_log_snr, dtype=torch.float64))
        return t if isinstance(half_log_snr, Tensor) else t.item()

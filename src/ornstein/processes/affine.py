"""Presets of the affine family: each is its schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ornstein.core import AffineProcess, Condition, Gaussian, Time, Tree, suggest

__all__ = [
    "EDM",
    "GeometricBrownian",
    "RectifiedFlow",
    "SubVariancePreserving",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
]


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
        _check_rates(rate_min, rate_max)
        if not 0 < last_alpha < 1:
            raise ValueError(f"last_alpha: expected between 0 and 1, got {last_alpha}")
        self.kind, self.rate_min, self.rate_max = schedule, rate_min, rate_max
        self.first_angle = math.pi / 2 * 0.008 / 1.008
        self.last_angle = math.acos(last_alpha * math.cos(self.first_angle))

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha and sigma = sqrt(1 - alpha^2), the latter without cancellation near time 0."""
        if self.kind == "linear":
            log_alpha = _log_alpha(t, self.rate_min, self.rate_max)
            return log_alpha.exp(), torch.zeros_like(t), (-torch.expm1(2 * log_alpha)).sqrt()
        # sin^2(a) - sin^2(b) = sin(a + b) sin(a - b) keeps sigma exact where the angle is its first
        turn = t * (self.last_angle - self.first_angle)
        angle = self.first_angle + turn
        first = math.cos(self.first_angle)
        sigma = (torch.sin(angle + self.first_angle) * torch.sin(turn)).sqrt() / first
        return torch.cos(angle) / first, torch.zeros_like(t), sigma

    def time_at(self, half_log_snr: Time) -> Any:
        """Closed forms; of the linear schedule, -2 log alpha = log(1 + e^(-2 lambda)) is a quadratic in t."""
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        if self.kind == "cosine":
            t = self._cosine_time(torch.sigmoid(-2 * wanted), torch.sigmoid(2 * wanted))
            return t if isinstance(half_log_snr, Tensor) else t.item()
        t = _time_of(0.5 * softplus(-2 * wanted, threshold=1e9), self.rate_min, self.rate_max)
        return t if isinstance(half_log_snr, Tensor) else t.item()

    def _cosine_time(self, variance: Tensor, power: Tensor) -> Tensor:
        """cos a = cos(f) alpha at angle a, and sin(a + f) sin(a - f) = cos^2(f) sigma^2, without cancellation."""
        first, cosine = self.first_angle, math.cos(self.first_angle)
        sine = (math.sin(first) ** 2 + variance * cosine**2).sqrt()
        angle = torch.atan2(sine, cosine * power.sqrt())
        small = torch.asin((variance * cosine**2 / torch.sin(angle + first)).clamp(max=1.0))
        return torch.where(angle < math.pi / 4, small, angle - first) / (self.last_angle - first)


def _check_rates(rate_min: float, rate_max: float) -> None:
    if not 0 < rate_min <= rate_max:
        raise ValueError(f"rates: expected 0 < rate_min <= rate_max, got {rate_min} and {rate_max}")


def _log_alpha(t: Tensor, rate_min: float, rate_max: float) -> Tensor:
    """-1/2 of the integral of a rate that rises linearly."""
    return -0.25 * t**2 * (rate_max - rate_min) - 0.5 * t * rate_min


def _time_of(decay: Tensor, rate_min: float, rate_max: float) -> Tensor:
    """Where -log alpha = decay: the positive root of a quadratic."""
    slope = rate_max - rate_min
    return 4 * decay / ((rate_min**2 + 4 * slope * decay).sqrt() + rate_min)


class SubVariancePreserving(AffineProcess):
    """The drift of variance preservation with less noise: sigma = 1 - alpha^2 (Song et al. 2020, 2011.13456),

        dx = -rate/2 x dt + sqrt(rate (1 - alpha^4)) dW,   rate = rate_min + t (rate_max - rate_min)

    Args:
        rate_min: noise rate at time 0.
        rate_max: noise rate at time 1.

    Raises:
        ValueError: rates that are not 0 < rate_min <= rate_max.
    """

    def __init__(self, rate_min: float = 0.1, rate_max: float = 20.0) -> None:
        super().__init__()
        _check_rates(rate_min, rate_max)
        self.rate_min, self.rate_max = rate_min, rate_max

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha and 1 - alpha^2, the latter without cancellation near time 0."""
        log_alpha = _log_alpha(t, self.rate_min, self.rate_max)
        return log_alpha.exp(), torch.zeros_like(t), -torch.expm1(2 * log_alpha)

    def time_at(self, half_log_snr: Time) -> Any:
        """Closed form: (1/alpha - alpha) / 2 = sinh(-log alpha) = e^(-lambda) / 2."""
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        t = _time_of(torch.asinh(0.5 * torch.exp(-wanted)), self.rate_min, self.rate_max)
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


class Trigonometric(AffineProcess):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): variance preservation at constant angular speed, the one-sided
    trigonometric interpolant (Albergo et al. 2023, 2303.08797). At time 1 there is no signal.
    """

    def __init__(self) -> None:
        super().__init__()

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both as sines, which are exactly 0 at their ends."""
        return torch.sin(math.pi / 2 * (1 - t)), torch.zeros_like(t), torch.sin(math.pi / 2 * t)

    def time_at(self, half_log_snr: Time) -> Any:
        """2/pi arctan(e^-lambda)."""
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        t = 2 / math.pi * torch.atan(torch.exp(-wanted))
        return t if isinstance(half_log_snr, Tensor) else t.item()


class EDM(AffineProcess):
    """alpha = 1, sigma = sigma_max t (Karras et al. 2022, 2206.00364, whose time is sigma itself).

    Args:
        sigma_max: noise at time 1, > 0.
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        super().__init__()
        if not sigma_max > 0:
            raise ValueError(f"sigma_max: expected a number > 0, got {sigma_max}")
        self.sigma_max = float(sigma_max)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1, 0, sigma."""
        return torch.ones_like(t), torch.zeros_like(t), self.sigma_max * t

    def time_at(self, half_log_snr: Time) -> Any:
        """sigma / sigma_max."""
        sigma = torch.exp(-torch.as_tensor(half_log_snr, dtype=torch.float64))
        return sigma / self.sigma_max if isinstance(half_log_snr, Tensor) else sigma.item() / self.sigma_max


class GeometricBrownian(AffineProcess):
    """log X of geometric Brownian motion dX = growth X dt + volatility X dW (Shetty et al. 2025, 2510.02730):

        x_t = x_0 + (growth - volatility^2 / 2) t + volatility sqrt(t) z,    x = log X

    Variance exploding with a known drift, which is written as an anchor of ones, so that every solver takes it
    out and the readout has none of it. Wrap it in `spaces.Encoded(process, spaces.LogCodec())` to read X.

    Args:
        volatility: noise at time 1, in the logarithm; > 0.
        growth: mu; the default volatility^2 / 2 leaves the median of X where it is.
    """

    anchored = True

    def __init__(self, volatility: float = 5.0, growth: float | None = None) -> None:
        super().__init__()
        if not volatility > 0:
            raise ValueError(f"volatility: expected a number > 0, got {volatility}")
        self.volatility = float(volatility)
        self.growth = 0.5 * volatility**2 if growth is None else float(growth)

    def end(self, condition: Condition | None) -> Tensor:
        """One for every entry."""
        return torch.ones(())

    def prior(self, like: Tree, condition: Condition | None = None) -> Gaussian:
        """N(drift, volatility^2), for log-data about 0."""
        level = self.at(1.0)
        return Gaussian(torch.full_like(like, level.anchor), level.sigma, self.space)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1, (growth - volatility^2 / 2) t, volatility sqrt(t)."""
        drift = (self.growth - 0.5 * self.volatility**2) * t
        return torch.ones_like(t), drift, self.volatility * t.sqrt()

    def time_at(self, half_log_snr: Time) -> Any:
        """(sigma / volatility)^2."""
        sigma = torch.exp(-torch.as_tensor(half_log_snr, dtype=torch.float64))
        t = (sigma / self.volatility) ** 2
        return t if isinstance(half_log_snr, Tensor) else t.item()

"""Weightings of the loss over time: each written once, of the clean data's error, and converted to any prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import suggest

__all__ = ["WEIGHTINGS", "weight_of"]

BIAS = 2.0  # of the sigmoid weighting, in log-SNR


class _Output(NamedTuple):
    """What a weighting asks of a model: what it predicts, and the root-mean-square of its data."""

    prediction: str
    scale: float


def _target(model: Any, process: Any, t: Tensor) -> Tensor:
    """The weight of |D - x_0|^2 under which the network's own output has a plain squared error: 1 / c_out^2."""
    level = process.at(t)
    snr = (level.alpha / level.sigma) ** 2
    if model.prediction == "noise":
        return snr
    if model.prediction == "edm":
        return _edm(model, process, t)
    if model.prediction == "score":
        return snr / level.sigma**2
    if model.prediction == "velocity":
        slope = process.slope(t)
        return (slope.alpha - slope.sigma * level.alpha / level.sigma) ** 2
    return torch.ones_like(t)


def _edm(model: Any, process: Any, t: Tensor) -> Tensor:
    """(sigma^2 + scale^2) / (sigma scale)^2 of the level sigma / alpha (2206.00364), whatever the network predicts."""
    level = process.at(t)
    return (level.alpha**2 * model.scale**2 + level.sigma**2) / (model.scale * level.sigma) ** 2


def _snr(model: Any, process: Any, t: Tensor) -> Tensor:
    level = process.at(t)
    return (level.alpha / level.sigma) ** 2


def _min_snr(model: Any, process: Any, t: Tensor) -> Tensor:
    """min(SNR, 5): Hang et al. 2023, 2303.09556, whatever the network predicts."""
    return _snr(model, process, t).clamp(max=5.0)


def _snr_power(model: Any, process: Any, t: Tensor) -> Tensor:
    """SNR^0.1 / (1 + SNR) of the noise's error: of PDAE (2212.12990), and of DiTi's released code (2401.11430)."""
    snr = _snr(model, process, t)
    return snr**1.1 / (1 + snr)


def _sigmoid(model: Any, process: Any, t: Tensor) -> Tensor:
    """sigmoid(2 - log SNR) (-d log SNR / dt) of the noise's error (Kingma and Gao 2023, 2303.00848): with uniform times
    the loss is then an integral over log-SNR, the same under every schedule.
    """
    level, slope = process.at(t), process.slope(t)
    falling = 2 * level.alpha * (level.alpha * slope.sigma - slope.alpha * level.sigma) / level.sigma**3
    return falling * torch.sigmoid(BIAS - 2 * process.half_log_snr(t))


def _uniform(model: Any, process: Any, t: Tensor) -> Tensor:
    return torch.ones_like(t)


WEIGHTINGS: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "target": _target,
    "snr": _snr,
    "min-snr": _min_snr,
    "snr-power": _snr_power,
    "edm": _edm,
    "sigmoid": _sigmoid,
    "uniform": _uniform,
}


def weight_of(weighting: str, process: Any, t: Tensor, of: str = "noise", scale: float = 0.5) -> Tensor:
    """What a weighting w(t) of the clean data's error |D - x_0|^2 is as a weight of another prediction's error:
    w(t) c_out(t)^2, (B,), where that error is |D - x_0|^2 / c_out^2.

    Args:
        weighting: a name of `WEIGHTINGS`.
        process: an affine process.
        t: times (B,).
        of: "mean", "noise", "velocity", "score" or "edm".
        scale: root-mean-square of the data's entries, for "edm".

    Raises:
        ValueError: an unknown name.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(suggest(weighting, WEIGHTINGS, "weighting"))
    views = ("mean", "noise", "velocity", "score", "edm")
    if of not in views:
        raise ValueError(suggest(of, views, "prediction"))
    output = _Output(of, scale)
    return WEIGHTINGS[weighting](output, process, t) / _target(output, process, t)

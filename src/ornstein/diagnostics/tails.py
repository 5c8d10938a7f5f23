"""Tails of samples: how fast large values become rare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["concentration_excess", "hill_index", "subgaussian_scale"]


def hill_index(values: Tensor, share: float = 1e-3) -> float:
    """Hill's estimator (1975) of a in P(X > x) ~ x^-a, from the largest `share` of positive values (N,):

        1 / a = mean_{i <= k} log(X_(i) / X_(k + 1)),    standard error about a / sqrt(k)

    Of values without heavy tails it grows without bound as the share falls.

    Raises:
        ValueError: fewer than 10 values beyond the share, or one that is not positive.
    """
    count = int(share * len(values))
    if values.ndim != 1 or not 10 <= count < len(values) or not bool((values > 0).all()):
        raise ValueError(
            f"values: expected positive numbers (N,) with N share >= 10, got {tuple(values.shape)}, share {share}"
        )
    top = values.double().topk(count + 1).values
    return 1 / float((top[:-1] / top[-1]).log().mean())


def subgaussian_scale(values: Tensor, fewest: int = 10) -> float:
    """The smallest L with P(|X - E X| > s) <= 2 exp(-s^2 / (2 L^2)) for values (N,), at all s that `fewest` exceed.

    Of Gaussian values it approaches their standard deviation from below as N grows; of heavy tails it has no limit.
    """
    gaps, tails = _tail(values, fewest)
    return float((gaps / (2 * (math.log(2) - tails)).sqrt()).max())


def concentration_excess(values: Tensor, lipschitz: float, fewest: int = 10) -> float:
    """The most by which log P(|X - E X| > s) of values (N,) exceeds the bound log 2 - s^2 / (2 L^2), in nats.

    At most 0 where the bound holds at all s that `fewest` values exceed.
    """
    gaps, tails = _tail(values, fewest)
    return float((tails - math.log(2) + gaps**2 / (2 * lipschitz**2)).max())


def _tail(values: Tensor, fewest: int) -> tuple[Tensor, Tensor]:
    """Gaps |X - mean| in descending order and log of the share at or beyond each, without the `fewest` largest."""
    if values.ndim != 1 or not 1 <= fewest < len(values):
        raise ValueError(f"values: expected (N,) with N above fewest={fewest}, got {tuple(values.shape)}")
    wide = values.double()
    gaps = (wide - wide.mean()).abs().sort(descending=True).values
    ranks = torch.arange(1, len(gaps) + 1, dtype=torch.float64, device=gaps.device)
    return gaps[fewest - 1 :], (ranks / len(gaps)).log()[fewest - 1 :]

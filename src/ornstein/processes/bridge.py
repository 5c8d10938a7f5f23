"""Bridges: processes that end exactly at a known other end y."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Time

from .product import ProductProcess

__all__ = ["BrownianBridge", "ConsecutiveBridge"]


class BrownianBridge(AffineProcess):
    """x_t = (1 - t) x_0 + t y + sqrt(2 scale t (1 - t)) z: BBDM (Li et al. 2022, 2205.07680) with m_t = t.

    Time 1 is the point y: a run starts there with a stochastic row, which the default grid names. Given
    x_0 the reverse step is N((s/t) x_t + (1 - s/t) x_0, 2 scale s (1 - s/t)), from which y has vanished.

    Args:
        scale: the largest variance, half way, is scale / 2; > 0.
        field: the condition field that holds y.
    """

    anchored = True

    def __init__(self, scale: float = 1.0, field: str = "anchor") -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale: expected a number > 0, got {scale}")
        self.scale, self.anchor_field, self.fields = float(scale), field, frozenset({field})

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 - t, t, sqrt(2 scale t (1 - t))."""
        return 1 - t, t, (2 * self.scale * t * (1 - t)).sqrt()

    def time_at(self, half_log_snr: Time) -> Any:
        """1 / (1 + 2 scale e^(2 lambda))."""
        wanted = torch.as_tensor(half_log_snr, dtype=torch.float64)
        t = torch.sigmoid(-2 * wanted - math.log(2 * self.scale))
        return t if isinstance(half_log_snr, Tensor) else t.item()


class ConsecutiveBridge(ProductProcess):
    """Brownian bridges from one x_0 to several known neighbours, side by side (Lyu et al. 2024, 2405.05953):

        x_t[k] = (1 - t) x_0 + t y_k + sqrt(2 scale t (1 - t)) z

    The state is a tree with one leaf a neighbour, whose value is the condition field of the same name:
    `sampler(model, n, previous=y, next=z)`. A run starts from the neighbours themselves; the denoiser sees
    all leaves. Data are the same x_0 in every leaf, `{name: x_0 for name in neighbours}`.

    Args:
        scale: as of `BrownianBridge`.
        neighbours: names of leaves and of condition fields.
        shared: whether the leaves of `marginal` share their noise z, as in the paper's training.
    """

    def __init__(
        self, scale: float = 1.0, neighbours: Sequence[str] = ("previous", "next"), shared: bool = True
    ) -> None:
        super().__init__({name: BrownianBridge(scale, name) for name in neighbours}, shared)

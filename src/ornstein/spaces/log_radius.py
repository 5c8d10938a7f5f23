"""Heavy-tailed data made light: the logarithm of the distance from the centre."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition

from .codec import Codec

__all__ = ["LogRadiusCodec"]


class LogRadiusCodec(Codec):
    """z = (x / r) asinh(r / scale) for r = |x| over the whole event: x / scale near the centre, log r far from it.

    A tail P(r > R) ~ R^-a becomes P(|z| > s) ~ e^(-a s), which a sampler with a Lipschitz map, whose samples have no
    heavier tails than Gaussians, can follow much further (2501.07741); the decoder, sinh, is not Lipschitz.

    Args:
        scale: distance at which the logarithm sets in; about the data's median radius.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale: expected a number > 0, got {scale}")
        self.scale = float(scale)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """(x / r) asinh(r / scale)."""
        return _radial(x / self.scale, torch.asinh)

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """scale (z / |z|) sinh |z|."""
        return self.scale * _radial(z, torch.sinh)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log h'(r) + (D - 1) log(h(r) / r) - D log scale for h = asinh of r / scale."""
        size = x[0].numel()
        r = x.flatten(1).norm(dim=1).clamp(min=1e-12 * self.scale) / self.scale
        radial = -0.5 * torch.log1p(r**2) + (size - 1) * (torch.asinh(r) / r).log()
        return radial - size * math.log(self.scale)


def _radial(x: Tensor, h: Any) -> Tensor:
    """h(|x|) x / |x|, with a derivative at 0."""
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    r = (x.flatten(1).square().sum(1) + tiny).sqrt().reshape(-1, *[1] * (x.ndim - 1))
    return x * (h(r) / r)

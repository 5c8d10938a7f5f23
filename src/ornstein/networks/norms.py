"""Norms of tokens and of maps, and layers that start at zero.

Statistics of tokens are made in float32, or in the tokens' own precision where that is higher.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NORMS", "LayerNorm", "RMSNorm", "group_norm", "zeroed"]

EPSILON = 1e-6


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) of every token, without parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return F.layer_norm(_wide(x), (self.width,)).to(x.dtype)


class RMSNorm(nn.Module):
    """weight x / sqrt(mean(x^2) + 1e-6) of every token (Zhang and Sennrich 2019, 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        wide = _wide(x)
        return (wide * (wide.square().mean(-1, keepdim=True) + EPSILON).rsqrt()).to(x.dtype) * self.weight


NORMS: dict[str, type[LayerNorm | RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group norm in up to 8 groups of two channels or more: statistics of one sample, any width."""
    groups = math.gcd(channels, 8) if channels >= 16 else 1
    return nn.GroupNorm(groups, channels, affine=affine)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters zero, so that what its output is added to starts unchanged."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

"""Norms of tokens. Statistics are made in float32, or in the tokens' own precision where that is higher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NORMS", "LayerNorm", "RMSNorm"]

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

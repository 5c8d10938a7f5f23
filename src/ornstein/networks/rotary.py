"""Positions of tokens: on a grid of any number of axes, as rotations and as waves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["base_for", "grid_positions", "rotate", "waves"]


def grid_positions(sizes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Integer positions (axes, L) of the points of a grid, the last axis fastest."""
    axes = [torch.arange(n, device=device) for n in sizes]
    return torch.stack([a.flatten() for a in torch.meshgrid(*axes, indexing="ij")])


def base_for(extent: int) -> float:
    """The base of an axis of `extent` positions: 8 extent / pi, so that the slowest wave turns once in about 16
    of them (Hu et al. 2024, 2412.07720).
    """
    return max(8 * extent / math.pi, 2.0)


def _angles(positions: Tensor, pairs: int, bases: Sequence[float], dtype: torch.dtype) -> Tensor:
    """(axes, L) -> (L, axes * pairs): position times base^(-i / pairs)."""
    exponents = torch.arange(pairs, device=positions.device, dtype=dtype) / pairs
    columns = [p.to(dtype)[:, None] * base**-exponents for p, base in zip(positions, bases, strict=True)]
    return torch.cat(columns, dim=-1)


def rotate(x: Tensor, positions: Tensor, bases: Sequence[float]) -> Tensor:
    """Rotary embedding (Su et al. 2021, 2104.09864) on a grid: pairs of features turn by position times frequency.

    The features are shared out evenly among the axes; what is left over does not turn. The product of a rotated
    query and a rotated key depends on their positions through the difference only.

    Args:
        x: queries or keys (..., L, d).
        positions: integers (axes, L).
        bases: one for each axis.
    """
    pairs = x.shape[-1] // (2 * len(bases))
    angles = _angles(positions, pairs, bases, torch.promote_types(x.dtype, torch.float32))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    turning = 2 * pairs * len(bases)
    a, b = x[..., :turning].chunk(2, dim=-1)
    turned = [a * cos - b * sin, b * cos + a * sin]
    return torch.cat([*turned, x[..., turning:]] if turning < x.shape[-1] else turned, dim=-1)


def waves(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines of positions (axes, L) at frequencies from 1 to 1e-4, (L, width): 1706.03762 for every axis.

    The features are shared out evenly among the axes; what is left over is zero.
    """
    dtype, axes = torch.get_default_dtype(), len(positions)
    angles = _angles(positions, width // (2 * axes), [1e4] * axes, dtype)
    made = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return torch.nn.functional.pad(made, (0, width - made.shape[-1]))

"""Directions between directions: embeddings on a grid, read at any place."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["slerp", "slerp_grid"]

PARALLEL = 1e-4  # sine of the angle under which the arc is a straight line to rounding


def slerp(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    """The point at share `weight` of the arc from a to b, along the last axis:

        (sin((1 - w) omega) a + sin(w omega) b) / sin omega,        cos omega = <a, b> / (|a| |b|),

    which keeps unit vectors unit; (1 - w) a + w b where they are nearly parallel (Shoemake 1985). Vectors of different
    lengths are interpolated with the same two weights.

    Args:
        a: (..., E), at weight 0.
        b: (..., E), at weight 1. Opposite directions have no shortest arc: then the straight line.
        weight: in [0, 1], a number or (...).
    """
    w = torch.as_tensor(weight, dtype=a.dtype, device=a.device)
    u, v = (x / x.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) for x in (a, b))
    sine, cosine = (u - v).norm(dim=-1) * (u + v).norm(dim=-1) / 2, (u * v).sum(-1)
    straight = sine < PARALLEL
    omega = torch.atan2(torch.where(straight, 1.0, sine), cosine)
    below = torch.where(straight, 1.0, omega.sin())
    first = torch.where(straight, 1 - w, ((1 - w) * omega).sin() / below)
    second = torch.where(straight, w.expand_as(first), (w * omega).sin() / below)
    return first.unsqueeze(-1) * a + second.unsqueeze(-1) * b


def slerp_grid(grid: Tensor, places: Tensor) -> Tensor:
    """A grid of vectors read at places between its nodes: spherical along the columns, then along the rows.

    The border is replicated. The bilinear rule of Graikos et al. 2023 (arXiv 2312.07330).

    Args:
        grid: (B, h, w, E).
        places: (K, 2), rows and columns in units of the grid, (0, 0) being the first node.

    Returns:
        (B, K, E).
    """
    last = torch.tensor([grid.shape[1] - 1, grid.shape[2] - 1], dtype=places.dtype, device=places.device)
    held = torch.minimum(places.clamp(min=0.0), last)
    low = held.floor().long()
    high = torch.minimum(low + 1, last.long())
    down, across = (held - low).to(grid.dtype).unbind(1)
    upper, lower = (
        slerp(grid[:, r, low[:, 1]], grid[:, r, high[:, 1]], across) for r in (low[:, 0], high[:, 0])
    )
    return slerp(upper, lower, down)

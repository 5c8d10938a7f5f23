"""How far two subspaces are from each other."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["subspace_distance"]


def subspace_distance(u: Tensor, v: Tensor) -> Tensor:
    """|P_u - P_v| in the Frobenius norm, P the orthogonal projections on the columns' spans.

    It is sqrt(2) times the root of the sum of squared sines of the principal angles for spans of equal dimension d: 0
    for the same span and sqrt(2 d) for orthogonal ones. Bases need not be orthonormal, but have full rank.

    Args:
        u: (..., D, d).
        v: (..., D, e).

    Raises:
        ValueError: another number of rows.
    """
    if u.shape[-2] != v.shape[-2]:
        raise ValueError(f"v: expected {u.shape[-2]} rows as in u, got {tuple(v.shape)}")
    p, q = (basis @ basis.mT for basis in (torch.linalg.qr(u)[0], torch.linalg.qr(v)[0]))
    return (p - q).flatten(-2).norm(dim=-1)

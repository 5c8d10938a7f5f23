"""A network for plain vectors: points, features, parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_level, check_positive
from .embedding import Conditioning
from .norms import zeroed

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["ResidualMLP"]


class ResidualMLP(Module):
    """Residual blocks of two linear layers on vectors (B, features), modulated by the level and the label.

        x = x + W_2 silu((1 + scale(c)) norm(W_1 x) + shift(c))

    The output layer starts at zero.

    Args:
        features: entries of a vector.
        width: features inside.
        depth: number of blocks.
        labels: number of class labels, or None for a network without labels.

    Raises:
        ValueError: an argument out of range, or an input that does not fit.
    """

    def __init__(self, features: int, width: int = 128, depth: int = 3, labels: int | None = None) -> None:
        super().__init__()
        check_positive(features=features, width=width, depth=depth, labels=labels)
        self.features, self.labels = features, labels
        self.conditioning = Conditioning(width, labels)
        self.inner = nn.Linear(features, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.outer = zeroed(nn.Linear(width, features))

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.conditioning.fields

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, features) and (B,) -> (B, features).

        Raises:
            ValueError: x is not (B, features), or level is not (B,).
        """
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"x: expected shape (B, {self.features}), got {tuple(x.shape)}")
        check_level(level, len(x))
        c = self.conditioning(level, condition)
        h = self.inner(x)
        for block in self.blocks:
            h = block(h, c)
        return self.outer(F.silu(h))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.film(F.silu(c)).chunk(2, dim=1)
        return x + self.outer(F.silu(torch.addcmul(shift, self.norm(self.inner(x)), 1 + scale)))

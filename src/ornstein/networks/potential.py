"""A scalar network, whose gradient is a field without curl."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_level, check_positive
from .embedding import sinusoid

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["Potential"]


class Potential(Module):
    """u(x, level) = -|x|^2 / 2 + MLP(x, level), a log-density up to a constant; called, it gives its gradient in x.

    The hidden layers are softplus, which has two derivatives everywhere: a Laplacian, as in the Fokker-Planck equation,
    is zero for rectified layers. Gradients are taken also where the caller keeps none, and may be differentiated again
    where it does.

    Args:
        features: entries of a vector.
        width: features inside.
        depth: number of hidden layers.
        sharpness: beta of softplus(x) = log(1 + e^(beta x)) / beta; the larger, the nearer to rectified layers.

    Raises:
        ValueError: an argument out of range, or an input that does not fit.
    """

    fields: frozenset[str] = frozenset()

    def __init__(self, features: int, width: int = 80, depth: int = 3, sharpness: float = 5.0) -> None:
        super().__init__()
        check_positive(features=features, width=width, depth=depth)
        if not sharpness > 0:
            raise ValueError(f"sharpness: expected a number > 0, got {sharpness}")
        self.features, self.waves = features, 16
        sizes = [features + self.waves, *[width] * depth]
        layers = [
            part
            for before, after in itertools.pairwise(sizes)
            for part in (nn.Linear(before, after), nn.Softplus(beta=sharpness))
        ]
        self.inner = nn.Sequential(*layers, nn.Linear(width, 1))

    def potential(self, x: Tensor, level: Tensor) -> Tensor:
        """u, (B,), for (B, features) and (B,).

        Raises:
            ValueError: x is not (B, features), or level is not (B,).
        """
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"x: expected shape (B, {self.features}), got {tuple(x.shape)}")
        check_level(level, len(x))
        told = torch.cat([x, sinusoid(level, self.waves).to(x.dtype)], 1)
        return self.inner(told).squeeze(1) - 0.5 * (x**2).sum(1)

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """The gradient of u in x, (B, features)."""
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            place = x if keep and x.requires_grad else x.detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(self.potential(place, level).sum(), place, create_graph=keep)
        return found

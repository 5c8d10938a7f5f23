"""Several modalities in one space: the sum of what an encoder of each says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Module, suggest

__all__ = ["Aggregate", "Planes"]


class Planes(Module):
    """A class as a state: one learned plane for each, of root-mean-square 1 whatever is learned.

    That is so lest training make the label too loud to be noised: how loud it is, is the process's weight to say. Soft
    rows (B, classes) of probabilities give the mean plane.

    Args:
        classes: how many.
        shape: event shape of a plane.
    """

    def __init__(self, classes: int, shape: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(classes, *shape))

    @property
    def planes(self) -> Tensor:
        """All of them, (classes, ...)."""
        size = self.table.flatten(1).square().mean(1).sqrt()
        return self.table / size.reshape(-1, *[1] * (self.table.ndim - 1))

    def forward(self, label: Tensor) -> Tensor:
        """Ids (B,), or probabilities (B, classes), to (B, ...)."""
        planes = self.planes
        return torch.einsum("bk,k...->b...", label, planes) if label.is_floating_point() else planes[label]


class Aggregate(Module):
    """E(x) = sum_i weight_i E_i(x_i), over modalities x_i by name: what MT-Diffusion adds to its chain (2407.17571).

    Where the encoders are linear, so is E, and E of the means is the mean of E.

    Args:
        encoders: {name: module}, each to the shape of the state.
        weights: {name: number}; 1 for those that are left out.

    Raises:
        ValueError: no encoders, or weights of others.
    """

    def __init__(self, encoders: dict[str, nn.Module], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("encoders: expected at least one, as {name: module}")
        self.encoders = nn.ModuleDict(encoders)
        for name in weights or {}:
            if name not in encoders:
                raise ValueError(suggest(name, encoders, "encoder"))
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in encoders}

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """E(x); modalities without an encoder are left out."""
        return torch.stack([self.weights[k] * e(x[k]) for k, e in self.encoders.items()]).sum(0)

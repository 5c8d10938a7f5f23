"""Where a leaf lives: which noise is natural, which states are legal, how lengths are measured."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import Noise
from .tree import sum_event

__all__ = ["EUCLIDEAN", "Space"]


class Space:
    """Euclidean space. Subclasses in `spaces/` restrict it (symmetric, masked, centred, ...)."""

    def randn(self, like: Tensor, noise: Noise, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal noise of this space, (*shape, B, ...)."""
        return noise.normal(like, shape)

    def project(self, x: Tensor) -> Tensor:
        """The nearest legal state."""
        return x

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner product per sample, (B,)."""
        return sum_event(a * b)

    def dim(self, x: Tensor) -> Tensor:
        """Effective dimension per sample, (B,): what log-densities count."""
        return torch.full((x.shape[0],), float(x[0].numel()), dtype=x.dtype, device=x.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


EUCLIDEAN = Space()

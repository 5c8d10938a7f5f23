"""Dynamics given by drift and diffusion, simulated by the sampler's own loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Gaussian, Process, Tree

__all__ = ["SDE"]


class SDE(Process):
    """dx = drift(t, x) dt + diffusion(t, x) dW, in the Itô sense, stepped by Euler-Maruyama.

    The step over (t, s) is N(x + drift (s - t), diffusion^2 |s - t|): of strong order 1/2, of weak order 1,
    and of strong order 1 where the diffusion does not depend on x.

    Args:
        drift: f(t, x) -> like x.
        diffusion: a number, or g(t, x) -> a number or a tensor that broadcasts against x (diagonal noise).
        fields: condition fields that the coefficients read; then both are called with the condition too.
    """

    def __init__(
        self,
        drift: Callable[..., Tensor],
        diffusion: Callable[..., Any] | float = 0.0,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if not callable(drift):
            raise TypeError(f"drift: expected a function f(t, x), got {drift!r}")
        self.drift, self.diffusion, self.fields = drift, diffusion, frozenset(fields)

    def kernel(self, x_t: Tree, t: Any, s: Any, condition: Condition | None = None) -> Gaussian:
        """The Euler-Maruyama step."""
        extra = (condition,) if self.fields else ()
        drift = self.drift(t, x_t, *extra)
        if not isinstance(drift, Tensor) or drift.shape != x_t.shape:
            got = tuple(drift.shape) if isinstance(drift, Tensor) else repr(drift)
            raise ValueError(f"drift: expected f(t, x) of the shape of x, {tuple(x_t.shape)}, got {got}")
        mean = torch.add(x_t, drift, alpha=s - t)
        noise = self.diffusion(t, x_t, *extra) if callable(self.diffusion) else self.diffusion
        if isinstance(noise, Tensor):
            noise = noise.expand_as(
                x_t
            )  # as torch broadcasts, from the right: (D,) is one number a coordinate
        return Gaussian(mean, noise * math.sqrt(abs(s - t)), self.space)

"""Conservativity as a term of training: the curl of the posterior mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core import Losses, Noise
from ornstein.processes.divergence import gradient

from .denoising import Seen
from .regularised import Term

__all__ = ["Symmetry"]


class Symmetry(Term):
    """weight |J - J^T|_F^2 / dim of J = d D / d x at the states, by random directions v ~ N(0, I):

        E_v |(J - J^T) v|^2 = |J - J^T|_F^2

    The score is (alpha D - x) / sigma^2, so it is a gradient where D is. The estimator is that of quasi-conservative
    score models (Chao et al. 2022, 2209.12753); it needs one more call of the model and two derivatives, which
    fused attention lacks: in that call it runs unfused.

    Args:
        weight: >= 0.
        probes: directions a row.

    Raises:
        ValueError: a negative weight, or no probe.
    """

    def __init__(self, weight: float = 1.0, probes: int = 1) -> None:
        super().__init__()
        if not weight >= 0 or probes < 1:
            raise ValueError(f"expected weight >= 0 and at least one probe, got {weight} and {probes}")
        self.weight, self.probes = float(weight), probes

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """The mean over rows."""
        learns = torch.is_grad_enabled()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = seen.x_t.detach().requires_grad_()
            mean = model(x, seen.t, seen.condition).mean
            probes = noise.normal(x, (self.probes,))
            gaps = [_turn(mean, x, v, learns) for v in probes]
        square = torch.stack(gaps).flatten(2).pow(2).sum(2).mean(0) / x[0].numel()
        return Losses(self.weight * square, {}, {})


def _turn(mean: Tensor, x: Tensor, v: Tensor, create_graph: bool) -> Tensor:
    """(J - J^T) v, row by row; J v by the derivative of u -> J^T u, which is linear in u."""
    u = torch.zeros_like(mean, requires_grad=True)
    pulled = gradient(mean * u, x)
    pushed = gradient(pulled * v, u, create_graph)
    return pushed - gradient(mean * v, x, create_graph)

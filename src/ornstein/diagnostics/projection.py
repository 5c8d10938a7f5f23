"""The part of a field that is a gradient: projection in L2(p_t) on the gradients of a basis of functions.

Every field in L2(p_t) is grad phi + r with E[grad psi . r] = 0 for all psi (2402.03845). The projection must be under
p_t: in plain L2 the rest of a perfect sampler's field need not vanish. With a basis b_k and samples of p_t,

    phi = sum_k c_k b_k,    E[grad b_j . grad b_k] c = E[grad b_j . field]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import AffineProcess, Condition, Denoiser, Time
from ornstein.denoisers import ScoreDenoiser

from .clock import affine_process, condition_of
from .field import field
from .linearised import Linearised

__all__ = ["Fourier", "Helmholtz", "Polynomial", "helmholtz"]

Basis = Callable[[Tensor], Tensor]


class Polynomial(nn.Module):
    """All monomials of degree 1 and 2 of the flattened event: (B, D + D (D + 1) / 2). Enough for Gaussian data."""

    def forward(self, x: Tensor) -> Tensor:
        """x_i, then x_i x_j for i <= j."""
        flat = x.flatten(1)
        i, j = torch.triu_indices(flat.shape[1], flat.shape[1], device=x.device)
        return torch.cat([flat, flat[:, i] * flat[:, j]], 1)


class Fourier(nn.Module):
    """The monomials of `Polynomial` and `count` waves cos(w . x + b), w ~ N(0, 1 / width^2) (Rahimi and Recht 2007).

    Args:
        features: D, numbers in an event.
        count: number of waves.
        width: over which functions vary, in the unit of x.
        seed: of the waves.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int, count: int, width: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.quadratic = Polynomial()
        self.register_buffer("frequencies", torch.randn(features, count, generator=generator) / width)
        self.register_buffer("phases", 2 * torch.pi * torch.rand(count, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D + D (D + 1) / 2 + count)."""
        angles = x.flatten(1) @ self.frequencies.to(x) + self.phases.to(x)
        return torch.cat([self.quadratic(x), angles.cos()], 1)


@dataclass(frozen=True)
class Helmholtz:
    """A score in two parts at one time.

    Attributes:
        basis: of the potential.
        coefficients: c, (K,).
        gradient: E|grad phi|^2, the energy of the part that is a gradient.
        rest: E|r|^2; the two add up to the energy of the field.
    """

    basis: Basis
    coefficients: Tensor
    gradient: float
    rest: float

    def potential(self, x: Tensor) -> Tensor:
        """phi, (B,)."""
        return self.basis(x) @ self.coefficients.to(x)

    def score(self, x: Tensor, t: Time = None, condition: Condition | None = None) -> Tensor:
        """grad phi, like x: at the one time of the projection, whatever `t` is."""
        linear = Linearised(self.potential, x)
        return linear.pull(torch.ones_like(linear.value))

    def denoiser(self, process: AffineProcess, shape: Any = None) -> ScoreDenoiser:
        """The conservative denoiser with this score: of use at the time of the projection alone."""
        return ScoreDenoiser(self.score, process, shape)


def helmholtz(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    basis: Basis,
    *,
    ridge: float = 1e-10,
    chunk: int = 256,
    condition: Condition | None = None,
    **fields: Any,
) -> Helmholtz:
    """The score of a denoiser at one time, split in L2 of the samples `x`.

    Args:
        denoiser: of an affine process.
        x: samples of p_t, (B, ...); several for each function of the basis.
        t: the time.
        basis: functions, (B, ...) -> (B, K), differentiable.
        ridge: added to the normal equations, in units of their mean diagonal.
        chunk: samples at a time; K D numbers are kept for each.
        condition: a ready Condition in place of fields.
        **fields: condition fields.
    """
    affine_process(denoiser, "helmholtz")
    with torch.no_grad():
        score = field(denoiser, t, "score", condition_of(denoiser, x, condition, fields))(x).flatten(1)
    gram: Any = 0.0
    product: Any = 0.0
    for some, value in zip(x.split(chunk), score.split(chunk), strict=True):
        gradients = Linearised(basis, some).matrix()  # (B, K, D)
        gram = gram + torch.einsum("bkd,bld->kl", gradients, gradients) / len(x)
        product = product + torch.einsum("bkd,bd->k", gradients, value) / len(x)
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    coefficients = torch.linalg.solve(damped, product)
    gradient = float(coefficients @ gram @ coefficients)
    rest = float((score**2).sum(1).mean() - 2 * coefficients @ product) + gradient
    return Helmholtz(basis, coefficients, gradient, rest)

"""How far a function is from solving the Fokker-Planck equation of an affine process.

The noised data's law q_t of dx = b dt + g dW, b = f(t) x + c(t) y, satisfies, with u = log q_t and s = grad u,

    d_t u = g^2 / 2 (div s + |s|^2) - b . s - div b
    d_t s = grad[ g^2 / 2 (div s + |s|^2) - b . s ]

An exact score has residual 0 and then the ODE and the SDE of the process have the same marginals; what a learned one
leaves bounds the gap between the two (Deveney et al. 2023, 2311.15996; the score's equation: Lai et al. 2022,
2210.04296).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Time, scaled, sum_event

from .divergence import divergence, gradient

__all__ = ["log_density_residual", "score_residual"]


def log_density_residual(
    process: AffineProcess,
    log_density: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Time,
    *,
    probes: Tensor | None = None,
    condition: Condition | None = None,
    create_graph: bool = False,
) -> Tensor:
    """d_t u + div b + b . grad u - g^2 / 2 (Laplacian u + |grad u|^2) in nats per unit of time, (B,).

    A constant c(t) added to u adds c'(t) here and leaves the score alone: centre the residual over x at each time
    where only the score matters.

    Args:
        process: gives f, g and the anchor's part of the drift.
        log_density: u(x, t) -> (B,), for x (B, ...) and t (B,), differentiable twice in x and once in t; it need not
            be normalised in x, but see above.
        x: where it is asked, (B, ...).
        t: a number, or (B,), inside (0, 1].
        probes: (M, B, ...) of `probes_of`, for an unbiased estimate of the Laplacian; None is exact, at as many
            vector products as there are coordinates.
        condition: holds `anchor` for an anchored process.
        create_graph: keep the graph, to train on the result.

    Raises:
        ValueError: not an affine process, or its anchor is missing.
    """
    with torch.enable_grad():
        place, time, b, expansion, g2 = _setting(process, x, t, condition, create_graph)
        u = log_density(place, time)
        rate = gradient(u, time)
        s = gradient(u, place)
        bracket = _bracket(s, place, b, g2, probes, create_graph)
        found = rate.to(x.dtype) + expansion * x[0].numel() - bracket
    return found if create_graph else found.detach()


def score_residual(
    process: AffineProcess,
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Time,
    *,
    probes: Tensor | None = None,
    condition: Condition | None = None,
    create_graph: bool = False,
) -> Tensor:
    """d_t s - grad[ g^2 / 2 (div s + |s|^2) - b . s ], like x: the gradient of `log_density_residual` where s is one.

    Needs no potential; the arguments are the same, with `score`(x, t) like x in place of the log-density.
    """
    with torch.enable_grad():
        place, time, b, _, g2 = _setting(process, x, t, condition, True)
        s = score(place, time)
        bracket = _bracket(s, place, b, g2, probes, True)
        found = _rate(s, time) - gradient(bracket, place, create_graph)
    return found if create_graph else found.detach()


def _setting(
    process: AffineProcess, x: Tensor, t: Time, condition: Condition | None, attached: bool
) -> tuple[Tensor, Tensor, Any, Any, Any]:
    """x and t to differentiate by, the drift b, f and g^2."""
    if not isinstance(process, AffineProcess):
        raise ValueError(f"process: expected an affine process, got {process!r}")
    time = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
    f, c, g = process.drift_and_diffusion(time)
    place = x if attached and x.requires_grad else x.detach().clone().requires_grad_()
    b = process.add_anchor(scaled(f, place), c, condition)
    return place, time.detach().clone().requires_grad_(), b, f.to(x.dtype), (g**2).to(x.dtype)


def _bracket(
    s: Tensor, x: Tensor, b: Tensor, g2: Tensor, probes: Tensor | None, create_graph: bool
) -> Tensor:
    """g^2 / 2 (div s + |s|^2) - b . s, (B,)."""
    spread = divergence(s, x, probes, create_graph=create_graph).mean(0)
    return 0.5 * g2 * (spread + sum_event(s**2)) - sum_event(b * s)


def _rate(s: Tensor, time: Tensor) -> Tensor:
    """d s / d t row by row: the vector product is linear in its vector, whose gradient is the derivative."""
    direction = torch.zeros_like(s, requires_grad=True)
    pulled = torch.autograd.grad(s, time, direction, create_graph=True, allow_unused=True)[0]
    if pulled is None:
        return torch.zeros_like(s)
    return torch.autograd.grad(pulled.sum(), direction, create_graph=True)[0]

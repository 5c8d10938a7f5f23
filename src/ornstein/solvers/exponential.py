"""What the exponential methods share: the flow's linear part exactly, the rest by a polynomial.

In u = x - anchor_weight y, with lambda = log(alpha / sigma), the probability flow of every affine process is

    d(u / sigma) / d lambda = e^lambda D

Split D = k u + (D - k u), with k = alpha v / (alpha^2 v + sigma^2) the slope of the posterior mean of data of
variance v. With S = sqrt(alpha^2 v + sigma^2) the solution is

    u_s / S_s = u_t / S_t + int e^lambda / (1 + v e^(2 lambda)) f dlambda,      f = (S / sigma) (D - k u)

f is D itself for v = 0 (data prediction), the noise but for sign for v = infinity, where S = alpha, k = 1 / alpha
and the density is e^-lambda (noise prediction), and v-prediction for v = 1. A method says which polynomial
stands for f; `weights` integrates it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Level, Solver, TimeGrid

from .stochastic import one_time

__all__ = ["Span", "Split", "bases", "quadrature", "shared", "spans", "weights"]

POINTS = 64  # of the quadrature: exact to rounding for steps of up to ten units of half-log-SNR


class Span(NamedTuple):
    """One step: its times, half-log-SNR, and that of the calls a polynomial may go through, newest first.

    `nodes` begins with the start, and is empty where an end is infinite or nothing moves; `times` are theirs.
    """

    t: float
    s: float
    start: Any
    end: Any
    nodes: tuple[Any, ...]
    times: tuple[float, ...]

    @property
    def length(self) -> Any:
        """h = lambda_s - lambda_t."""
        return self.end - self.start


def spans(
    solver: Solver, process: AffineProcess, grid: TimeGrid, most: int, lower_final: bool = False
) -> Iterator[Span]:
    """The steps of a grid with up to `most` nodes each.

    The earlier calls are forgotten where the path turns back, waits, or meets an infinite half-log-SNR.

    Args:
        solver: named in errors.
        process: gives the half-log-SNR.
        grid: rows with one time each.
        most: nodes that a step may have.
        lower_final: let a step have no more nodes than there are steps left, itself included.
    """
    nodes: tuple[Any, ...] = ()
    times: tuple[float, ...] = ()
    for index, row in enumerate(grid):
        t, s = one_time(solver, row.t, row.s)
        start, end = process.half_log_snr(t), process.half_log_snr(s)
        known = most - 1 if nodes and (end - start) * (start - nodes[0]) > 0 else 0
        nodes, times = (start, *nodes[:known]), (t, *times[:known])
        count = 0 if t == s or not (_finite(start) and _finite(end)) else len(nodes)
        count = min(count, len(grid) - index) if lower_final else count
        yield Span(t, s, start, end, nodes[:count], times[:count])
        if not _finite(start):
            nodes = ()


class Split:
    """D = k u + rest for data of variance v in [0, infinity]."""

    def __init__(self, variance: float) -> None:
        self.variance = variance

    def slope(self, level: Level) -> Any:
        """k; 0 where v is infinite and there is no signal."""
        if self.variance == math.inf:
            return 1.0 / level.alpha if isinstance(level.alpha, Tensor) or level.alpha else 0.0
        return level.alpha * self.variance / (level.alpha**2 * self.variance + level.sigma**2)

    def size(self, level: Level) -> Any:
        """S."""
        if self.variance == math.inf:
            return level.alpha
        return (level.alpha**2 * self.variance + level.sigma**2) ** 0.5

    def density(self, half_log_snr: Tensor) -> Tensor:
        """What f is integrated against."""
        if self.variance == math.inf:
            return (-half_log_snr).exp()
        return half_log_snr.exp() / (1 + self.variance * (2 * half_log_snr).exp())


def weights(
    start: Any,
    end: Any,
    nodes: Sequence[Any],
    density: Callable[[Tensor], Tensor],
    clock: Callable[[Tensor], Tensor] | None = None,
) -> list[Any]:
    """int_start^end density L_j dlambda, L_j the Lagrange polynomials on `nodes`, in lambda or in clock(lambda).

    Numbers for numbers; tensors where the half-log-SNR of a learned process is one.
    """
    points, shares = quadrature()
    low, high, at = (torch.as_tensor(v, dtype=torch.float64) for v in (start, end, _stacked(nodes)))
    where = low + (high - low) * points
    mass = (high - low) * shares * density(where)
    return shared(mass, where, at) if clock is None else shared(mass, clock(where), clock(at))


def shared(mass: Tensor, where: Tensor, nodes: Tensor) -> list[Any]:
    """sum mass L_j(where) for each of the Lagrange polynomials on `nodes`."""
    found = [(mass * basis).sum() for basis in bases(where, nodes)]
    return [w if w.requires_grad else w.item() for w in found]


def bases(where: Tensor, nodes: Tensor) -> list[Tensor]:
    """L_j(where), the polynomials that are 1 at one node and 0 at the others."""
    found = []
    for j in range(len(nodes)):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        found.append(((where.unsqueeze(1) - others) / (nodes[j] - others)).prod(1))
    return found


def _stacked(nodes: Sequence[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in nodes])


@cache
def quadrature() -> tuple[Tensor, Tensor]:
    """Points and shares of Gauss and Legendre on [0, 1]."""
    from numpy.polynomial.legendre import leggauss

    points, shares = (torch.from_numpy(v) for v in leggauss(POINTS))
    return 0.5 * (points + 1), 0.5 * shares


def _finite(half_log_snr: Any) -> bool:
    return bool(-math.inf < half_log_snr < math.inf)

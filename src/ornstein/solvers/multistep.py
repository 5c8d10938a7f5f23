"""Exponential multistep methods: the linear part exactly, the denoiser by a polynomial through earlier calls.

One network call a step. All are `ExponentialAdams` with other weights; see `exponential` for the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
    accumulate,
    suggest,
)

from .ancestral import refuse_from_data
from .exponential import Span, Split, quadrature, shared, spans, weights

__all__ = ["DEIS", "DPMSolverPP", "ExponentialAdams", "UniPC"]


class ExponentialAdams(Solver):
    """Exponential Adams-Bashforth with the exact weights of a grid of any spacing,

        u_s = (S_s / S_t) u_t + S_s sum_j w_j f_j,      w_j = int e^lambda / (1 + v e^(2 lambda)) L_j dlambda

    f = (S / sigma) (D - k u) at this call and at order - 1 earlier ones, L_j the Lagrange polynomials on their
    half-log-SNR. v = 0 is data prediction, and order 2 then DPM-Solver++(2M) in its Taylor form; v = infinity
    is noise prediction; v between takes out the posterior mean of Gaussian data of that variance, a
    Rosenbrock-type method (DPM-Solver-v3, 2310.13268, with one constant for all of its statistics).

    With a corrector the state is mended once its own call is known (Adams-Moulton): by an increment that the
    next row adds, at no call more; it raises the order by one.

    The order falls in the first steps, and to 1 at an end of infinite log-SNR.

    Args:
        order: calls that the predictor's polynomial goes through, 1 to 4.
        variance: v, in the units of the data squared, 0 to infinity.
        corrector: whether to mend.
        lower_final: let the order fall to 1 over the last steps, which steadies runs of few steps.
    """

    def __init__(
        self, order: int = 3, variance: float = 0.0, corrector: bool = False, lower_final: bool = False
    ) -> None:
        self._set(order, 4, corrector, lower_final)
        if not variance >= 0:
            raise ValueError(f"variance: expected a number from 0 to infinity, got {variance!r}")
        self.variance = float(variance)

    def _set(self, calls: int, most: int, corrector: bool, lower_final: bool) -> None:
        if calls not in range(1, most + 1):
            raise ValueError(f"order: expected 1 to {most}, got {calls!r}")
        self.calls, self.corrector, self.lower_final, self.variance = calls, corrector, lower_final, 0.0
        self.order, self.history = calls + corrector, calls - 1 + corrector

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step: the correction of the step before, then the prediction."""
        assert isinstance(process, AffineProcess)
        refuse_from_data(self, process, grid)
        rows: list[Row] = []
        times: list[float] = []  # of the calls, newest first
        owed: list[Any] = []  # what mending adds to u / S, as weights of the calls' f, newest first
        for span in spans(self, process, grid, self.calls, self.lower_final):
            times = [span.t, *times[: self.history]]
            predict = self._weights(process, span, span.nodes) if span.nodes else []
            rows.append(self._row(process, span, times, _sum(owed, predict)))
            owed = []
            if self.corrector and span.nodes:
                mend = self._weights(process, span, (span.end, *span.nodes))
                owed = _sum(mend, [0.0, *(-w for w in predict)])
        return rows

    def _weights(self, process: AffineProcess, span: Span, nodes: Sequence[Any]) -> list[Any]:
        """Weights of f at `nodes` in (u_s / S_s - u_t / S_t)."""
        return weights(span.start, span.end, nodes, Split(self.variance).density)

    def _row(self, process: AffineProcess, span: Span, times: list[float], given: list[Any]) -> Row:
        """The row for u_s / S_s = u_t / S_t + sum_j given_j f_j, in x and in what is remembered."""
        if not span.nodes:
            return self._first_order(process, span, times, given)
        split, level, to = Split(self.variance), process.at(span.t), process.at(span.s)
        levels = [process.at(t) for t in times[: len(given)]]
        ratio = split.size(to) / split.size(level)
        on = [split.size(to) * w * split.size(v) / v.sigma for w, v in zip(given, levels, strict=True)]
        return _assembled(process, span, ratio, on, [split.slope(v) for v in levels], levels)

    def _first_order(self, process: AffineProcess, span: Span, times: list[float], owed: list[Any]) -> Row:
        """DDIM's step, from the mended state."""
        split, numbers = Split(self.variance), process.step(span.t, span.s, 0.0)
        if not owed:
            return Row.of(span.t, span.s, numbers)
        levels = [process.at(t) for t in times[: len(owed)]]
        size = split.size(levels[0])
        on = [numbers.a * size * w * split.size(v) / v.sigma for w, v in zip(owed, levels, strict=True)]
        row = _assembled(process, span, numbers.a, on, [split.slope(v) for v in levels], levels)
        return row._replace(b=row.b + numbers.b)

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """As of any row; D - k x is remembered in place of D."""
        law, kept = super().law(x, posterior, row, memory, condition)
        if self.variance and self.history and kept and posterior is not None:
            assert isinstance(self.process, AffineProcess)
            slope = Split(self.variance).slope(self.process.at(row.t))
            kept = (accumulate(posterior.mean, -slope, x, inplace=False), *kept[1:])
        return law, kept

    def __repr__(self) -> str:
        """As it was made: `order` is the polynomial's, from which the measured one may differ."""
        return as_made(self)


def as_made(solver: Any) -> str:
    """The solver with its polynomial's order in place of the measured one."""
    return Solver.__repr__(solver).replace(f"order={solver.order}", f"order={solver.calls}")


class DPMSolverPP(ExponentialAdams):
    """DPM-Solver++ in its multistep form (Lu et al. 2022, 2211.01095, algorithm 2): one network call a step,

        x_s = (sigma_s / sigma_t) x + alpha_s ((1 - e^-h) D + M_1 D' + (1/2 - M_1 / h) D'')

    with h = lambda_s - lambda_t and D', D'' the first two coefficients in (lambda - lambda_t) / h of the parabola
    through the last calls. M_1 = 1 - (1 - e^-h) / h integrates the slope exactly ("taylor"); "midpoint", the
    paper's "2M", puts (1 - e^-h) / 2 in its place, which agrees to second order.

    Order 3 ("3M") with "midpoint" is what the authors' code, diffusers and k-diffusion compute: its last term has
    half the weight that integrates the parabola, so that its measured order is 2. "taylor" integrates it exactly
    and is of order 3, as `ExponentialAdams(3)`.

    Args:
        order: 1 (DDIM), 2 ("2M") or 3 ("3M").
        variant: "midpoint" or "taylor" (which diffusers calls "heun").
        lower_final: let the order fall to 1 over the last steps, which steadies runs of few steps.
    """

    def __init__(self, order: int = 2, variant: str = "midpoint", lower_final: bool = False) -> None:
        self._set(order, 3, False, lower_final)
        if variant not in ("midpoint", "taylor"):
            raise ValueError(suggest(variant, ("midpoint", "taylor"), "variant"))
        self.variant, self.order = variant, order if variant == "taylor" else min(order, 2)

    def _weights(self, process: AffineProcess, span: Span, nodes: Sequence[Any]) -> list[Any]:
        if self.variant == "taylor" or len(nodes) == 1:
            return super()._weights(process, span, nodes)
        if len(nodes) == 2:
            return _halved(span, nodes, _gained(span))
        exact = super()._weights(process, span, nodes)
        h, slope = span.length, 1 - _gained(span) / span.length
        return unbent(exact, nodes, _exp(span.end) * (0.5 - slope / h) * h**2)


class UniPC(ExponentialAdams):
    """UniPC (Zhao et al. 2023, 2302.04867) with data prediction: UniP-p and UniC-p at one network call a step.

    Both integrate the polynomial through their calls exactly, as `ExponentialAdams(p, corrector=True)`, but
    through two calls, where the paper puts B(h) / 2 for the exact weight of the slope. The corrector runs on the
    call at the predicted state, which the next prediction uses again; the last step has none.

    Args:
        order: p, calls of the predictor, 1 to 4. The measured order is p + 1.
        variant: B(h) = h ("bh1") or 1 - e^-h ("bh2").
        lower_final: let the order fall to 1 over the last steps, which steadies runs of few steps.
    """

    def __init__(self, order: int = 2, variant: str = "bh2", lower_final: bool = False) -> None:
        self._set(order, 4, True, lower_final)
        if variant not in ("bh1", "bh2"):
            raise ValueError(suggest(variant, ("bh1", "bh2"), "variant"))
        self.variant = variant

    def _weights(self, process: AffineProcess, span: Span, nodes: Sequence[Any]) -> list[Any]:
        if len(nodes) == 2:
            return _halved(span, nodes, span.length if self.variant == "bh1" else _gained(span))
        return super()._weights(process, span, nodes)


class DEIS(ExponentialAdams):
    """DEIS (Zhang and Chen 2022, 2204.13902) in its Adams-Bashforth forms, of the noise:

        u_s = (alpha_s / alpha_t) u_t + alpha_s sum_j eps_j int L_j d rho,       rho = sigma / alpha

    with the polynomials in time (tAB-DEIS), in rho (rho-AB-DEIS, also k-diffusion's LMS), or in log rho
    (diffusers' DEIS, `ExponentialAdams` with variance infinity).

    Args:
        order: calls that the polynomial goes through, 1 (DDIM) to 4; the paper's tAB3 is order 4.
        clock: "time", "rho" or "log-rho".
        lower_final: let the order fall to 1 over the last steps, which steadies runs of few steps.
    """

    CLOCKS = ("time", "rho", "log-rho")

    def __init__(self, order: int = 3, clock: str = "time", lower_final: bool = False) -> None:
        self._set(order, 4, False, lower_final)
        if clock not in self.CLOCKS:
            raise ValueError(suggest(clock, self.CLOCKS, "clock"))
        self.variance, self.clock = math.inf, clock

    def _weights(self, process: AffineProcess, span: Span, nodes: Sequence[Any]) -> list[Any]:
        density = Split(math.inf).density
        if self.clock == "time":
            return _in_time(process, span, density)
        clock = (lambda half_log_snr: (-half_log_snr).exp()) if self.clock == "rho" else None
        return weights(span.start, span.end, nodes, density, clock)


def unbent(exact: Sequence[Any], nodes: Sequence[Any], curve: Any) -> list[Any]:
    """Weights that integrate a parabola, less `curve` times its second divided difference: "3M" keeps half of it."""
    return [
        w - curve / math.prod(a - b for i, b in enumerate(nodes) if i != j)
        for j, (w, a) in enumerate(zip(exact, nodes, strict=True))
    ]


def _in_time(process: AffineProcess, span: Span, density: Callable[[Tensor], Tensor]) -> list[Any]:
    """int density L_j dlambda with L_j in time, by points that crowd towards time 0, where sigma may be a root."""
    points, shares = quadrature()
    low, high = sorted((span.t, span.s))
    at = low + (high - low) * points**2
    level, slope = process.at(at), process.slope(at)
    speed = slope.alpha / level.alpha - slope.sigma / level.sigma  # of lambda
    mass = (high - low) * 2 * points * shares * density(process.half_log_snr(at)) * speed
    return shared(mass if span.s > span.t else -mass, at, torch.tensor(span.times, dtype=torch.float64))


def _halved(span: Span, nodes: Sequence[Any], height: Any) -> list[Any]:
    """e^lambda_s ((1 - e^-h) D + (height / 2) slope), the slope from the start to the other node, per unit of h."""
    run = [(node - span.start) / span.length for node in nodes]
    other = 0 if run[1] == 0 else 1
    share = 0.5 * height / run[other]
    found = [_gained(span) - share, share]
    return [_exp(span.end) * w for w in (found if other else reversed(found))]


def _gained(span: Span) -> Any:
    """1 - e^-h."""
    h = span.length
    return -torch.expm1(-h) if isinstance(h, Tensor) else -math.expm1(-h)


def _exp(value: Any) -> Any:
    return value.exp() if isinstance(value, Tensor) else math.exp(value)


def _assembled(
    process: AffineProcess,
    span: Span,
    ratio: Any,
    on: list[Any],
    slopes: list[Any],
    levels: list[Any],
) -> Row:
    """x_s - b_s y = ratio (x - b_t y) + sum_j on_j (m_j + k_j b_j y), m = D - k x what is remembered."""
    a = ratio - on[0] * slopes[0]
    c: Any = 0.0
    if process.anchored:
        c = process.at(span.s).anchor - a * levels[0].anchor
        for w, k, level in zip(on[1:], slopes[1:], levels[1:], strict=True):
            c = c + w * k * level.anchor
    return Row(span.t, span.s, a, on[0], tuple(on[1:]), c)


def _sum(one: list[Any], other: list[Any]) -> list[Any]:
    size = max(len(one), len(other))
    one, other = (v + [0.0] * (size - len(v)) for v in (one, other))
    return [a + b for a, b in zip(one, other, strict=True)]

"""Exponential multistep methods for the reverse SDE: linear part and noise exactly, the denoiser by a polynomial.

With h = lambda_s - lambda_t, c the stochasticity and theta = (lambda - lambda_t) / h, the exact solution in
u = x - anchor_weight y of every affine process is

    u_s = (sigma_s / sigma_t) e^(-c^2 h) u_t + alpha_s int_0^1 g e^(-g (1 - theta)) D(theta) dtheta + noise,
    g = (1 + c^2) h

so a method is the polynomial that stands for D. All of them are rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ornstein.core import AffineProcess, Process, Row, Solver, TimeGrid

from .ancestral import refuse_from_data, refuse_upwards
from .exponential import Span, spans, weights
from .multistep import _sum, as_made, unbent

__all__ = ["SASolver", "SDEDPMSolverPP"]


def density(span: Span, stochasticity: Any) -> Callable[[Tensor], Tensor]:
    """(1 + c^2) e^(-(1 + c^2) (lambda_s - lambda)), which D is integrated against, in units of alpha_s."""
    rate = 1 + stochasticity**2
    return lambda half_log_snr: rate * (rate * (half_log_snr - span.end)).exp()


def moment(span: Span, stochasticity: Any, power: int) -> Any:
    """M_k: the integral of theta^k against `density`, as the weight of the end in a line through both ends."""
    ends = (span.start, span.end)
    clock = lambda v: ((v - span.start) / span.length) ** power  # noqa: E731
    return weights(*ends, ends, density(span, stochasticity), clock)[1]


class SDEDPMSolverPP(Solver):
    """SDE-DPM-Solver++ (Lu et al. 2022, 2211.01095, section 5) in multistep form: one network call a step.

    Order 1 is `Stochastic(stochasticity)`. With M_k of `moment`, r = h_before / h and d = (D - D_before) / r,

        order 2, "midpoint":  alpha_s M_0 (D + d / 2)
        order 2, "taylor":    alpha_s (M_0 D + M_1 d)
        order 3, "taylor":    alpha_s (M_0 D + M_1 d' + M_2 d'')
        order 3, "midpoint":  alpha_s (M_0 D + M_1 d' + M_2 d'' / 2)

    d', d'' are the first two coefficients of the parabola through three calls. The last is the "3M SDE" of
    k-diffusion as published: half the weight that integrates the parabola. On a Gaussian the errors of the law fall
    at order 1, 2 and 2, since the first steps are of lower order. At stochasticity 0 it is
    `DPMSolverPP`, but for the second step of order 3, which here has its full weight.

    Args:
        order: 1, 2 or 3.
        variant: "midpoint" or "taylor".
        stochasticity: c >= 0; 0 gives the deterministic multistep methods.
    """

    def __init__(self, order: int = 2, variant: str = "midpoint", stochasticity: float = 1.0) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order: expected 1, 2 or 3, got {order!r}")
        if variant not in ("midpoint", "taylor"):
            raise ValueError(f"variant: expected 'midpoint' or 'taylor', got {variant!r}")
        self.stochasticity = _checked(stochasticity)
        self.calls, self.variant, self.history = order, variant, order - 1
        self.stochastic, self.reverses = stochasticity > 0, order == 1 and stochasticity == 1
        self.order = min(order, 2) if self.stochastic or variant == "midpoint" else order

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step; order 1 at an end of infinite log-SNR, and until there are calls enough."""
        assert isinstance(process, AffineProcess)
        refuse_upwards(self, grid)
        refuse_from_data(self, process, grid)
        rows = []
        for span in spans(self, process, grid, self.calls):
            row = Row.of(span.t, span.s, process.step(span.t, span.s, self.stochasticity))
            on = self._weights(process.at(span.s).alpha, span) if len(span.nodes) > 1 else [row.b]
            rows.append(row._replace(b=on[0], past=tuple(on[1:])))
        return rows

    def _weights(self, alpha: Any, span: Span) -> list[Any]:
        """Weights of the calls, newest first."""
        exact = _integrated(alpha, span, self.stochasticity, span.nodes)
        if self.variant == "taylor" or len(span.nodes) < self.calls:
            return exact
        if self.calls == 3:
            curve = 0.5 * alpha * moment(span, self.stochasticity, 2) * span.length**2
            return unbent(exact, span.nodes, curve)
        whole = sum(exact)
        share = 0.5 * whole * span.length / (span.nodes[0] - span.nodes[1])
        return [whole + share, -share]

    def __repr__(self) -> str:
        """As it was made: `order` is the polynomial's, from which the measured one may differ."""
        return as_made(self)


class SASolver(Solver):
    """SA-Solver (Xue et al. 2023, 2309.05019): stochastic Adams predictor and corrector, one network call a step.

        predict   u_s  = A u_t + alpha_s sum_j P_j D_j + noise                    (Adams-Bashforth)
        correct   u_s' = A u_t + alpha_s (K D(u_s) + sum_j C_j D_j) + same noise  (Adams-Moulton)

    P, C, K integrate the polynomial through the calls exactly. The state shown to guides is the predicted
    one; since u_s' - u_s is linear in the calls, the correction is an increment that the next row adds, and
    the last step has none (it would cost a call more).

    Args:
        predictor: number of calls that the predictor's polynomial goes through, 1 to 4.
        corrector: the same of the corrector, the call at its end included, 1 to 4; 0 leaves it out.
        stochasticity: c >= 0, or a function of the half-log-SNR where a step starts, constant within it. The
            paper's choice for images is 1 for sigma / alpha from 0.05 to 1 and 0 elsewhere.
    """

    def __init__(
        self,
        predictor: int = 3,
        corrector: int = 3,
        stochasticity: float | Callable[[float], float] = 1.0,
    ) -> None:
        if predictor not in range(1, 5):
            raise ValueError(f"predictor: expected 1 to 4, got {predictor!r}")
        if corrector not in range(5):
            raise ValueError(f"corrector: expected 0 to 4, got {corrector!r}")
        self.predictor, self.corrector = predictor, corrector
        self.stochasticity = stochasticity if callable(stochasticity) else _checked(stochasticity)
        self.stochastic = callable(stochasticity) or stochasticity > 0
        self.history = max(predictor, corrector - 1) if corrector else predictor - 1
        reached = min(max(predictor, corrector), 3) if corrector else min(predictor, 2)  # by the first steps
        self.order = min(reached, 2) if self.stochastic else reached

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step: the correction of the step before, then the prediction."""
        assert isinstance(process, AffineProcess)
        refuse_upwards(self, grid)
        refuse_from_data(self, process, grid)
        rows: list[Row] = []
        owed: list[Any] = []  # what correcting the state adds, as weights of the calls, newest first
        most = max(self.predictor, self.corrector - 1)
        for span in spans(self, process, grid, most):
            c = self._at(process, span.t)
            numbers = process.step(span.t, span.s, c)
            alpha = process.at(span.s).alpha
            predict = _integrated(alpha, span, c, span.nodes[: self.predictor]) or [numbers.b]
            total = _sum(predict, [numbers.a * w for w in owed])
            rows.append(Row.of(span.t, span.s, numbers)._replace(b=total[0], past=tuple(total[1:])))
            owed = []
            if self.corrector and span.nodes:
                nodes = (span.end, *span.nodes[: self.corrector - 1])
                owed = _sum(_integrated(alpha, span, c, nodes), [0.0, *(-w for w in predict)])
        return rows

    def _at(self, process: AffineProcess, t: float) -> float:
        if callable(self.stochasticity):
            return _checked(float(self.stochasticity(process.half_log_snr(t))))
        return self.stochasticity


def _integrated(alpha: Any, span: Span, stochasticity: Any, nodes: Sequence[Any]) -> list[Any]:
    """alpha_s times the integral of the Lagrange polynomials on `nodes` against `density`; none for no node."""
    made = weights(span.start, span.end, nodes, density(span, stochasticity)) if nodes else []
    return [alpha * w for w in made]


def _checked(stochasticity: Any) -> float:
    if not stochasticity >= 0:
        raise ValueError(f"stochasticity: expected a number >= 0, got {stochasticity}")
    return float(stochasticity)

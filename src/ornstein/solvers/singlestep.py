"""Exponential Runge-Kutta methods: each step looks ahead by calls of its own and forgets the step before."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Process, Row, Solver, TimeGrid, suggest

from .ancestral import refuse_from_data
from .exponential import Span, Split, spans, weights

__all__ = ["DPMSolver"]

# For each order the stages of a step: how far each goes, in units of the step's half-log-SNR, and the stages whose
# calls its polynomial goes through. Order 2 is the midpoint rule; order 3 has r_1 = 1/3, r_2 = 2/3.
STAGES: dict[int, tuple[tuple[float, tuple[int, ...]], ...]] = {
    1: ((1.0, (0,)),),
    2: ((1 / 2, (0,)), (1.0, (1,))),
    3: ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))),
}


class DPMSolver(Solver):
    """DPM-Solver-1, 2, 3 (Lu et al. 2022, 2206.00927) and, with data prediction, DPM-Solver++(2S) and (3S)
    (2211.01095): `order` network calls, and as many rows, a step.

    Stage i goes from the step's start to the fraction c_i of its half-log-SNR. In the form of `exponential`

        u_i / S_i = u_t / S_t + sum_j f_j int_t^i density L_j dlambda

    with the polynomial through one or two calls of the step. All stages have the slope sigma_i / sigma_t in u_t,
    so that u_t is a sum of the state that is exposed and the step's calls, and each stage is a row alone.

    A row of the grid that begins or ends where the half-log-SNR is infinite is one row of order 1.

    Args:
        order: 1 (DDIM), 2 or 3.
        prediction: what is integrated, "noise" as in the first paper or "data" as in the second.
    """

    def __init__(self, order: int = 2, prediction: str = "noise") -> None:
        if order not in STAGES:
            raise ValueError(f"order: expected 1, 2 or 3, got {order!r}")
        if prediction not in ("noise", "data"):
            raise ValueError(suggest(prediction, ("noise", "data"), "prediction"))
        self.order, self.history, self.prediction = order, order - 1, prediction

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """As many rows a step as there are stages."""
        assert isinstance(process, AffineProcess)
        refuse_from_data(self, process, grid)
        rows = []
        steps = list(spans(self, process, grid, 1))
        for span, inner in zip(steps, self._inner(process, steps), strict=True):
            if span.nodes:
                rows += self._stages(process, [span.t, *inner, span.s], span.start)
            else:
                rows.append(Row.of(span.t, span.s, process.step(span.t, span.s, 0.0)))
        return rows

    def _stages(self, process: AffineProcess, times: list[float], start: Any) -> list[Row]:
        """Each stage as u = slope u_t + sum_j on_j D_j, then the rows between successive stages."""
        split = Split(math.inf if self.prediction == "noise" else 0.0)
        levels = [process.at(t) for t in times]
        at = [process.half_log_snr(t) for t in times]
        slopes, calls = [1.0], [[0.0] * self.order]
        for i, (_, through) in enumerate(STAGES[self.order], start=1):
            given = weights(start, at[i], [at[j] for j in through], split.density)
            on = [0.0] * self.order
            for w, j in zip(given, through, strict=True):
                share = split.size(levels[i]) * w * split.size(levels[j]) / levels[j].sigma
                on[j] = on[j] + share
                on = [v - share * split.slope(levels[j]) * d for v, d in zip(on, calls[j], strict=True)]
            slopes.append(levels[i].sigma / levels[0].sigma)
            calls.append(on)
        return [_between(process, times, i, slopes, calls) for i in range(self.order)]

    def _inner(self, process: AffineProcess, steps: list[Span]) -> list[list[float]]:
        """Times of the stages inside each step, all by one inversion of the half-log-SNR."""
        inner = torch.tensor([fraction for fraction, _ in STAGES[self.order][:-1]], dtype=torch.float64)
        ends = [[v.item() if isinstance(v, Tensor) else v for v in (p.start, p.end)] for p in steps]
        start, end = torch.tensor(ends, dtype=torch.float64).T.unsqueeze(-1)
        with torch.no_grad():
            times: list[list[float]] = process.time_at(torch.lerp(start, end, inner)).tolist()
        return times


def _between(
    process: AffineProcess, times: list[float], i: int, slopes: list[Any], calls: list[list[Any]]
) -> Row:
    a = slopes[i + 1] / slopes[i]
    on = [after - a * before for after, before in zip(calls[i + 1], calls[i], strict=True)]
    now, to = process.at(times[i]), process.at(times[i + 1])
    return Row(times[i], times[i + 1], a, on[i], tuple(reversed(on[:i])), to.anchor - a * now.anchor)

"""Exponential multistep methods: the linear part exactly, the denoiser extrapolated from earlier calls."""

from __future__ import annotations

import math
from typing import Any

from ornstein.core import AffineProcess, Process, Row, Solver, TimeGrid

__all__ = ["DPMSolverPP"]


class DPMSolverPP(Solver):
    """DPM-Solver++ in its multistep form (Lu et al. 2022, 2211.01095, algorithm 2): one network call a step,

        x_s = (sigma_s / sigma_t) x + alpha_s (1 - e^-h) (D + (D - D_before) / (2 r)),   r = h_before / h

    with h = lambda_s - lambda_t. The first step, and one that ends where sigma = 0, are of order 1.

    Args:
        order: 1 (DDIM) or 2 ("2M").
    """

    def __init__(self, order: int = 2) -> None:
        if order not in (1, 2):
            raise ValueError(f"order: expected 1 or 2, got {order!r}")
        self.order, self.history = order, order - 1

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step."""
        assert isinstance(process, AffineProcess)
        rows: list[Row] = []
        before: Any = math.nan  # no earlier step
        for r in grid:
            row = Row.of(r.t, r.s, process.step(r.t, r.s, 0.0))
            h = _length(process, r.t, r.s)
            if self.order == 2 and 0 < h < math.inf and 0 < before < math.inf:
                share = 0.5 * h / before
                row = row._replace(b=row.b * (1 + share), past=(-row.b * share,))
            rows.append(row)
            before = h
        return rows


def _length(process: AffineProcess, t: float, s: float) -> Any:
    if not isinstance(t, float) or not isinstance(s, float):
        raise ValueError("DPMSolverPP: multistep methods need one time for all; use DDIM() for vector time")
    return process.half_log_snr(s) - process.half_log_snr(t) if t != s else 0.0

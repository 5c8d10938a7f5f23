"""MR Sampler: the member of the DPM-Solver++ family that mean-reverting restoration uses."""

from __future__ import annotations

from .adams import SDEDPMSolverPP

__all__ = ["MRSampler"]


class MRSampler(SDEDPMSolverPP):
    """MRS (Li et al. 2025, 2502.07856) with data prediction, for processes that revert to an anchor.

    In u = x - anchor_weight y each of its updates is one of DPM-Solver++: "ode" is its multistep method of this
    order in the Taylor form (at order 3 with the published, halved last weight), "sde" the same with
    stochasticity 1. As all solvers here act on u, the name adds nothing but itself: any other solver serves a
    mean-reverting process as well.

    Args:
        order: 1 to 3 for "ode", 1 or 2 for "sde".
        kind: "ode" or "sde".
    """

    def __init__(self, order: int = 2, kind: str = "ode") -> None:
        if kind not in ("ode", "sde"):
            raise ValueError(f"kind: expected 'ode' or 'sde', got {kind!r}")
        if kind == "sde" and order == 3:
            raise ValueError(
                "order: expected 1 or 2 for kind='sde', got 3; SDEDPMSolverPP(3) has one of order 3"
            )
        variant = "midpoint" if order == 3 else "taylor"  # the published order 3 halves its last weight
        super().__init__(order, variant, stochasticity=0.0 if kind == "ode" else 1.0)
        self.kind = kind

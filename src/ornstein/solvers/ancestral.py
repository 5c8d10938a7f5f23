"""The one-step family of DESIGN: DDIM, DDPM, everything between them, and ancestral steps of any process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Distribution,
    Gaussian,
    Matrix,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
    align,
)

__all__ = ["DDIM", "DDPM", "Ancestral", "Stochastic"]


class Stochastic(Solver):
    """The step of `AffineProcess.step` at a fixed stochasticity c: c = 0 follows the probability flow, c = 1
    is the ancestral step, and every c has the same marginals in the limit of small steps.

    Args:
        stochasticity: c >= 0.
    """

    latent = True

    def __init__(self, stochasticity: float = 1.0) -> None:
        if not stochasticity >= 0:
            raise ValueError(f"stochasticity: expected a number >= 0, got {stochasticity}")
        self.stochasticity = float(stochasticity)
        self.stochastic, self.reverses = stochasticity > 0, stochasticity == 1

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step."""
        assert isinstance(process, AffineProcess)
        refuse_upwards(self, grid)
        refuse_from_data(self, process, grid)
        return [Row.of(r.t, r.s, process.step(r.t, r.s, self.stochasticity)) for r in grid]


class DDIM(Solver):
    """Song, Meng and Ermon 2020 (2010.02502): the probability flow at eta = 0, ancestral steps at eta = 1.

    Args:
        eta: share of the ancestral standard deviation, 0 to 1.
    """

    latent = True

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: expected a number from 0 to 1, got {eta}")
        self.eta, self.stochastic, self.reverses = float(eta), eta > 0, eta == 1

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """One row a step."""
        assert isinstance(process, AffineProcess)
        refuse_upwards(self, grid)
        refuse_from_data(self, process, grid)
        return [Row.of(r.t, r.s, process.ddim_step(r.t, r.s, self.eta)) for r in grid]


class Ancestral(Solver):
    """x_s drawn from q(x_s | x_t, x_0), averaged over what the denoiser says of x_0. For any process with a
    bridge.

    On an affine process this is DDPM (Ho, Jain and Abbeel 2020, 2006.11239); on a discrete one the
    factorised reverse step of 2107.03006, whose law differs from the data's by O(1 / steps) even with an
    exact denoiser.

    Args:
        variance: "bridge" keeps the bridge's variance, as DDPM does, which is short of the posterior's own;
            "posterior" adds gain^2 Var(x_0 | x_t), and the marginals of Gaussian data are then exact at any
            number of steps.
    """

    stochastic = True
    reverses = True

    def __init__(self, variance: str = "bridge") -> None:
        if variance not in ("bridge", "posterior"):
            raise ValueError(f"variance: expected 'bridge' or 'posterior', got {variance!r}")
        self.variance = variance

    def check(self, process: Process) -> None:
        """Any process that has a bridge."""
        if type(process).bridge is Process.bridge:
            raise ValueError(f"Ancestral: {type(process).__name__} has no bridge to step by")

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The numbers of an affine process; of others the times alone."""
        refuse_upwards(self, grid)
        if not isinstance(process, AffineProcess):
            return [Row(r.t, r.s) for r in grid]
        return [Row.of(r.t, r.s, process.step(r.t, r.s, 1.0)) for r in grid]

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """The averaged bridge."""
        if row.a is None:
            return self.process.bridge(x, posterior, row.t, row.s, condition), memory
        law, memory = super().law(x, posterior, row, memory, condition)
        if self.variance == "posterior" and isinstance(law, Gaussian):
            law = _widened(law, posterior)
        return law, memory


DDPM = Ancestral


def _widened(law: Gaussian, posterior: Posterior | None) -> Gaussian:
    variance = getattr(posterior, "variance", None)
    if variance is None:
        raise ValueError("Ancestral(variance='posterior'): this denoiser gives no variance of x_0 given x_t")
    size = law.mean[0].numel()
    gain, scale = (_full(v, law.mean) for v in (law.gain, law.scale))
    if variance.ndim == 3 and variance.shape[1:] == (size, size):
        total = gain.flatten(1).unsqueeze(-1) ** 2 * variance + torch.diag_embed(scale.flatten(1) ** 2)
        return Gaussian(law.mean, Matrix(torch.linalg.cholesky(total)), law.space, law.gain)
    return Gaussian(law.mean, (scale**2 + gain**2 * variance).sqrt(), law.space, law.gain)


def _full(value: Any, like: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return torch.as_tensor(align(value, like)).expand_as(like)


def refuse_from_data(solver: Solver, process: AffineProcess, grid: TimeGrid) -> None:
    """Refuse to follow the flow up from where there is no noise: its direction is not defined there."""
    for row in grid:
        if (
            isinstance(row.t, float)
            and isinstance(row.s, float)
            and row.s > row.t
            and process.at(row.t).sigma == 0
        ):
            raise ValueError(
                f"{type(solver).__name__}: the flow cannot start at t={row.t}, where there is no noise to read a "
                "direction from; start at a small time"
            )


def refuse_upwards(solver: Solver, grid: TimeGrid) -> None:
    for row in grid:
        if isinstance(row.t, float) and isinstance(row.s, float) and row.s > row.t and solver.stochastic:
            raise ValueError(
                f"{type(solver).__name__}: a row from t={row.t} up to s={row.s} needs a solver that goes up, "
                "Forward() or Renoise()"
            )

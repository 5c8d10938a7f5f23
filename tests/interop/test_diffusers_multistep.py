"""UniPC, DEIS and the variants of DPM-Solver++ beside the schedulers of diffusers."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed")

from ornstein.solvers import DEIS, DPMSolverPP, UniPC

from .test_diffusers_parity import (
    Discrete,
    N,
    assert_same,
    diffusers,
    grid_of,
    ours,
    process_of,
    start,
    theirs,
    unet,
)

__all__ = ["start", "unet"]


def agree(
    scheduler, solver, unet, start, steps: int = 12, tolerance: float = 1e-4, last: float = 0.0
) -> None:
    """Theirs has its table in float32, so agreement is to its rounding."""
    scheduler.set_timesteps(steps)
    network = unet.double()
    denoiser = Discrete(network, process_of(scheduler))
    path = ours(denoiser, solver, grid_of(scheduler, last), start)
    assert_same(path, theirs(scheduler, network, start), tolerance)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc(unet, start, p, variant) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=p, solver_type=variant)
    agree(scheduler, UniPC(p, variant, lower_final=True), unet, start)


@pytest.mark.parametrize("final", [True, False])
def test_3m(unet, start, final) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, lower_order_final=final)
    agree(scheduler, DPMSolverPP(3, lower_final=final), unet, start)


def test_the_taylor_form_is_theirs_called_heun(unet, start) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=2, solver_type="heun")
    agree(scheduler, DPMSolverPP(2, "taylor"), unet, start)


@pytest.mark.parametrize("order", [2, 3])
def test_deis_in_log_rho(unet, start, order) -> None:
    """Theirs ends at its smallest sigma, our time 1 / N."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, lower_order_final=False)
    agree(scheduler, DEIS(order, "log-rho"), unet, start, last=1 / N)

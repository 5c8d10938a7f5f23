"""Singlestep DPM-Solvers and Runge-Kutta methods against their papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Sampler, TimeGrid
from ornstein.processes import RectifiedFlow, VariancePreserving
from ornstein.solvers import DDIM, DPMSolver, Euler, Heun, RungeKutta4

from ..exact import gaussian, mixture
from .test_multistep import EXACT, numbers, start, uneven


def dpm_solver_2(truth, process, x, t, s):
    """2206.00927, algorithm 1 with r_1 = 1/2."""
    (alpha_t, _, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
    h = lam_s - lam_t
    t_1 = process.time_at(lam_t + 0.5 * h)
    alpha_1, sigma_1, _ = numbers(process, t_1)
    u = alpha_1 / alpha_t * x - sigma_1 * math.expm1(0.5 * h) * truth(x, t).noise
    return alpha_s / alpha_t * x - sigma_s * math.expm1(h) * truth(u, t_1).noise


def dpm_solver_3(truth, process, x, t, s):
    """2206.00927, algorithm 2 with r_1 = 1/3, r_2 = 2/3."""
    (alpha_t, _, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
    h, r_1, r_2 = lam_s - lam_t, 1 / 3, 2 / 3
    t_1, t_2 = (process.time_at(lam_t + r * h) for r in (r_1, r_2))
    (alpha_1, sigma_1, _), (alpha_2, sigma_2, _) = numbers(process, t_1), numbers(process, t_2)
    noise = truth(x, t).noise
    u_1 = alpha_1 / alpha_t * x - sigma_1 * math.expm1(r_1 * h) * noise
    d_1 = truth(u_1, t_1).noise - noise
    curved = math.expm1(r_2 * h) / (r_2 * h) - 1
    u_2 = alpha_2 / alpha_t * x - sigma_2 * (math.expm1(r_2 * h) * noise + r_2 / r_1 * curved * d_1)
    d_2 = truth(u_2, t_2).noise - noise
    curved = math.expm1(h) / h - 1
    return alpha_s / alpha_t * x - sigma_s * (math.expm1(h) * noise + curved / r_2 * d_2)


def dpm_solver_pp_2s(truth, process, x, t, s):
    """2211.01095, algorithm 1 with r = 1/2."""
    (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
    h = lam_s - lam_t
    t_1 = process.time_at(lam_t + 0.5 * h)
    alpha_1, sigma_1, _ = numbers(process, t_1)
    u = sigma_1 / sigma_t * x - alpha_1 * math.expm1(-0.5 * h) * truth(x, t).mean
    return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * truth(u, t_1).mean


def dpm_solver_pp_3s(truth, process, x, t, s):
    """singlestep_dpm_solver_third_update of the authors' repository, with data prediction."""
    (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = numbers(process, t), numbers(process, s)
    h, r_1, r_2 = lam_s - lam_t, 1 / 3, 2 / 3
    t_1, t_2 = (process.time_at(lam_t + r * h) for r in (r_1, r_2))
    (alpha_1, sigma_1, _), (alpha_2, sigma_2, _) = numbers(process, t_1), numbers(process, t_2)
    m = truth(x, t).mean
    u_1 = sigma_1 / sigma_t * x - alpha_1 * math.expm1(-r_1 * h) * m
    d_1 = truth(u_1, t_1).mean - m
    curved = math.expm1(-r_2 * h) / (r_2 * h) + 1
    u_2 = sigma_2 / sigma_t * x - alpha_2 * math.expm1(-r_2 * h) * m + r_2 / r_1 * alpha_2 * curved * d_1
    d_2 = truth(u_2, t_2).mean - m
    curved = math.expm1(-h) / h + 1
    return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * m + alpha_s * curved / r_2 * d_2


def kutta_4(truth, process, x, t, s):
    h, middle = s - t, 0.5 * (t + s)
    k_1 = truth(x, t).velocity
    k_2 = truth(x + 0.5 * h * k_1, middle).velocity
    k_3 = truth(x + 0.5 * h * k_2, middle).velocity
    k_4 = truth(x + h * k_3, s).velocity
    return x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


WRITTEN_OUT = {
    dpm_solver_2: DPMSolver(2),
    dpm_solver_3: DPMSolver(3),
    dpm_solver_pp_2s: DPMSolver(2, "data"),
    dpm_solver_pp_3s: DPMSolver(3, "data"),
    kutta_4: RungeKutta4(),
}


@pytest.mark.parametrize("formula", WRITTEN_OUT, ids=lambda f: f.__name__)
def test_a_step_is_the_formula_written_out(formula):
    process = VariancePreserving()
    truth, x, grid = mixture(process), start(), uneven(process, 5)
    ours = Sampler(WRITTEN_OUT[formula], grid=grid)(truth, x)
    for t, s, _ in grid:
        x = formula(truth, process, x, t, s)
    torch.testing.assert_close(ours, x, **EXACT)


def test_order_1_is_ddim():
    process = VariancePreserving("cosine")
    truth, x = mixture(process), start()
    for prediction in ("noise", "data"):
        ours = Sampler(DPMSolver(1, prediction), 9)(truth, x)
        torch.testing.assert_close(ours, Sampler(DDIM(), 9)(truth, x), **EXACT)


def test_a_wait_changes_nothing():
    process = VariancePreserving()
    truth, x = gaussian(process), start()
    for solver in (DPMSolver(3), RungeKutta4(), Heun(), Euler()):
        end = Sampler(solver, grid=TimeGrid.through([0.5, 0.5]))(truth, x)
        torch.testing.assert_close(end, x)


def test_samples_at_different_stages_share_a_step():
    """Of one Runge-Kutta step: one at its predictor, one at its corrector."""
    process = RectifiedFlow()
    truth, x = mixture(process), start()[:2]
    solver = Heun()
    sampler = Sampler(solver, grid=TimeGrid.through([0.9, 0.6, 0.3]))
    corrects, predicts = list(sampler.steps(truth, x))[1:3]
    memory = {solver: (torch.stack([corrects._before[0][0], predicts._before[0][1]]),)}
    together = torch.stack([corrects.x[0], predicts.x[1]])
    step = sampler.step(truth, together, torch.tensor([1, 2]), memory=memory)
    torch.testing.assert_close(step.next, torch.stack([corrects.next[0], predicts.next[1]]), **EXACT)


def test_the_weights_of_kuttas_increments():
    from ornstein.solvers.flow import _increments

    assert _increments(Heun.tableau) == [(1.0,), (0.5, -0.5)]
    assert _increments(RungeKutta4.tableau)[-1] == pytest.approx((1 / 6, -2 / 3, 0.0, 1 / 3))

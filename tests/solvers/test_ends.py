"""Numbers at the ends and turns of grids, written out: what a run's error alone would hardly show."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import TimeGrid
from ornstein.denoisers import GaussianFit
from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import (
    DEIS,
    DPMSolverPP,
    EulerMaruyama,
    ExponentialAdams,
    FreeDiffusion,
    ReverseDiffusion,
    best,
    churned,
)


@pytest.mark.parametrize("solver", [ExponentialAdams(3), DPMSolverPP(2), DEIS(3)], ids=repr)
def test_history_is_forgotten_where_the_path_turns(solver):
    """A polynomial through calls on both sides of a turn would not be a function of the level."""
    process = VariancePreserving()
    grid = TimeGrid.through([0.9, 0.7, 0.5, 0.6, 0.3, 0.2])
    past = [bool(any(row.past)) for row in solver.on(process).rows(process, grid)]
    assert past == [False, True, False, False, True]


@pytest.mark.parametrize("solver", [EulerMaruyama(), ReverseDiffusion()], ids=repr)
def test_the_step_to_clean_data_draws_no_noise(solver):
    """2011.13456: the last step returns the mean."""
    process = VariancePreserving()
    *others, last = solver.on(process).rows(process, TimeGrid.through([0.8, 0.5, 0.1, 0.0]))
    assert last.scale == 0.0
    assert all(row.scale > 0 for row in others)


def test_free_diffusion_of_order_2_takes_its_noise_in_the_middle_of_the_step():
    epsilon = lambda t: 0.1 + t**2  # noqa: E731
    process = RectifiedFlow()
    first, second = (FreeDiffusion(epsilon, order) for order in (1, 2))
    grid = TimeGrid.through([0.8, 0.4])
    assert first.on(process).rows(process, grid)[0].scale == pytest.approx(math.sqrt(2 * epsilon(0.8) * 0.4))
    assert second.on(process).rows(process, grid)[0].scale == pytest.approx(math.sqrt(2 * epsilon(0.6) * 0.4))


@pytest.mark.parametrize("calls", [5, 10, 20])
def test_the_best_sampler_calls_at_the_levels_it_promises(calls):
    process = VarianceExploding(0.002, 1e4)
    fit = GaussianFit(torch.zeros(40), torch.eye(40)[:2], torch.tensor([9.0, 4.0]), rest=0.25)
    grid = best(calls, process, fit).grid
    levels = [math.exp(-process.half_log_snr(row.t)) for row in grid][1:]
    assert len(levels) == calls
    assert levels[0] == pytest.approx(0.4 * calls * 3.0)
    assert levels[-1] == pytest.approx(6.0 * calls**-1.45 * 0.5)
    assert grid[0].t == 1.0 and grid[-1].s == 0.0


def test_data_of_no_variance_off_a_few_axes_still_have_a_grid():
    fit = GaussianFit(torch.zeros(40), torch.eye(40)[:2], torch.tensor([9.0, 4.0]), rest=0.0)
    process = VarianceExploding(0.002, 80.0)
    levels = [math.exp(-process.half_log_snr(row.t)) for row in best(8, process, fit).grid][1:]
    assert levels[-1] == pytest.approx(6.0 * 8**-1.45 * 3e-3)


def test_churn_goes_up_by_the_share_that_the_paper_says():
    """2206.00364, algorithm 2: k_hat = (1 + gamma) k, gamma = min(S_churn / N, sqrt(2) - 1)."""
    process = VarianceExploding(0.002, 80.0)
    grid = TimeGrid.karras(8, process, largest=20.0)[1:]
    made = churned(grid, process, churn=2.0, low=0.0, high=1e3)
    ups = [row for row in made if row.s > row.t]
    assert len(ups) == len(grid)
    for row in ups:
        lift = math.exp(process.half_log_snr(row.t) - process.half_log_snr(row.s))
        assert lift == pytest.approx(1 + 2.0 / len(grid))

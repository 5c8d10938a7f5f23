"""Every solver's declared order is measured, on a Gaussian against the closed-form flow and on a mixture."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Recorded, Sampler, TimeGrid
from ornstein.processes import VariancePreserving
from ornstein.solvers import (
    DDIM,
    DEIS,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    Euler,
    ExponentialAdams,
    Heun,
    RungeKutta4,
    Stochastic,
    UniPC,
)

from ..exact import AFFINE, covariance, gaussian, mixture

FLOW = {
    "ddim": DDIM(),
    "stochastic-0": Stochastic(0.0),
    "euler": Euler(),
    "heun": Heun(),
    "dpm++1": DPMSolverPP(1),
    "dpm++2m": DPMSolverPP(2),
}
HIGHER = {
    "rk4": RungeKutta4(),
    "dpm-2": DPMSolver(2),
    "dpm-3": DPMSolver(3),
    "dpm++2s": DPMSolver(2, "data"),
    "dpm++3s": DPMSolver(3, "data"),
    "dpm++2m-taylor": DPMSolverPP(2, "taylor"),
    "dpm++3m": DPMSolverPP(3),
    "dpm++3m-taylor": DPMSolverPP(3, "taylor"),
    "adams-noise-2": ExponentialAdams(2, math.inf),
    "adams-data-3": ExponentialAdams(3),
    "adams-rosenbrock-3": ExponentialAdams(3, 0.7),
    "adams-data-4": ExponentialAdams(4),
    "adams-rosenbrock-pec": ExponentialAdams(2, 0.7, corrector=True),
    "unipc-1": UniPC(1, "bh1"),
    "unipc-2": UniPC(2),
    "unipc-3": UniPC(3),
    "deis-time": DEIS(3),
    "deis-rho": DEIS(3, "rho"),
    "deis-log-rho": DEIS(4, "log-rho"),
}


def _through(process, steps: int, high: float = -1.0, low: float = 2.0) -> TimeGrid:
    levels = torch.linspace(high, low, steps + 1, dtype=torch.float64)
    return TimeGrid.through(process.time_at(levels).tolist())


def _graded(process, steps: int, high: float = -1.0, low: float = 2.0) -> TimeGrid:
    """Steps that double from very short ones at the start: what a multistep method lacks there is then not seen."""
    h = (low - high) / steps
    short = [high + h * 2.0**-k for k in range(14, 0, -1)]
    levels = torch.linspace(high + h, low, steps, dtype=torch.float64).tolist()
    return TimeGrid.through(process.time_at(torch.tensor([high, *short, *levels])).tolist())


def _slope(errors: list[float], steps: list[int]) -> float:
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return float(-(x * y).sum() / (x * x).sum())


@pytest.mark.parametrize("solver", FLOW)
@pytest.mark.parametrize("name", AFFINE)
def test_order_on_a_gaussian(name, solver):
    process = AFFINE[name]()
    truth, steps = gaussian(process), [32, 64, 128]
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * process.at(0.9).sigma
    errors = []
    for n in steps:
        grid = _through(process, n)
        end = Sampler(FLOW[solver], grid=grid)(truth, x)
        errors.append(float((end - truth.flow(x, grid[0].t, grid[-1].s)).norm(dim=1).mean()))
    assert _slope(errors, steps) == pytest.approx(FLOW[solver].order, abs=0.2)


@pytest.mark.parametrize("solver", HIGHER)
@pytest.mark.parametrize("name", AFFINE)
def test_higher_order_on_a_gaussian(name, solver):
    process, steps = AFFINE[name](), [32, 96]
    truth = gaussian(process)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * process.at(0.9).sigma
    errors = []
    for n in steps:
        grid = _graded(process, n)
        end = Sampler(HIGHER[solver], grid=grid)(truth, x)
        errors.append(float((end - truth.flow(x, grid[0].t, grid[-1].s)).norm(dim=1).mean()))
    assert _slope(errors, steps) == pytest.approx(HIGHER[solver].order, abs=0.3)


@pytest.fixture(scope="module")
def fine():
    """The flow of the mixture, to rounding."""
    process = VariancePreserving()
    truth = mixture(process)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return truth, x, Sampler(RungeKutta4(), grid=_through(process, 1500))(truth, x)


@pytest.mark.parametrize("solver", HIGHER)
def test_higher_order_on_a_mixture(fine, solver):
    truth, x, end = fine
    steps = [96, 192]
    errors = [
        float((Sampler(HIGHER[solver], grid=_graded(truth.process, n))(truth, x) - end).norm(dim=1).mean())
        for n in steps
    ]
    assert _slope(errors, steps) == pytest.approx(HIGHER[solver].order, abs=0.35)


@pytest.mark.parametrize("solver", FLOW)
@pytest.mark.parametrize("name", ["vp-linear", "flow"])
def test_order_on_a_mixture(name, solver):
    process = AFFINE[name]()
    truth, steps = mixture(process), [40, 80, 160]
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    fine = Sampler(Heun(), grid=_through(process, 2560))(truth, x)
    errors = [
        float((Sampler(FLOW[solver], grid=_through(process, n))(truth, x) - fine).norm(dim=1).mean())
        for n in steps
    ]
    assert _slope(errors, steps) == pytest.approx(FLOW[solver].order, abs=0.2)


def _variance_after(solver, process, grid: TimeGrid, variance: float) -> float:
    """Exact variance recursion of a linear step on N(0, variance) data: no sampling error."""
    level = process.at(grid[0].t)
    v = level.alpha**2 * variance + level.sigma**2
    for row in solver.on(process).rows(process, grid):
        at = process.at(row.t)
        k = at.alpha * variance / (at.alpha**2 * variance + at.sigma**2)  # D = k x
        extra = 0.0
        if getattr(solver, "variance", "bridge") == "posterior":
            extra = row.b**2 * (variance - at.alpha * variance * k)
        v = (row.a + row.b * k) ** 2 * v + row.scale**2 + extra
    return v


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("c", [0.3, 1.0, 1.5])
def test_stochastic_solvers_reach_the_marginal_of_a_gaussian_at_first_order(name, c):
    process, variance, steps = AFFINE[name](), 0.6, [64, 128, 256]
    errors = []
    for n in steps:
        grid = _through(process, n)
        level = process.at(grid[-1].s)
        exact = level.alpha**2 * variance + level.sigma**2
        errors.append(abs(_variance_after(Stochastic(c), process, grid, variance) - exact))
    assert _slope(errors, steps) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("name", AFFINE)
def test_ancestral_steps_with_the_posteriors_variance_are_exact_at_any_number_of_steps(name):
    """And those with the bridge's alone are short of variance, by a known amount at finite h."""
    process, variance = AFFINE[name](), 0.6
    for n in (1, 2, 7):
        grid = _through(process, n)
        level = process.at(grid[-1].s)
        exact = level.alpha**2 * variance + level.sigma**2
        assert _variance_after(Ancestral("posterior"), process, grid, variance) == pytest.approx(exact)
        assert _variance_after(Ancestral(), process, grid, variance) < exact


def test_sampled_marginals_agree_with_the_recursion():
    process = VariancePreserving()
    truth = gaussian(process)
    x = Sampler(Ancestral("posterior"), 3)(truth, 40_000, seed=3)
    torch.testing.assert_close(x.mean(0), truth.means[0], atol=0.03, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance(3), atol=0.04, rtol=0.03)


def test_ddim_equals_dpm_solver_1_and_stochasticity_0():
    process = VariancePreserving("cosine")
    truth, x = mixture(process), torch.randn(4, 3)
    ends = [Sampler(s, 12)(truth, x) for s in (DDIM(), Stochastic(0.0), DPMSolverPP(1))]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-13, atol=1e-13)


def test_ddim_at_eta_1_is_ddpm_with_the_same_noise():
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    ddim, ddpm = (Sampler(s, 12)(truth, x, seed=5) for s in (DDIM(eta=1.0), Ancestral()))
    torch.testing.assert_close(ddim, ddpm, rtol=1e-11, atol=1e-11)


def test_dpm_solver_2m_is_the_formula_written_out():
    """2211.01095, algorithm 2, in the paper's own quantities."""
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    grid = _through(process, 6)
    ours = Sampler(DPMSolverPP(2), grid=grid)(truth, x)
    before = None
    for row in grid:
        lam_t, lam_s = (float(process.half_log_snr(v)) for v in (row.t, row.s))
        h, d = lam_s - lam_t, truth(x, row.t).mean
        target = d if before is None else d + (d - before[1]) / (2 * (before[0] / h))
        s, t = process.at(row.s), process.at(row.t)
        x = s.sigma / t.sigma * x - s.alpha * math.expm1(-h) * target
        before = h, d
    torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)


def test_heun_is_the_trapezoid_written_out():
    process = VariancePreserving("cosine")
    truth, x = gaussian(process), torch.randn(4, 3)
    grid = _through(process, 5)
    ours = Sampler(Heun(), grid=grid)(truth, x)
    for t, s, _ in grid:
        v = truth(x, t).velocity
        x = x + (s - t) * 0.5 * (v + truth(x + (s - t) * v, s).velocity)
    torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)


def test_inversion_goes_up_and_comes_back():
    process = VariancePreserving()
    truth, x = gaussian(process), torch.randn(4, 3)
    grid = _through(process, 2000)
    up = TimeGrid.through([r.s for r in reversed(grid)] + [grid[0].t])
    there = Sampler(DDIM(), grid=up)(truth, x)
    torch.testing.assert_close(there, truth.flow(x, up[0].t, up[-1].s), rtol=0, atol=5e-3)
    with pytest.raises(ValueError, match="goes up"):
        Sampler(Ancestral(), grid=up)(truth, x)


def test_evaluations_are_counted():
    process = VariancePreserving()
    truth = gaussian(process)
    for solver, calls in ((DDIM(), 7), (Heun(), 13), (DPMSolverPP(2), 7)):
        *_, last = Sampler(solver, 7).steps(truth, 2)
        assert last.evaluations == calls


def test_a_deterministic_run_draws_no_noise():
    truth = gaussian(VariancePreserving())
    silent = Recorded()  # raises at any draw
    for solver in (DDIM(), Heun(), DPMSolverPP(2), Euler()):
        Sampler(solver, 3)(truth, torch.randn(2, 3), seed=silent)
    with pytest.raises(KeyError):
        Sampler(Ancestral(), 3)(truth, torch.randn(2, 3), seed=silent)

"""Densities along a trajectory come from steps alone (DESIGN 3.6):

    log q_s(x_s) = log q_t(x_t) + log p(x_s | x_t) - log q(x_t | x_s)

where p is the reversal of the process. Exact reverse kernels satisfy it to rounding; others by convergence.
"""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.denoisers import GaussianDenoiser
from ornstein.processes import VariancePreserving
from ornstein.solvers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ReverseDiffusion,
    SDEDPMSolverPP,
    Stochastic,
)

from ..exact import AFFINE, covariance, mixture
from .test_stochastic import through

EXACT = Ancestral("posterior")
REVERSALS = [Ancestral(), Stochastic(1.0), DDIM(1.0), SDEDPMSolverPP(1), EulerMaruyama(), ReverseDiffusion()]


def _gap(solver, truth, grid, n: int, seed: int) -> torch.Tensor:
    """What the identity misses over a run, (n,)."""
    process = truth.process
    level = process.at(grid[0].t)
    x = truth.sample_data(n, torch.Generator().manual_seed(seed))
    x = level.alpha * x + level.sigma * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed + 1))
    found = truth.log_density(x, grid[0].t)
    for step in Sampler(solver, grid=grid).steps(truth, x, seed=Keyed(seed, n)):
        found = found + step.distribution.log_prob(step.next)
        found = found - process.kernel(step.next, step.s, step.t).log_prob(step.x)
    return found - truth.log_density(step.next, grid[-1].s)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("name", AFFINE)
def test_the_identity_is_exact_for_the_exact_reverse_kernel(name, steps):
    """On Gaussian data, where the ancestral step with the posterior's variance is the reversal: at any step size."""
    process = AFFINE[name]()
    truth = GaussianDenoiser(torch.linspace(-1.0, 1.5, 3), covariance(3), process)
    gap = _gap(EXACT, truth, through(process, steps), 64, 0)
    assert float(gap.abs().max()) < 1e-10 * max(1, steps)


@pytest.mark.parametrize("name", ["vp-linear", "flow"])
def test_and_for_whatever_state_comes_next(name):
    """The identity is one of densities, not of samples: it holds at states that the step would never draw."""
    process = AFFINE[name]()
    truth = GaussianDenoiser(torch.zeros(3), covariance(3), process)
    x, there = torch.randn(8, 3), 3 * torch.randn(8, 3)
    (step,) = Sampler(EXACT, grid=TimeGrid.through([0.6, 0.4])).steps(truth, x)
    left = truth.log_density(there, 0.4)
    right = truth.log_density(x, 0.6) + step.distribution.log_prob(there)
    torch.testing.assert_close(
        left, right - process.kernel(there, 0.4, 0.6).log_prob(x), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("solver", REVERSALS, ids=repr)
def test_other_reversals_meet_it_by_convergence(solver):
    """They are Gaussian with the wrong variance at finite steps; the gap of a run vanishes with the steps."""
    truth = mixture(VariancePreserving())
    coarse, fine = (
        float(_gap(solver, truth, through(truth.process, n), 500, 0).pow(2).mean().sqrt()) for n in (25, 400)
    )
    assert fine < 0.45 * coarse and fine < 0.6


@pytest.mark.parametrize("c", [0.5, 1.5])
def test_another_stochasticity_is_no_reversal(c):
    """It has the marginals in the limit, but not the paths: the identity stays wrong however fine the steps."""
    truth = mixture(VariancePreserving())
    gap = _gap(Stochastic(c), truth, through(truth.process, 400), 200, 0)
    assert float(gap.pow(2).mean().sqrt()) > 10
    assert not Stochastic(c).reverses

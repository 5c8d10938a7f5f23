"""Processes with a known other end y: the core's formulas, on a mean-reverting law that leaves some y at time 0."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import AffineProcess, Condition, Denoiser, Keyed, Posterior, Sampler, TimeGrid
from ornstein.processes import VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Euler, Forward, Heun, Renoise, Stochastic

N, NOISE, LEFT = 6, 0.2, 0.1


class MeanReverting(AffineProcess):
    """VP's alpha, sigma = NOISE sqrt(1 - alpha^2), anchor_weight = 1 - alpha + LEFT (1 - t)."""

    anchored = True
    fields = frozenset({"anchor"})

    def __init__(self, left: float = LEFT) -> None:
        super().__init__()
        self.vp, self.left = VariancePreserving("cosine"), left

    @property
    def learned(self) -> bool:
        return False

    def schedule(self, t):
        alpha, _, sigma = self.vp.schedule(t)
        return alpha, 1 - alpha + self.left * (1 - t), NOISE * sigma


class Residual(Denoiser):
    """Exact where x_0 = y + r with r ~ N(0.3, 0.04)."""

    def __init__(self, process) -> None:
        super().__init__()
        self.process, self.shape = process, (3,)

    def forward(self, x, t, condition=None, step=None):
        level = self.process.at(t)
        y = condition["anchor"]
        u, mean = x - level.anchor * y, y + 0.3
        gain = level.alpha * 0.04 / (level.alpha**2 * 0.04 + level.sigma**2)
        return Posterior(self.process, x, t, mean + gain * (u - level.alpha * mean), condition=condition)


@pytest.fixture
def y():
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def given(y):
    return Condition({"anchor": y})


def test_marginal_and_prior_and_readout_know_the_anchor(y, given):
    process, x_0 = MeanReverting(), torch.randn(N, 3)
    level = process.at(0.6)
    law = process.marginal(x_0, 0.6, given)
    torch.testing.assert_close(law.mean, level.alpha * x_0 + level.anchor * y)
    end = process.at(1.0)
    torch.testing.assert_close(process.prior(x_0, given).mean, (end.alpha + end.anchor) * y)
    assert process.prior(x_0, given).scale == end.sigma
    clean = process.marginal(x_0, 0.0, given).mean  # LEFT of y is left at time 0
    torch.testing.assert_close(clean, x_0 + LEFT * y)
    torch.testing.assert_close(process.readout(clean, None, given), x_0)
    with pytest.raises(ValueError, match="anchor="):
        process.marginal(x_0, 0.6)


def test_the_bridge_is_bayes_rule(y, given):
    process, x_0, x_t = MeanReverting(), torch.randn(N, 3), torch.randn(N, 3)
    bridge = process.bridge(x_t, x_0, 0.7, 0.3, given)
    for seed in range(2):
        x_s = bridge.sample(Keyed(seed, N))
        joint = process.marginal(x_0, 0.3, given).log_prob(x_s)
        joint = joint + process.kernel(x_s, 0.3, 0.7, given).log_prob(x_t)
        evidence = process.marginal(x_0, 0.7, given).log_prob(x_t)
        torch.testing.assert_close(joint - bridge.log_prob(x_s), evidence)


def test_the_sdes_constant_term_is_the_derivative_of_the_mean(y):
    process, x_0, t, e = MeanReverting(), torch.randn(N, 3), 0.4, 1e-6
    f, c, _ = process.drift_and_diffusion(t)
    given = Condition({"anchor": y})
    ahead, here, behind = (process.marginal(x_0, v, given).mean for v in (t + e, t, t - e))
    torch.testing.assert_close((ahead - behind) / (2 * e), f * here + c * y, rtol=1e-6, atol=1e-6)


def test_views_round_trip(y, given):
    process = MeanReverting()
    x = torch.randn(N, 3)
    posterior = Residual(process)(x, 0.5, given)
    level = process.at(0.5)
    again = level.alpha * posterior.mean + level.anchor * y + level.sigma * posterior.noise
    torch.testing.assert_close(again, x, rtol=1e-12, atol=1e-12)
    for view in ("noise", "score", "velocity"):
        mean = process.mean_from(view, x, getattr(posterior, view), 0.5, given)
        torch.testing.assert_close(mean, posterior.mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "solver",
    [DDIM(), DDIM(0.5), Stochastic(0.7), Ancestral(), DPMSolverPP(2), Euler(), Heun(), Renoise()],
    ids=repr,
)
def test_every_solver_is_the_solver_of_the_residual_under_vp(solver, y, given):
    """With anchor_weight = 1 - alpha mean reversion is variance preservation of (x_0 - y) / NOISE: identical steps."""
    process = MeanReverting(left=0.0)
    plain = process.vp

    class Scaled(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = plain

        def forward(self, x, t, condition=None, step=None):
            inner = Residual(process)(NOISE * x + y, t, given)
            return Posterior(plain, x, t, (inner.mean - y) / NOISE)

    z = torch.randn(N, 3)
    grid = TimeGrid.through([0.9, 0.6, 0.4, 0.2, 0.1])
    anchored = Sampler(solver, grid=grid)(Residual(process), NOISE * z + y, seed=2, anchor=y)
    residual = Sampler(solver, grid=grid)(Scaled(), z, seed=2)
    torch.testing.assert_close(anchored, NOISE * residual + y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [DDIM(), Ancestral(), DPMSolverPP(2)], ids=repr)
def test_samples_have_the_datas_law_and_none_of_the_anchor_that_is_left(solver):
    n = 6000
    y = torch.tensor([[1.0, -2.0, 0.5]]).expand(n, 3)
    x = Sampler(solver, 60)(Residual(MeanReverting()), n, seed=0, anchor=y)
    torch.testing.assert_close(x.mean(0), y[0] + 0.3, atol=0.02, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((3,), 0.2), atol=0.02, rtol=0)


def test_kernels_compose_and_forward_rows_add_the_anchor(y, given):
    process, x = MeanReverting(), torch.randn(N, 3)
    (step,) = Sampler(Forward(), grid=TimeGrid.through([0.2, 0.6])).steps(process, x, anchor=y)
    kernel = process.kernel(x, 0.2, 0.6, given)
    torch.testing.assert_close(step.distribution.mean, kernel.mean)
    first, then = process.forward_step(0.2, 0.4), process.forward_step(0.4, 0.6)
    whole = process.forward_step(0.2, 0.6)
    assert first.c * then.a + then.c == pytest.approx(whole.c)
    assert math.hypot(first.scale * then.a, then.scale) == pytest.approx(whole.scale)

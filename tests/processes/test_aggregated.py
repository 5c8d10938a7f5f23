"""Chains to which something is added on the way: MT-Diffusion's aggregation and DiffuseVAE's shift."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition, Keyed, Sampler, TimeGrid
from ornstein.denoisers import AggregatedMixture, GaussianDenoiser
from ornstein.processes import (
    Aggregated,
    BrownianBridge,
    RectifiedFlow,
    Shifted,
    VarianceExploding,
    VariancePreserving,
)
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Euler, Heun, Stochastic

from ..exact import covariance

N = 12
WEIGHTS = [0.3, 0.0, 0.5, 0.2, 0.1, 0.0, 0.4, 0.1]


def test_the_closed_form_is_the_chain_unrolled():
    process = Aggregated(VariancePreserving(), WEIGHTS)
    times = [u / len(WEIGHTS) for u in range(len(WEIGHTS) + 1)]
    alphas = [VariancePreserving().at(t).alpha for t in times]
    z_0, y, eps, z = 1.3, -0.7, 0.0, 1.3
    for u, w in enumerate(WEIGHTS, 1):
        z = alphas[u] / alphas[u - 1] * (z + w * y)
        level = process.at(times[u])
        assert z == pytest.approx(level.alpha * z_0 + level.anchor * y + level.sigma * eps, abs=1e-12)
    sums = [
        sum(w * alphas[u] / alphas[v] for v, w in enumerate(WEIGHTS[:u])) for u in range(len(WEIGHTS) + 1)
    ]
    assert [process.at(t).anchor for t in times] == pytest.approx(sums, abs=1e-12)  # c_t of the paper


def test_between_steps_the_weight_never_overshoots_and_its_slope_is_right():
    process, t, e = (
        Aggregated(VariancePreserving(), WEIGHTS),
        torch.linspace(0, 1, 400, dtype=torch.float64),
        1e-6,
    )
    share = process.at(t).anchor / process.at(t).alpha
    assert bool((share.diff() >= -1e-12).all())
    slope = (process.at(0.33 + e).anchor - process.at(0.33 - e).anchor) / (2 * e)
    assert process.slope(0.33).anchor == pytest.approx(slope, rel=1e-6)


def test_kernels_compose_with_the_anchor():
    process = Aggregated(VariancePreserving(), WEIGHTS)
    first, then, whole = (process.forward_step(*p) for p in ((0.2, 0.5), (0.5, 0.9), (0.2, 0.9)))
    assert first.c * then.a + then.c == pytest.approx(whole.c)


@pytest.mark.parametrize("make", [lambda p: Aggregated(p, [0.0] * 4), Shifted], ids=["weights 0", "shift 0"])
@pytest.mark.parametrize("solver", [DDIM(), Ancestral(), DPMSolverPP(2), Stochastic(0.5)], ids=repr)
def test_with_nothing_added_it_is_the_process_itself(make, solver):
    """Aggregation with weights of 0 and a shift by x-hat = 0 are both DDPM: the same states, bit for bit."""
    if solver.history and make is not Shifted:
        pytest.skip("a solver with history takes y as known")
    plain = VariancePreserving()
    truth = GaussianDenoiser(torch.zeros(3), covariance(3), plain)
    changed = GaussianDenoiser(torch.zeros(3), covariance(3), make(plain))
    y = torch.zeros(N, 3)
    grid = TimeGrid.log_snr(6, plain)
    latent = changed.process.latent
    if latent and not solver.latent:
        changed.process.latent = False  # y is known here, to be 0
    condition = Condition({"anchor": y})
    out = Sampler(solver, grid=grid)(changed, N, seed=1, condition=condition)
    assert torch.equal(out, Sampler(solver, grid=grid)(truth, N, seed=1))


@pytest.mark.parametrize(
    "solver", [DDIM(), Ancestral(), DPMSolverPP(2), Euler(), Heun(), Stochastic(0.7)], ids=repr
)
@pytest.mark.parametrize("plain", [VariancePreserving(), RectifiedFlow(), VarianceExploding()], ids=repr)
def test_a_shifted_run_is_the_plain_run_moved(solver, plain):
    """Form 2 is Form 1 in x - x_hat: the same noises give the same samples, after 50 steps."""
    truth = GaussianDenoiser(torch.ones(3), covariance(3), plain)
    moved = GaussianDenoiser(torch.ones(3), covariance(3), Shifted(plain))
    x_hat = torch.randn(N, 3, generator=torch.Generator().manual_seed(5)) * 3
    one, two = Sampler(solver, 50)(truth, N, seed=2), Sampler(solver, 50)(moved, N, seed=2, anchor=x_hat)
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    start = next(iter(Sampler(solver, 50).steps(moved, N, seed=2, anchor=x_hat)))
    torch.testing.assert_close(start.distribution.mean, x_hat)  # the prior is N(x_hat, sigma_1^2)


def test_the_shifted_bridge_has_the_papers_coefficients():
    """c1 x_0 + c2 x_t + (1 - c2) x_hat (2201.00308): a constant shift passes through unchanged."""
    process = Shifted(VariancePreserving())
    x_0, x_t, y = (torch.randn(N, 3) for _ in range(3))
    numbers = process.step(0.7, 0.3, 1.0)
    assert numbers.c == pytest.approx(1 - numbers.a, abs=1e-14)
    bridge = process.bridge(x_t, x_0, 0.7, 0.3, Condition({"anchor": y}))
    expected = numbers.b * x_0 + numbers.a * x_t + (1 - numbers.a) * y
    torch.testing.assert_close(bridge.mean, expected)
    assert process.step(0.7, 0.0, 1.0).c == pytest.approx(1.0)  # at time 0 all of it is left, for the readout


def test_fading_weights_add_alpha_times_t():
    process, t = (
        Aggregated.fading(VariancePreserving("cosine"), 1.5),
        torch.linspace(0, 1, 37, dtype=torch.float64),
    )
    level = process.at(t)
    torch.testing.assert_close(level.anchor, 1.5 * t * level.alpha, rtol=1e-12, atol=1e-14)


def mixture() -> AggregatedMixture:
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]], dtype=torch.float64)
    planes = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return AggregatedMixture(
        [0.5, 0.3, 0.2], means, 0.1, planes, Aggregated.fading(VariancePreserving(), 1.2)
    )


def test_the_exact_posteriors_score_is_that_of_the_density():
    truth, t = mixture(), 0.4
    level = truth.process.at(t)
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.5, 0.3, 0.2])),
        torch.distributions.Independent(
            torch.distributions.Normal(
                level.alpha * truth.means + level.anchor * truth.planes,
                (0.1 * level.alpha**2 + level.sigma**2) ** 0.5,
            ),
            1,
        ),
    )
    x = torch.randn(N, 2, requires_grad=True)
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(truth(x, t).score, score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [Ancestral(), DDIM()], ids=repr)
def test_a_latent_anchor_is_sampled_through_the_posteriors_end(solver):
    """Prior N(0, 1) against the true N(c(1) y, ...): weights that fall leave next to nothing of y at time 1."""
    truth, n = mixture(), 6000
    assert truth.process.at(1.0).anchor < 0.01
    grid = TimeGrid.log_snr(120, truth.process)
    for step in Sampler(solver, grid=grid).steps(truth, n, seed=0):
        z = step.next
    label = truth(z, 1e-6).heads["label"].argmax(1)
    shares = torch.bincount(label, minlength=3) / n
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)
    for k in range(3):
        own = z[label == k]
        torch.testing.assert_close(own.mean(0), truth.means[k], atol=0.04, rtol=0)
        torch.testing.assert_close(own.var(0), torch.full((2,), 0.1), atol=0.02, rtol=0)


def test_the_prior_where_y_is_known_and_where_it_is_not():
    process, like, y = Aggregated(RectifiedFlow(), [0.5, 0.5]), torch.zeros(N, 2), torch.ones(N, 2)
    assert process.at(1.0).alpha == 0  # nothing of y is left either
    assert torch.equal(process.prior(like).mean, like)
    kept = Aggregated(VariancePreserving(rate_max=2.0), [0.5, 0.5])
    mean = kept.prior(like, Condition({"anchor": y})).mean
    torch.testing.assert_close(mean, kept.at(1.0).anchor * y)
    x = kept.marginal(torch.zeros(N, 2), 1.0, Condition({"anchor": y})).sample(Keyed(0, N))
    assert x.shape == like.shape


def test_processes_that_cannot_be_added_to_are_refused():
    with pytest.raises(ValueError, match="without an anchor"):
        Shifted(BrownianBridge())
    with pytest.raises(ValueError, match="at least 0"):
        Aggregated(VariancePreserving(), [])
    with pytest.raises(ValueError, match="at least 0"):
        Aggregated(VariancePreserving(), [0.1, -0.1])

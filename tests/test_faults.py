"""Checks that single faults in the source would fail, and that no other test would notice."""

import math

import pytest
import torch

from ornstein.core import (
    AffineProcess,
    Categorical,
    Condition,
    Gaussian,
    Keyed,
    Posterior,
    Product,
    Sampler,
    TimeGrid,
    average,
)
from ornstein.denoisers import GaussianDenoiser, MixtureDenoiser, TableDenoiser
from ornstein.guides import Clamp, ClassifierGradient, RewardGradient, Superposition
from ornstein.processes import Absorbing, UniformNoise, VariancePreserving
from ornstein.solvers import Ancestral, Euler, Heun, Renoise

F64 = torch.float64


class Anchored(AffineProcess):
    """x_t = (1 - t) x_0 + (0.2 + t) y + sigma z: an anchor that is not gone at time 0."""

    anchored = True
    fields = frozenset({"anchor"})

    def schedule(self, t):
        return 1 - 0.9 * t, 0.2 + t, 0.1 + 0.7 * t


P, Y, X0 = Anchored(), torch.randn(5, 2, dtype=F64), torch.randn(5, 2, dtype=F64)
C = Condition({"anchor": Y})


def test_anchored_marginal_bridge_kernel_prior_and_readout_agree():
    t, s = 0.7, 0.3
    at, to = P.marginal(X0, t, C), P.marginal(X0, s, C)
    bridge, numbers = P.bridge(at.mean, X0, t, s, C), P.step(t, s)
    torch.testing.assert_close(bridge.mean, to.mean)
    assert numbers.a**2 * at.scale**2 + numbers.scale**2 == pytest.approx(to.scale**2)
    forward = P.kernel(to.mean, s, t, C)
    torch.testing.assert_close(forward.mean, at.mean)
    level = P.at(1.0)
    torch.testing.assert_close(P.prior(X0, C).mean, (level.alpha + level.anchor) * Y)
    clean = P.marginal(X0, 0.0, C).mean
    torch.testing.assert_close(P.readout(clean, None, C), X0)


def test_anchored_views_round_trip_and_sde_is_the_kernels_limit():
    t, e = 0.4, 1e-6
    z = torch.randn(5, 2)
    law = P.marginal(X0, t, C)
    x, slope = law.mean + law.scale * z, P.slope(t)
    posterior = Posterior(P, x, t, X0, condition=C)
    torch.testing.assert_close(posterior.velocity, slope.alpha * X0 + slope.anchor * Y + slope.sigma * z)
    for view in ("noise", "score", "velocity"):
        torch.testing.assert_close(P.mean_from(view, x, getattr(posterior, view), t, C), X0)
    f, c, g = P.drift_and_diffusion(t)
    step = P.forward_step(t, t + e)
    assert (step.a - 1) / e == pytest.approx(f, rel=1e-4)
    assert step.c / e == pytest.approx(c, rel=1e-4)
    assert step.scale**2 / e == pytest.approx(g**2, rel=1e-4)


@pytest.mark.parametrize("solver", [Euler(), Heun(), Renoise()], ids=repr)
def test_anchored_flow_is_followed_by_every_solver(solver):
    class Known(GaussianDenoiser):
        fields = frozenset({"anchor"})

        def forward(self, x, t, condition=None, step=None):
            return Posterior(P, x, t, X0, condition=condition)

    model = Known(torch.zeros(2), torch.eye(2), VariancePreserving())
    model.process, model.fields = P, frozenset({"anchor"})
    z = torch.randn(5, 2)
    start = P.marginal(X0, 0.9, C)
    for step in Sampler(solver, grid=TimeGrid.uniform(400, 0.9, 0.1)).steps(
        model, start.mean + start.scale * z, anchor=Y
    ):
        assert torch.isfinite(step.x).all()
    end = P.marginal(X0, 0.1, C)
    if isinstance(solver, Renoise):
        torch.testing.assert_close(step.distribution.mean, end.mean)
    else:
        torch.testing.assert_close(step.next, end.mean + end.scale * z, rtol=5e-3, atol=5e-3)


def test_clock_is_cut_at_ten_on_both_sides_for_numbers_and_tensors():
    process = VariancePreserving()
    near, far = process.time_at(9.0), 0.0
    assert process.clock(near) == pytest.approx(9.0)
    assert float(process.clock(torch.tensor([near]))[0]) == pytest.approx(9.0)
    assert process.clock(far) == 10.0 and float(process.clock(torch.tensor([far]))[0]) == 10.0


def test_the_discrete_clock_is_the_log_odds_of_an_intact_entry():
    process = Absorbing(3)
    assert process.clock(0.2) == pytest.approx(math.log(0.8 / 0.2))
    assert process.clock(0.0) == pytest.approx(10.0, abs=0.02)


def test_levels_of_a_learned_process_are_not_kept():
    class Learned(VariancePreserving):
        def __init__(self):
            super().__init__()
            self.pace = torch.nn.Linear(1, 1, bias=False)
            torch.nn.init.ones_(self.pace.weight)

        def schedule(self, t):
            return super().schedule(t ** self.pace.weight[0, 0])

    process = Learned()
    before, slope = process.at(0.5).alpha, process.slope(0.5).alpha
    with torch.no_grad():
        process.pace.weight.mul_(2)
    assert process.at(0.5).alpha.item() != before.item()
    assert process.slope(0.5).alpha.item() != slope.item()


def test_rates_other_than_the_defaults():
    process = VariancePreserving(rate_min=0.5, rate_max=6.0)
    t = 0.3
    assert process.at(t).alpha == pytest.approx(math.exp(-0.25 * t**2 * 5.5 - 0.5 * t * 0.5))
    assert process.time_at(process.half_log_snr(t)) == pytest.approx(t)


def test_posterior_draws_have_the_posteriors_covariance():
    covariance = torch.tensor([[2.0, 0.8], [0.8, 0.5]])
    mean = torch.tensor([[1.0, -1.0]])
    process = VariancePreserving()
    full = Posterior(process, mean, 0.5, mean, variance=covariance[None]).sample(Keyed(0, 1), 40000)[:, 0]
    torch.testing.assert_close(full.T.cov(), covariance, rtol=0.05, atol=0.03)
    entries = Posterior(process, mean, 0.5, mean, variance=torch.tensor([[4.0, 0.25]])).sample(
        Keyed(0, 1), 40000
    )[:, 0]
    torch.testing.assert_close(entries.var(0), torch.tensor([4.0, 0.25]), rtol=0.05, atol=0.0)


def test_the_variance_of_an_average_holds_the_spread_of_the_means():
    process, x = VariancePreserving(), torch.randn(3, 2)
    a, b = (GaussianDenoiser(torch.tensor(m), 0.3, process) for m in ([2.0, 0.0], [-1.0, 1.0]))
    both = MixtureDenoiser([0.5, 0.5], torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), 0.3, process, variance=True)(
        x, 0.6
    )
    shares = both.heads["responsibilities"]
    torch.testing.assert_close(
        average([a(x, 0.6), b(x, 0.6)], list(shares.unbind(1))).variance, both.variance
    )


def test_outside_a_run_a_superposition_weighs_by_its_weights():
    process, x = VariancePreserving(), torch.randn(3, 2)
    a, b = (GaussianDenoiser(torch.tensor(m), 0.3, process) for m in ([2.0, 0.0], [-1.0, 1.0]))
    mean = Superposition([b], [0.2, 0.8])(a)(x, 0.5).mean
    torch.testing.assert_close(mean, 0.2 * a(x, 0.5).mean + 0.8 * b(x, 0.5).mean)


def test_gradient_guides_keep_second_derivatives_and_give_the_state_back():
    truth, x = (
        GaussianDenoiser(torch.zeros(2), 0.5, VariancePreserving()),
        torch.randn(3, 2, requires_grad=True),
    )
    guided = ClassifierGradient(lambda x, t, c: -(x**4).sum(1))(truth)
    (got,) = torch.autograd.grad(guided(x, 0.5).mean.sum(), x)
    e, moved = 1e-6, x.detach()
    difference = (guided(moved + e, 0.5).mean - guided(moved - e, 0.5).mean).detach() / (2 * e)
    torch.testing.assert_close(got, difference, rtol=1e-5, atol=1e-6)
    assert RewardGradient(lambda x, c: x.sum(1))(truth)(moved, 0.5).x is moved


def test_noised_clamping_does_not_reuse_the_noise_of_the_draw():
    truth = GaussianDenoiser(torch.zeros(2), 0.5, VariancePreserving())
    clamp = Clamp(torch.ones(2, dtype=torch.bool), torch.zeros(2), noised=True)
    for step in Sampler(Ancestral(), 4).steps(clamp(truth), 2000):
        if step.index == 1:
            drawn = step.distribution.noise(step.noise)
            imposed = step.next / truth.process.at(step.s).sigma
            assert abs(torch.corrcoef(torch.stack([drawn[:, 0], imposed[:, 0]]))[0, 1]) < 0.1


def test_gaussian_kl_tilt_and_matrix_tilt_against_torch():
    m, v = torch.randn(4, 2), torch.randn(4, 2)
    a, b = Gaussian(m, 0.7), Gaussian(v, torch.tensor([0.3, 1.0, 2.0, 0.5]))
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(a.torch(), b.torch()))
    from ornstein.core import Matrix

    g = torch.randn(4, 2)
    for scale in (0.7, Matrix(torch.tensor([[1.0, 0.0], [0.8, 0.5]]))):
        law = Gaussian(m, scale)
        tilted, points = law.tilt(g), torch.randn(6, 2)
        gaps = [
            tilted.log_prob(p.expand(4, 2)) - law.log_prob(p.expand(4, 2)) - (g * p).sum(1) for p in points
        ]
        for gap in gaps[1:]:
            torch.testing.assert_close(gap, gaps[0])


def test_noise_of_a_category_has_the_truncated_law():
    law = Categorical(torch.tensor([0.5, 0.3, 0.2]).log().expand(50000, 1, 3))
    x = law.sample(Keyed(0, 50000))
    back = law.noise_of(x, Keyed(1, 50000))
    assert torch.equal(law.transform(back), x)
    fresh = law.noise(Keyed(2, 50000))
    for q in (0.05, 0.5, 0.95):  # marginally, Gumbel again
        torch.testing.assert_close(
            back.flatten(0, 1).quantile(q, 0), fresh.flatten(0, 1).quantile(q, 0), rtol=0, atol=0.06
        )
    torch.testing.assert_close(torch.corrcoef(back[:, 0].T), torch.eye(3), rtol=0, atol=0.03)


def test_residual_is_state_minus_mean_and_relaxed_rows_harden():
    law = Categorical(torch.tensor([[[0.5, 0.3, 0.2]]]).log())
    torch.testing.assert_close(law.residual(torch.tensor([[1]])), torch.tensor([[[-0.5, 0.7, -0.2]]]))
    noise = law.noise(Keyed(0, 1))
    hard = torch.nn.functional.one_hot(law.transform(noise), 3).double()
    torch.testing.assert_close(law.relaxed(noise, 0.001), hard, rtol=0, atol=1e-6)


def test_leaves_of_a_product_draw_independently():
    law = Product({"a": Gaussian(torch.zeros(500, 4), 1.0), "b": Gaussian(torch.zeros(500, 4), 1.0)})
    for x in (law.sample(Keyed(0, 500)), law.noise(Keyed(0, 500))):
        assert not torch.equal(x["a"], x["b"])
    assert torch.equal(law.sample(Keyed(0, 500))["a"], law.transform(law.noise(Keyed(0, 500)))["a"])


def test_an_affine_process_is_not_simulated_backwards():
    with pytest.raises(ValueError, match="backwards"):
        VariancePreserving().kernel(torch.zeros(1, 2), 0.5, 0.2)


def test_discrete_kernels_compose():
    for process in (Absorbing(3), UniformNoise(3)):
        x = torch.tensor([[0]])
        direct = process.kernel(x, 0.2, 0.7).logits.exp()
        half = process.kernel(x, 0.2, 0.5).logits.exp()[0, 0]
        two = sum(
            half[k] * process.kernel(torch.tensor([[k]]), 0.5, 0.7).logits.exp()
            for k in range(process.states)
        )
        torch.testing.assert_close(two, direct)


def test_masks_that_are_left_become_the_mode():
    process = Absorbing(3)
    posterior = TableDenoiser([[0, 2]], [1.0], process)(torch.tensor([[3, 3]]), 0.9)
    assert process.readout(torch.tensor([[3, 1]]), posterior).tolist() == [[0, 1]]

"""The Fokker-Planck term, and the gap between ODE and SDE that it bounds."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Denoiser, Keyed, Losses, Objective, Posterior, Sampler, TimeGrid
from ornstein.denoisers import GaussianDenoiser, MixtureDenoiser, PotentialDenoiser
from ornstein.networks import Potential
from ornstein.objectives import Denoising, FokkerPlanck, Regularised
from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import Ancestral, FreeDiffusion, Stochastic

RATE = 4.0
OU = VariancePreserving(rate_min=RATE, rate_max=RATE)


def mixture(process):
    means = torch.tensor([[1.5, 0.0], [-1.0, 0.5]])
    return MixtureDenoiser([0.4, 0.6], means, [0.3, 0.5], process)


def potential(process=OU) -> PotentialDenoiser:
    torch.manual_seed(0)
    return PotentialDenoiser(Potential(2, 16, 2).double(), process, (2,), scale=1.2)


def term(model, noise=None, **options):
    x_0 = torch.zeros(8, 2)
    losses = FokkerPlanck(**{"collocation": 64, **options})(model, {"x_0": x_0}, noise or Keyed(0, 8))
    assert (losses.sample == 0).all()
    return losses.batch["residual"]


def size(model, **options) -> float:
    return float(term(model, **options).detach())


@pytest.mark.parametrize("process", [OU, VariancePreserving(), VarianceExploding(0.1, 10.0)])
def test_an_exact_density_costs_nothing(process):
    assert term(mixture(process), first=0.02) < 1e-15


class Shifted(torch.nn.Module):
    """A log-density plus a function of time."""

    def __init__(self, model, slope, power=1):
        super().__init__()
        self.model, self.slope, self.power, self.process = model, slope, power, model.process

    def log_density(self, x, t):
        return self.model.log_density(x, t) + self.slope * t**self.power


def test_a_constant_of_time_costs_its_slope_squared_and_nothing_where_centred():
    model = Shifted(mixture(OU), 3.0)
    torch.testing.assert_close(term(model, first=0.02), torch.tensor(9.0), rtol=1e-9, atol=0)
    assert term(model, first=0.02, centred=True, times=16) < 1e-15
    assert float(term(model, first=0.02, weight=2.0).detach()) == pytest.approx(18.0)
    bent = Shifted(mixture(OU), 3.0, power=2)  # its residual 6 t differs between times: each has its own mean
    assert (
        float(term(bent, first=0.02).detach()) > 1 and term(bent, first=0.02, centred=True, times=16) < 1e-15
    )


def test_its_gradient_reaches_the_weights_through_two_derivatives():
    model = potential()
    loss = term(model)
    loss.backward()
    # by finite differences in one weight
    weight = model.network.inner[0].weight
    found, h = float(weight.grad[3, 1]), 1e-5
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight[3, 1] += sign * h
            values.append(size(model))
            weight[3, 1] -= sign * h
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(found, rel=1e-5)


def test_the_log_density_of_a_potential_denoiser_has_its_score_as_gradient():
    model = potential()
    x, t = torch.randn(5, 2, requires_grad=True), torch.linspace(0.1, 0.9, 5)
    (slope,) = torch.autograd.grad(model.log_density(x, t).sum(), x)
    with torch.no_grad():
        torch.testing.assert_close(model(x, t).score, slope, rtol=1e-9, atol=1e-10)


def test_terms_are_added_to_an_objective_under_their_names():
    model, batch, noise = potential(), {"x_0": torch.randn(8, 2)}, Keyed(1, 8)
    plain = Denoising("snr")(model, batch, noise)
    both = Regularised(Denoising("snr"), {"fokker-planck": FokkerPlanck(0.5, 32)})(model, batch, noise)
    torch.testing.assert_close(both.sample, plain.sample)
    alone = FokkerPlanck(0.5, 32)(model, batch, noise.fold("fokker-planck")).batch["residual"]
    torch.testing.assert_close(both.total, plain.total + alone)
    assert set(both.batch) == {"fokker-planck"}


def test_training_on_it_lowers_it():
    model, objective = potential(), Regularised(Denoising("snr"), {"r": FokkerPlanck(0.3, 128, box=2.5)})
    data = mixture(OU)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    before = size(model, first=0.05, collocation=512)
    for i in range(80):
        batch = {"x_0": data.sample_data(128, torch.Generator().manual_seed(i))}
        optimiser.zero_grad()
        losses: Losses = objective(model, batch, Keyed(i, 128))
        losses.total.backward()
        optimiser.step()
    assert size(model, first=0.05, collocation=512) < 0.8 * before


# --- the gap


class Stretched(Denoiser):
    """The score of Gaussian data N(0, v) in one dimension, times 1 + a: what a wrong network would say."""

    def __init__(self, a: float, variance: float) -> None:
        super().__init__()
        self.exact = GaussianDenoiser(torch.zeros(1), variance, OU)
        self.process, self.shape, self.a, self.variance = OU, (1,), a, variance

    def forward(self, x, t, condition=None, step=None):
        score = (1 + self.a) * self.exact(x, t).score
        return Posterior(OU, x, t, self.process.mean_from("score", x, score, t))

    def closed_form(self, share: float, t: float) -> float:
        """The variance at time t of the reverse dynamics with noise c sqrt(rate) dW, c the share, begun with q_1's.

        In s = rate (1 - t), with p = v_t and k = (1 + c^2) (1 + a):  dV/ds = (1 - k / p) V + c^2,  p' = p - 1. Since
        1 / p = 1 - p' / p, the linear part grows by e^((1 - k) (s - r)) (p(s) / p(r))^k from r to s.
        """
        v, k, s = self.variance, (1 + share**2) * (1 + self.a), RATE * (1 - t)

        def p(s):
            return 1 + (v - 1) * math.exp(s - RATE)

        def growth(r):
            return math.exp((1 - k) * (s - r)) * (p(s) / p(r)) ** k

        n = 4000
        added = sum(growth((i + 0.5) * s / n) for i in range(n)) * s / n
        return p(0) * growth(0) + share**2 * added


def variance(solver, model, grid) -> float:
    """The variance that a run ends with, exactly: every step of this linear model is x -> a x + scale z."""
    sampler, v = Sampler(solver, grid=grid), 1 + (model.variance - 1) * math.exp(-RATE)
    for i in range(len(grid)):
        law = sampler.step(model, torch.ones(1, 1), i).distribution
        v = float(law.mean) ** 2 * v + float(law.scale) ** 2
    return v


@pytest.mark.parametrize("a", [0.0, 0.2, -0.15])
def test_a_linear_error_gives_ode_and_sde_variances_in_closed_form(a):
    """And the family between them interpolates the gap; without the error there is none."""
    model, grid = Stretched(a, 0.4), TimeGrid.uniform(400, 1.0, 0.02)
    expected = {share: model.closed_form(share, 0.02) for share in (0.0, 0.5, 1.0)}
    for share, value in expected.items():
        epsilon = 0.5 * RATE * share**2
        assert variance(FreeDiffusion(epsilon), model, grid) == pytest.approx(value, rel=0.05)
        solver = Ancestral() if share == 1.0 else Stochastic(share)
        assert variance(solver, model, grid) == pytest.approx(value, rel=0.05)
    if a == 0.0:
        truth = 1 + (0.4 - 1) * math.exp(-RATE * 0.02)
        assert all(value == pytest.approx(truth, rel=1e-6) for value in expected.values())
    else:
        assert (expected[0.0] - expected[0.5]) * (expected[0.5] - expected[1.0]) > 0
        assert abs(expected[0.0] - expected[1.0]) > 0.02


def test_ode_and_sde_of_an_exact_potential_agree():
    model, n = mixture(OU), 6000
    grid = TimeGrid.uniform(60, 1.0, 0.01)
    runs = [Sampler(FreeDiffusion(eps, order=2), grid=grid)(model, n, seed=3) for eps in (0.0, 2.0)]
    moments = [torch.cat([x.mean(0), x.T.cov().flatten(), (x**3).mean(0)]) for x in runs]
    torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=0.2)


def test_wrong_settings_are_refused():
    for options in ({"weight": -1.0}, {"box": 0.0}, {"first": 0.0}):
        with pytest.raises(ValueError, match="expected weight"):
            FokkerPlanck(**options)
    with pytest.raises(ValueError, match="collocation"):
        FokkerPlanck(collocation=8, centred=True)
    with pytest.raises(ValueError, match="PotentialDenoiser"):
        FokkerPlanck()(Stretched(0.0, 1.0), {"x_0": torch.zeros(2, 1)}, Keyed(0, 2))
    with pytest.raises(ValueError, match="terms"):
        Regularised(Objective(), {})
    with pytest.raises(ValueError, match="potential"):
        PotentialDenoiser(torch.nn.Linear(2, 2), OU)
    with pytest.raises(ValueError, match="no signal"):
        PotentialDenoiser(Potential(2), RectifiedFlow())

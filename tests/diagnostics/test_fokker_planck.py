"""The residual of the Fokker-Planck equation, in both forms."""

from __future__ import annotations

import pytest
import torch
from tests.exact import AFFINE, gaussian, mixture

from ornstein import processes
from ornstein.core import EUCLIDEAN, Condition, Keyed
from ornstein.diagnostics import fokker_planck_residual
from ornstein.processes.divergence import probes_of
from ornstein.processes.fokker_planck import log_density_residual, score_residual

ALL = {
    **AFFINE,
    "sub-vp": processes.SubVariancePreserving,
    "bridge": processes.BrownianBridge,
    "mean-reverting": processes.MeanReverting,
}


def setting(name, make):
    truth = make(ALL[name]())
    t = torch.linspace(0.2, 0.8, 5)
    anchor = torch.linspace(-1, 1, 15).reshape(5, 3)
    condition = Condition({"anchor": anchor}) if truth.process.anchored else None
    x_0 = truth.sample_data(5, torch.Generator().manual_seed(0))
    x = truth.process.marginal(x_0, t, condition).sample(Keyed(0, 5))
    return truth, x, t, condition


@pytest.mark.parametrize("make", [gaussian, mixture])
@pytest.mark.parametrize("name", ALL)
def test_exact_densities_and_scores_leave_nothing(name, make):
    truth, x, t, condition = setting(name, make)
    size = truth.process.drift_and_diffusion(t)[2] ** 2 + 1
    options = {"condition": condition}
    density = log_density_residual(
        truth.process, lambda x, t: truth.log_density(x, t, condition), x, t, **options
    )
    score = score_residual(truth.process, lambda x, t: truth(x, t, condition).score, x, t, **options)
    assert (density / size).abs().max() < 1e-10
    assert (score.abs().amax(1) / size).max() < 1e-8
    probe = fokker_planck_residual(truth, x, t, condition=condition)
    assert torch.equal(probe, score)


def test_a_gauge_changes_the_density_s_residual_by_its_slope_and_the_score_s_not_at_all():
    truth, x, t, _ = setting("vp-linear", mixture)
    shifted = lambda x, t: truth.log_density(x, t) + t**3  # noqa: E731
    found = log_density_residual(truth.process, shifted, x, t)
    assert torch.allclose(found, 3 * t**2, rtol=0, atol=1e-10)
    again = fokker_planck_residual(truth, x, t, log_density=shifted)
    assert torch.equal(again, found)


def test_the_score_s_residual_is_the_gradient_of_the_density_s():
    truth, x, t, _ = setting("vp-linear", mixture)
    wrong = lambda x, t: 1.1 * truth.log_density(x, t)  # noqa: E731

    def score(place, time):
        return torch.autograd.grad(wrong(place, time).sum(), place, create_graph=True)[0]

    place = x.clone().requires_grad_()
    density = log_density_residual(truth.process, wrong, place, t, create_graph=True)
    gradient = torch.autograd.grad(density.sum(), place)[0]
    assert torch.allclose(score_residual(truth.process, score, x, t), gradient, rtol=1e-9, atol=1e-9)
    assert gradient.abs().max() > 0.1


@pytest.mark.parametrize("estimator", ["hutchinson", "skilling"])
def test_the_estimated_laplacian_is_unbiased(estimator):
    truth, x, t, _ = setting("vp-linear", mixture)
    wrong = lambda x, t: 1.1 * truth.log_density(x, t)  # noqa: E731
    exact = log_density_residual(truth.process, wrong, x, t)
    found = []
    for seed in range(40):
        probes = probes_of(estimator, EUCLIDEAN, x, Keyed(seed, 5), 50)
        found.append(log_density_residual(truth.process, wrong, x, t, probes=probes))
    found = torch.stack(found)
    assert ((found.mean(0) - exact) / (found.std(0) / 40**0.5)).abs().max() < 4
    assert fokker_planck_residual(truth, x, t, estimator, probes=3).shape == x.shape


def test_it_can_be_trained_on():
    truth, x, t, _ = setting("vp-linear", gaussian)
    factor = torch.tensor(1.2, requires_grad=True)
    residual = log_density_residual(
        truth.process, lambda x, t: factor * truth.log_density(x, t), x, t, create_graph=True
    )
    residual.square().mean().backward()
    assert float(factor.grad) > 0  # a smaller factor, nearer 1, leaves less


def test_other_processes_are_refused():
    with pytest.raises(ValueError, match="affine"):
        log_density_residual(processes.Absorbing(3), lambda x, t: x.sum(1), torch.zeros(2, 3), 0.5)

"""The statements of The Principles of Diffusion Models (2510.21890) that are not tested with a piece of their own."""

from __future__ import annotations

import pytest
import torch
from tests.exact import AFFINE, mixture

from ornstein.core import Condition, Keyed, Posterior
from ornstein.denoisers import MixtureDenoiser, NetworkDenoiser
from ornstein.guides import ClassifierFree
from ornstein.networks import ResidualMLP
from ornstein.processes import RectifiedFlow, VariancePreserving

VIEWS = ("noise", "score", "velocity")


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("view", VIEWS)
def test_views_convert_without_loss(name, view):
    truth = mixture(AFFINE[name]())
    process = truth.process
    x_0 = truth.sample_data(16, torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 0.9, 16)
    x = process.marginal(x_0, t).sample(Keyed(0, 16))
    posterior = truth(x, t)
    back = process.mean_from(view, x, getattr(posterior, view), t)
    tolerance = 1e-12 * (1 + (process.at(t).sigma / process.at(t).alpha).square().max())
    assert (back - posterior.mean).abs().max() < tolerance


@pytest.mark.parametrize("view", ["score", "velocity"])
def test_losses_with_matched_weights_have_one_gradient(view):
    process = VariancePreserving()
    torch.manual_seed(0)
    net = ResidualMLP(3, width=16, depth=1).double()
    torch.nn.init.normal_(net.outer.weight, std=0.1)
    model = NetworkDenoiser(net, process, "noise", (3,))
    x_0 = mixture(process).sample_data(16, torch.Generator().manual_seed(0))
    t = torch.linspace(0.05, 0.9, 16)
    x = process.marginal(x_0, t).sample(Keyed(0, 16))
    level, slope = process.at(t), process.slope(t)
    weights = {
        "noise": torch.ones(16),
        "score": level.sigma**2,
        "velocity": (slope.sigma - slope.alpha * level.sigma / level.alpha) ** -2,
    }

    def gradient(asked, weight):
        net.zero_grad()
        gap = getattr(model(x, t), asked) - getattr(Posterior(process, x, t, x_0), asked)
        (weight * gap.square().sum(1)).mean().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    one, other = gradient("noise", weights["noise"]), gradient(view, weights[view])
    assert torch.allclose(one, other, rtol=1e-8, atol=1e-12) and one.abs().max() > 1e-3
    assert not torch.allclose(one, gradient(view, torch.ones(16)), rtol=1e-2)


@pytest.mark.parametrize("name", ["vp-linear", "flow"])
def test_the_flow_is_the_mean_rate_of_the_paths_through_a_point(name):
    """v = E[alpha' x_0 + sigma' z | x_t]: what it misses of the draws is orthogonal to functions of x_t."""
    truth = mixture(AFFINE[name]())
    process, t, n = truth.process, 0.5, 20000
    x_0 = truth.sample_data(n, torch.Generator().manual_seed(0))
    z = Keyed(0, n).normal(x_0)
    level, slope = process.at(t), process.slope(t)
    x = level.alpha * x_0 + level.sigma * z
    gap = slope.alpha * x_0 + slope.sigma * z - truth(x, t).velocity
    for probe in (torch.ones(n, 1), x, x**2, torch.sin(2 * x)):
        product = (gap.unsqueeze(1) * probe.unsqueeze(2)).flatten(1)
        assert (product.mean(0) / (product.std(0) / n**0.5)).abs().max() < 4.5


def test_guidance_is_not_the_score_of_the_noised_tilted_law():
    """p(x) p(c | x)^w of Gaussian classes can be noised by quadrature; the guided score is another, except without
    guidance and near time 0.
    """
    process = RectifiedFlow()
    truth = MixtureDenoiser([0.5, 0.5], [[-1.0], [1.0]], 0.3, process, labels=[0, 1])
    grid = torch.linspace(-12, 12, 6001)[:, None]
    label = Condition({"label": torch.ones(len(grid), dtype=torch.long)})
    x = torch.linspace(-1.5, 1.5, 7)[:, None]
    ask = Condition({"label": torch.ones(7, dtype=torch.long)})

    def gap(scale: float, t: float) -> float:
        log_p = truth.log_density(grid, 0.0)
        tilted = log_p + scale * (truth.log_density(grid, 0.0, label) - log_p)
        level = process.at(t)
        log_joint = tilted - 0.5 * ((x - level.alpha * grid.T) / level.sigma) ** 2
        mean = log_joint.softmax(1) @ grid  # the posterior mean of the tilted law
        guided = ClassifierFree(scale)(truth)(x, t, ask).mean
        return float((guided - mean).abs().max())

    assert gap(1.0, 0.5) < 1e-6
    assert gap(3.0, 0.5) > 0.1
    assert gap(3.0, 0.02) < 0.02

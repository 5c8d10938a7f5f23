"""Jacobian, asymmetry, circulation and divergence of fields whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from tests.exact import AFFINE, gaussian, mixture

from ornstein import guides
from ornstein.denoisers import EmpiricalDenoiser, Gauged, NetworkDenoiser, PotentialDenoiser
from ornstein.diagnostics import (
    Linearised,
    asymmetry,
    circulation,
    field_divergence,
    jacobian,
    jacobian_svd,
    leading,
)
from ornstein.networks import Potential, ResidualMLP, UNet
from ornstein.processes import VariancePreserving


def states(n: int = 5, d: int = 3) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def polygon(d: int = 3, corners: int = 7) -> torch.Tensor:
    """Two regular polygons, one in the first two coordinates, one in all."""
    angle = 2 * math.pi * torch.arange(corners) / corners
    flat = torch.stack([angle.cos(), angle.sin()], 1)
    axes = torch.linalg.qr(torch.randn(d, 2, generator=torch.Generator().manual_seed(1)))[0]
    return torch.stack([torch.nn.functional.pad(flat, (0, d - 2)), 0.7 * flat @ axes.T])


def area(corners: int = 7) -> float:
    return 0.5 * corners * math.sin(2 * math.pi / corners)


def turning(d: int = 3) -> torch.Tensor:
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(3))
    return a - a.T


def learned(d: int = 3, **options) -> NetworkDenoiser:
    torch.manual_seed(0)
    network = ResidualMLP(d, width=16, depth=2, **options)
    torch.nn.init.normal_(network.outer.weight, std=0.3)  # it starts at zero
    return NetworkDenoiser(network, VariancePreserving(), shape=(d,))


@pytest.mark.parametrize("process", AFFINE.values(), ids=AFFINE)
def test_exact_scores_are_gradients(process):
    for truth in (gaussian(process()), mixture(process()), EmpiricalDenoiser(states(), process())):
        for sigma in (0.3, 1.0):  # in units of alpha
            t = truth.process.time_at(-math.log(sigma))
            assert float(asymmetry(truth, states(), t).max()) < 1e-11
        assert float(circulation(truth, polygon(), t, nodes=40).abs().max()) < 1e-10


def test_a_potential_is_a_gradient_and_a_network_is_not():
    torch.manual_seed(0)
    conservative = PotentialDenoiser(Potential(3, width=16, depth=2), VariancePreserving(), shape=(3,))
    free = learned()
    for t in (0.1, 0.9):
        assert float(asymmetry(conservative, states(), t).max()) < 1e-12
        assert float(asymmetry(conservative, states(), t, probes=2).max()) < 1e-12
        assert float(circulation(conservative, polygon(), t, nodes=40).abs().max()) < 1e-9
        assert float(asymmetry(free, states(), t).min()) > 1e-3
        assert float(circulation(free, polygon(), t, nodes=40).abs().min()) > 1e-4


def test_a_known_turn_is_measured_exactly():
    """s + w A x: circulation 2 w A_21 area counter-clockwise, asymmetry w |2 A| / |J|."""
    truth, a, weight = gaussian(VariancePreserving()), turning(), 0.8
    turned = Gauged(truth, lambda x, t, condition: x @ a.T, weight)
    around = circulation(turned, polygon()[:1], 0.4)
    assert float(around[0]) == pytest.approx(2 * weight * float(a[1, 0]) * area(), rel=1e-9)
    back = circulation(turned, polygon()[:1].flip(1), 0.4)
    assert torch.allclose(back, -around)
    full = jacobian(turned, states(), 0.4)
    assert torch.allclose(full, jacobian(truth, states(), 0.4) + weight * a, atol=1e-9)
    want = weight * (2 * a).norm() / full.flatten(1).norm(dim=1)
    assert torch.allclose(asymmetry(turned, states(), 0.4), want, atol=1e-9)


def test_a_mean_with_a_turn_has_its_area_in_every_plane():
    a = turning()
    turned = Gauged(gaussian(VariancePreserving()), lambda x, t, condition: x @ a.T)
    loop = polygon()[1:]
    axes = torch.linalg.qr(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)))[0]
    want = 2 * float(axes[:, 1] @ a @ axes[:, 0]) * 0.7**2 * area()
    assert float(circulation(turned, loop, 0.4)[0]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("process", AFFINE.values(), ids=AFFINE)
def test_views_differ_by_known_factors(process):
    model, t = Gauged(mixture(process()), lambda x, t, condition: (x @ turning().T).tanh()), 0.3
    level = model.process.at(t)

    def antisymmetric(view):
        full = jacobian(model, states(), t, view=view)
        return full - full.mT

    score = antisymmetric("score")
    assert torch.allclose(level.alpha / level.sigma**2 * antisymmetric("mean"), score, rtol=1e-8, atol=1e-9)
    assert torch.allclose(antisymmetric("noise"), -level.sigma * score, rtol=1e-8, atol=1e-9)


def test_probes_estimate_the_exact_value():
    model = learned()
    exact = asymmetry(model, states(), 0.3)
    found = asymmetry(model, states(), 0.3, probes=20_000)
    assert torch.allclose(found, exact, rtol=0.05)
    assert not torch.allclose(asymmetry(model, states(), 0.3, probes=1), exact, rtol=1e-3)


def test_a_block_of_the_jacobian_is_that_block():
    model, x = learned(6), states(d=6)
    full, index = jacobian(model, x, 0.3), torch.tensor([4, 1])
    assert torch.allclose(jacobian(model, x, 0.3, index), full[:, index][:, :, index], atol=1e-14)
    some = full[:, index][:, :, index]
    want = (some - some.mT).flatten(1).norm(dim=1) / some.flatten(1).norm(dim=1)
    assert torch.allclose(asymmetry(model, x, 0.3, index), want, atol=1e-14)
    assert jacobian(model, x, 0.3, 4).shape == (5, 4, 4)
    for seed in (0, 1):
        drawn = torch.randperm(len(full[0]), generator=torch.Generator().manual_seed(seed))[:4].sort().values
        expected = full[:, drawn][:, :, drawn]
        assert torch.allclose(jacobian(model, x, 0.3, 4, seed=seed), expected, atol=1e-14)
    assert not torch.allclose(jacobian(model, x, 0.3, 4, seed=0), jacobian(model, x, 0.3, 4, seed=1))


def test_divergences_agree():
    truth, x, t = mixture(VariancePreserving()), states(), 0.3
    exact = field_divergence(truth, x, t)
    assert torch.allclose(exact, jacobian(truth, x, t).diagonal(dim1=1, dim2=2).sum(1))
    level, posterior = truth.process.at(t), mixture(VariancePreserving())
    posterior.variance = True
    spread = posterior(x, t).variance.diagonal(dim1=1, dim2=2).sum(1)
    want = level.alpha**2 / level.sigma**4 * spread - 3 / level.sigma**2  # of the score, by Tweedie
    assert torch.allclose(exact, want, rtol=1e-8)
    for estimator in ("hutchinson", "skilling"):
        found = field_divergence(truth, x, t, estimator, probes=4000)
        assert torch.allclose(found, exact, rtol=0.1)


def test_products_are_those_of_the_matrix():
    f = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5))
    linear, x = Linearised(f, states(3, 4)), states(3, 4)
    u, v = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    full = linear.matrix()
    want = torch.func.vmap(torch.func.jacrev(f))(x)
    assert torch.allclose(full, want, atol=1e-14)
    assert torch.allclose(linear.push(u), torch.einsum("bij,mbj->mbi", full, u), atol=1e-13)
    assert torch.allclose(linear.push(u[0]), linear.push(u)[0], atol=1e-13)
    assert torch.allclose(linear.pull(v), torch.einsum("bij,mbi->mbj", full, v), atol=1e-13)


def test_networks_with_attention_can_be_linearised():
    torch.manual_seed(0)
    network = UNet(1, width=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = NetworkDenoiser(network, VariancePreserving(), shape=(1, 8, 8)).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    linear = Linearised(lambda x: model(x, 0.4).mean, x)
    u = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    step = 1e-5
    with torch.no_grad():
        ends = (model(x + s * step * u, 0.4).mean for s in (1, -1))
        slope = next(ends) - next(ends)
    assert torch.allclose(linear.push(u), slope / (2 * step), atol=1e-6)
    assert float((linear.push(u) * u).sum() - (linear.pull(u) * u).sum()) == pytest.approx(0, abs=1e-9)


def test_leading_directions_are_those_of_the_dense_svd():
    f = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 25))
    linear = Linearised(f, states(3, 30))
    values, left, right = leading(linear, 5, iterations=60)
    u, s, v = torch.linalg.svd(linear.matrix())
    assert torch.allclose(values, s[:, :5], rtol=1e-8)
    for found, want in ((left, u.mT[:, :5]), (right, v[:, :5])):
        assert torch.allclose((found * want).sum(2).abs(), torch.ones(3, 5), atol=1e-6)
    full = leading(Linearised(f, states(3, 30)), 25, iterations=1)
    assert torch.allclose(full.values, s, rtol=1e-8)


def test_the_posterior_mean_of_a_gaussian_has_known_singular_values():
    truth, t = gaussian(VariancePreserving()), 0.4
    level = truth.process.at(t)
    shrink = level.alpha * truth.values[0] / (level.alpha**2 * truth.values[0] + level.sigma**2)
    found = jacobian_svd(truth, states(), t, 3)
    assert torch.allclose(found.values, shrink.flip(0).expand(5, 3), rtol=1e-9)
    assert found.right.shape == (5, 3, 3)


def test_labels_and_guides_are_part_of_the_field():
    truth = mixture(VariancePreserving())
    one, two = (jacobian(truth, states(), 0.5, label=k) for k in (0, 1))
    assert not torch.allclose(one, two, rtol=1e-3)
    guided = guides.ClassifierFree(3.0)(truth)
    both = 3.0 * two - 2.0 * jacobian(truth, states(), 0.5)
    assert torch.allclose(jacobian(guided, states(), 0.5, label=1), both, atol=1e-9)
    assert float(circulation(guided, polygon(), 0.5, nodes=30, label=1).abs().max()) < 1e-6


def test_what_cannot_be_measured_is_refused():
    truth = gaussian(VariancePreserving())
    with pytest.raises(ValueError, match="Did you mean 'score'"):
        jacobian(truth, states(), 0.5, view="scores")
    with pytest.raises(ValueError, match="coordinates: expected 2 to 3"):
        jacobian(truth, states(), 0.5, 4)
    with pytest.raises(ValueError, match="one or the other"):
        asymmetry(truth, states(), 0.5, 2, probes=3)
    with pytest.raises(ValueError, match="vertices"):
        circulation(truth, states(), 0.5)
    with pytest.raises(ValueError, match="rank"):
        jacobian_svd(truth, states(), 0.5, 4)

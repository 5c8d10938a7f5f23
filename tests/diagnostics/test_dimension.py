"""Intrinsic dimension of planes, and what a gauge does to each way of reading it."""

from __future__ import annotations

import pytest
import torch

from ornstein.denoisers import Gauged, GaugeField, GaussianDenoiser, MixtureDenoiser
from ornstein.diagnostics import intrinsic_dimension, jacobian
from ornstein.diagnostics.dimension import large_values
from ornstein.processes import BrownianBridge, RectifiedFlow, VarianceExploding, VariancePreserving

D, K = 10, 3


def plane(process, seed: int = 0) -> GaussianDenoiser:
    axes = torch.linalg.qr(torch.randn(D, K, generator=torch.Generator().manual_seed(seed)))[0]
    return GaussianDenoiser(torch.zeros(D), axes @ axes.T, process)


def unit_turn(seed: int) -> torch.Tensor:
    a = torch.randn(D, D, generator=torch.Generator().manual_seed(1000 + seed))
    return (a - a.T) / torch.linalg.matrix_norm(a - a.T, 2)


def thin(process, thickness: float) -> float:
    """The time at which sigma / alpha is the thickness."""
    return process.time_at(-torch.tensor(thickness).log().item())


@pytest.mark.parametrize("process", [VariancePreserving(), VarianceExploding(0.001, 50.0), RectifiedFlow()])
@pytest.mark.parametrize("method", ["jacobian", "normal_space", "divergence"])
def test_the_dimension_of_a_plane(process, method):
    truth = plane(process)
    x = truth.sample_data(6, torch.Generator().manual_seed(0))
    found = intrinsic_dimension(truth, 0.1 * x, thin(process, 0.01), method)
    assert torch.allclose(found.double(), torch.full((6,), float(K)), atol=0.2)


def shares(thickness: float, weight: float, gauges: int = 100) -> dict[str, float]:
    """How often each reading is right over random gauges of unit norm; the truth is 3 of 10.

    "scores" are those of ten points all over the plane, few enough for chance and gauge to blur the border.
    """
    process = VarianceExploding(0.00001, 50.0)
    truth, t = plane(process), thin(process, thickness)
    x = truth.sample_data(D * gauges, torch.Generator().manual_seed(0))
    near = x + thickness * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    right = {"jacobian": 0, "normal_space": 0, "scores": 0, "symmetrised": 0}
    for seed in range(gauges):
        model = Gauged(truth, GaugeField(truth, unit_turn(seed)), weight)
        for method in ("jacobian", "normal_space"):
            right[method] += int(intrinsic_dimension(model, x[:1], t, method, seed=seed)[0]) == K
        full = jacobian(model, x[:1], t)
        eigenvalues = torch.linalg.eigvalsh((full + full.mT) / 2).abs().sort(descending=True).values
        for name, values in (
            ("scores", torch.linalg.svdvals(model(near[seed::gauges], t).score)[None]),
            ("symmetrised", eigenvalues),
        ):
            right[name] += int(D - large_values(values)[0]) == K
    return {name: count / gauges for name, count in right.items()}


def test_without_a_gauge_all_readings_are_right():
    found = shares(1e-2, 0.0, 20)
    assert found["jacobian"] == found["normal_space"] == found["symmetrised"] == 1


def test_the_jacobian_stands_any_gauge_and_making_it_symmetric_is_no_cure():
    weak, strong, huge = (shares(1e-2, weight) for weight in (1.0, 10.0, 100.0))
    for found in (weak, strong, huge):
        assert found["jacobian"] == found["normal_space"] == 1  # copies of one point see the Jacobian
    assert weak["symmetrised"] < 1 and strong["symmetrised"] == huge["symmetrised"] == 0
    assert weak["scores"] > huge["scores"] + 0.03


def test_few_scores_of_a_thinner_plane_stand_more():
    assert shares(1e-4, 10.0)["scores"] > 0.98 > shares(1e-2, 10.0)["scores"]


def test_every_point_has_its_own_dimension():
    """Two far pieces, a line and a plane."""
    line, flat = torch.diag(torch.tensor([1.0, 0, 0, 0])), torch.diag(torch.tensor([0, 1.0, 1.0, 0]))
    means = torch.tensor([[-20.0, 0, 0, 0], [20.0, 0, 0, 0]])
    process = VariancePreserving()
    truth = MixtureDenoiser([0.5, 0.5], means, torch.stack([line, flat]), process)
    for method in ("jacobian", "normal_space", "divergence"):
        found = intrinsic_dimension(truth, means, thin(process, 0.01), method).double()
        assert torch.allclose(found, torch.tensor([1.0, 2.0]), atol=0.1), method


def test_flipd_is_the_formula():
    """D + sigma^2 (div s + |s|^2) at x: a gauge adds sigma^2 (2 r . s + div r + |r|^2)."""
    process = VariancePreserving()
    truth, t = plane(process), thin(process, 0.05)
    x = truth.sample_data(4, torch.Generator().manual_seed(2))
    level = process.at(t)
    variance = level.alpha**2 * torch.linalg.eigvalsh(torch.eye(D))[:K].mean() + level.sigma**2
    div = -(K / variance + (D - K) / level.sigma**2)
    square = truth(level.alpha * x, t).score.square().sum(1)
    want = D + level.sigma**2 * (div + square)
    assert torch.allclose(intrinsic_dimension(truth, x, t, "divergence"), want, rtol=1e-8)
    gauge = GaugeField(truth, unit_turn(0))
    r = gauge(level.alpha * x, t)
    both = intrinsic_dimension(Gauged(truth, gauge), x, t, "divergence")
    assert torch.allclose(both, want + level.sigma**2 * (r**2).sum(1), rtol=1e-8)  # div r = r . s = 0 here


@pytest.mark.parametrize("method", ["jacobian", "normal_space", "divergence"])
def test_a_bridge_is_read_around_its_anchor(method):
    process = BrownianBridge()
    truth = plane(process)
    x, y = 0.1 * truth.sample_data(6, torch.Generator().manual_seed(0)), 1000.0 + torch.arange(6.0)[:, None]
    found = intrinsic_dimension(truth, x, 1e-4, method, anchor=y.expand(6, D))
    assert torch.allclose(found.double(), torch.full((6,), float(K)), atol=0.2)


def test_what_cannot_be_read_is_refused():
    truth = plane(VariancePreserving())
    with pytest.raises(ValueError, match="Did you mean 'jacobian'"):
        intrinsic_dimension(truth, torch.zeros(1, D), 0.1, "jacobean")
    with pytest.raises(ValueError, match="draws"):
        intrinsic_dimension(truth, torch.zeros(1, D), 0.1, "normal_space", draws=3)

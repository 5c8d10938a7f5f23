"""What part of a field is free: gauge fields, the projection on gradients, and what guidance does to them."""

from __future__ import annotations

import pytest
import torch
from tests.exact import AFFINE, gaussian, mixture

from ornstein import guides
from ornstein.core import Sampler
from ornstein.denoisers import Gauged, GaugeField, GaussianDenoiser, MixtureDenoiser
from ornstein.diagnostics import (
    Fourier,
    Polynomial,
    asymmetry,
    field_divergence,
    helmholtz,
    log_likelihood,
    reference,
)
from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM


def antisymmetric(d: int = 3, seed: int = 0, count: int | None = None) -> torch.Tensor:
    shape = (d, d) if count is None else (count, d, d)
    a = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return a - a.mT


def noised(truth, t: float, n: int = 2000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, level = truth.sample_data(n, generator), truth.process.at(t)
    return level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator)


def terms(truth, field: GaugeField, x: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """div r and r . grad log p_t, pointwise."""
    bare, gauged = truth, Gauged(truth, field)
    divergence = field_divergence(gauged, x, t) - field_divergence(bare, x, t)
    return divergence, (field(x, t) * truth(x, t).score).sum(1)


@pytest.mark.parametrize("process", AFFINE.values(), ids=AFFINE)
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_both_terms_vanish_for_a_gaussian(process, t):
    truth = gaussian(process(), 5)
    divergence, product = terms(truth, GaugeField(truth, antisymmetric(5)), noised(truth, t, 20), t)
    scale = float(truth(noised(truth, t, 20), t).score.square().sum(1).mean())
    assert float(divergence.abs().max()) < 1e-10 * scale
    assert float(product.abs().max()) < 1e-10 * scale


@pytest.mark.parametrize("t", [0.2, 0.5])
def test_only_the_sum_vanishes_for_a_mixture(t):
    truth = mixture(VariancePreserving())
    field = GaugeField(truth, antisymmetric(count=3))
    divergence, product = terms(truth, field, noised(truth, t, 50), t)
    assert float(divergence.abs().max()) > 0.1
    assert float((divergence + product).abs().max()) < 1e-9 * float(divergence.abs().max())


def test_a_gauge_of_another_time_is_none():
    truth = gaussian(VariancePreserving())
    field = GaugeField(truth, antisymmetric())
    x = noised(truth, 0.4, 50)
    stale = Gauged(truth, lambda x, t, condition: field(x, 0.05, condition))
    score = truth(x, 0.4).score
    rest = field_divergence(stale, x, 0.4) - field_divergence(truth, x, 0.4)
    assert float((rest + (field(x, 0.05) * score).sum(1)).abs().max()) > 0.1


@pytest.mark.parametrize("process", [VariancePreserving(), VarianceExploding(0.01, 50.0)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
def test_the_flow_with_a_gauge_keeps_covariance_and_density(process, weight):
    """The flow of Gaussian data is linear: its matrix F carries Sigma_1 to Sigma_s, and log |det F| is that of no
    gauge, whatever the gauge.
    """
    spread = torch.tensor([2.0, 1.0, 0.3, 0.05])
    axes = torch.linalg.qr(antisymmetric(4, 5) + torch.eye(4))[0]
    truth = GaussianDenoiser(torch.zeros(4), axes @ spread.diag() @ axes.T, process)
    gauged = Gauged(truth, GaugeField(truth, 0.3 * antisymmetric(4)), weight)
    start, end = 1.0, 0.02
    f = reference(gauged, torch.eye(4), start, end, rtol=1e-10).T
    sigma_1, sigma_s = (
        (process.at(t).alpha ** 2 * axes @ spread.diag() @ axes.T + process.at(t).sigma ** 2 * torch.eye(4))
        for t in (start, end)
    )
    assert torch.allclose(f @ sigma_1 @ f.T, sigma_s, atol=2e-9)
    assert float(torch.linalg.slogdet(f)[1]) == pytest.approx(float(truth.log_det(start, end)), abs=1e-8)
    plain = reference(truth, torch.eye(4), start, end, rtol=1e-10).T
    assert weight == 0.0 or float((f - plain).norm()) > 0.3 * float(
        plain.norm()
    )  # it is another map all the same


def test_the_likelihood_does_not_see_a_gauge():
    truth = mixture(VariancePreserving(), labels=False)
    gauged = Gauged(truth, GaugeField(truth, antisymmetric(count=3)), 0.3)
    x = truth.sample_data(6, torch.Generator().manual_seed(0))
    found = log_likelihood(gauged, x, rtol=1e-7, atol=1e-7, prior=lambda x: truth.log_density(x, 1.0))
    assert torch.allclose(found.nats, truth.log_density(x, 0.0), atol=2e-4)


def test_gradients_and_gauges_are_orthogonal():
    """E[grad phi . r] = 0 for polynomials phi, within three standard errors; so energies add."""
    truth, t = mixture(VariancePreserving()), 0.2
    field, x = GaugeField(truth, antisymmetric(count=3)), noised(mixture(VariancePreserving()), 0.2, 40_000)
    r = field(x, t)
    for gradient in (x, x**3, x.sum(1, keepdim=True).expand(-1, 3), truth(x, t).score):
        product = (gradient * r).sum(1)
        assert abs(float(product.mean())) < 3 * float(product.std()) / len(x) ** 0.5
    score = truth(x, t).score
    both, apart = ((score + r) ** 2).sum(1), (score**2).sum(1) + (r**2).sum(1)
    assert abs(float((both - apart).mean())) < 3 * float((both - apart).std()) / len(x) ** 0.5


def test_the_projection_restores_the_score_exactly():
    """On samples whose second moments are those of p_t the sampled inner product with quadratics is exact."""
    truth, t = gaussian(VariancePreserving()), 0.3
    level = truth.process.at(t)
    covariance = level.alpha**2 * (truth.vectors[0] * truth.values[0]) @ truth.vectors[0].T
    covariance = covariance + level.sigma**2 * torch.eye(3)
    z = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / 400), z.T, upper=False).T
    x = level.alpha * truth.means[0] + z @ torch.linalg.cholesky(covariance).T
    gauged = Gauged(truth, GaugeField(truth, antisymmetric()), 4.0)
    found = helmholtz(gauged, x, t, Polynomial())
    elsewhere = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(found.score(elsewhere), truth(elsewhere, t).score, atol=1e-7)
    assert found.gradient == pytest.approx(float(truth(x, t).score.square().sum(1).mean()), rel=1e-8)
    assert found.rest == pytest.approx(16 * float(gauged.field(x, t).square().sum(1).mean()), rel=1e-8)
    conservative = found.denoiser(truth.process, (3,))
    assert float(asymmetry(conservative, elsewhere, t).max()) < 1e-9
    assert torch.allclose(conservative(elsewhere, t).mean, truth(elsewhere, t).mean, atol=1e-6)


def test_waves_project_a_mixture():
    truth, t = mixture(VariancePreserving(), labels=False), 0.4
    gauged = Gauged(truth, GaugeField(truth, antisymmetric(count=3)))
    x, fresh = noised(truth, t, 6000), noised(truth, t, 2000, 1)
    found = helmholtz(gauged, x, t, Fourier(3, 150, width=1.5))
    score = truth(fresh, t).score
    before = gauged(fresh, t).score - score
    after = found.score(fresh) - score
    assert float((after**2).mean()) < 0.1 * float((before**2).mean())


def test_a_gauge_of_the_class_is_none_of_the_guided_law():
    """Guidance adds more of the conditional field than of the unconditional one: the mean moves, the more the more."""
    process = VariancePreserving()
    means = torch.tensor([[1.5, 0.0], [-1.5, 0.5]])
    covariances = torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.3, 0.0], [0.0, 0.8]]])
    truth = MixtureDenoiser([0.5, 0.5], means, covariances, process, labels=[0, 1])
    of_class = GaugeField(truth, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))

    def only_given(x, t, condition):
        return of_class(x, t, condition) if condition and "label" in condition else torch.zeros_like(x)

    sampler, start = Sampler(DDIM(), 100), torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    start = torch.cat([start, -start])
    shifts = []
    for scale in (1.0, 2.0, 4.0):
        ends = [
            sampler(guides.ClassifierFree(scale)(Gauged(truth, only_given, weight)), start, seed=0, label=0)
            for weight in (0.0, 1.0)
        ]
        shifts.append(float((ends[1].mean(0) - ends[0].mean(0)).norm()))
    assert shifts[0] < 0.03 and shifts[1] > 0.1 and shifts[2] > 1.5 * shifts[1]


def test_no_weight_is_no_change():
    for process in (VariancePreserving(), RectifiedFlow()):
        truth = mixture(process)
        gauged = Gauged(truth, GaugeField(truth, antisymmetric()), 0.0)
        x = noised(truth, 0.5, 4)
        for t in (0.0, 0.5, 1.0):
            assert torch.equal(gauged(x, t).mean, truth(x, t).mean)
    turned = Gauged(truth, GaugeField(truth, antisymmetric()))
    assert torch.equal(
        turned(x, 1.0).mean, truth(x, 1.0).mean
    )  # no signal: the mean has no share in the score
    times = torch.tensor([0.1, 0.5, 0.9, 0.3])
    assert torch.allclose(turned(x, times).mean[1], turned(x[1:2], 0.5).mean[0])


def test_what_is_no_gauge_is_refused():
    truth = gaussian(VariancePreserving())
    with pytest.raises(ValueError, match="antisymmetric"):
        GaugeField(truth, torch.eye(3))
    with pytest.raises(TypeError, match="MixtureDenoiser"):
        GaugeField(Gauged(truth, lambda x, t, c: x), antisymmetric())

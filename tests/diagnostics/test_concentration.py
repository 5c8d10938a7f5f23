"""Samplers as maps of Gaussian noise: their Lipschitz constants, tails, and what linear learners see."""

from __future__ import annotations

import math

import pytest
import torch
from tests.exact import covariance, gaussian, mixture, table

from ornstein import solvers
from ornstein.core import Sampler
from ornstein.denoisers import GaussianDenoiser
from ornstein.diagnostics import (
    NoiseMap,
    concentration_excess,
    gaussian_twin,
    hill_index,
    least_squares,
    lipschitz,
    product_bound,
    subgaussian_scale,
    universality,
)
from ornstein.processes import Absorbing, RectifiedFlow, VarianceExploding, VariancePreserving

N = 1_000_000


def normal_quantiles(n: int = N) -> torch.Tensor:
    return torch.special.ndtri((torch.arange(n) + 0.5) / n)


def student(n: int, d: int, nu: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator)
    chi = torch.distributions.Chi2(nu)
    torch.manual_seed(seed)
    return z / (chi.sample((n, 1)) / nu).sqrt()


# --- samplers as maps


@pytest.mark.parametrize("process", [VariancePreserving(), VarianceExploding(0.01, 50.0), RectifiedFlow()])
def test_the_flow_of_a_gaussian_stretches_by_the_root_of_its_variance(process):
    truth = GaussianDenoiser(torch.zeros(3), covariance(3), process)
    sampler = Sampler(solvers.DPMSolverPP(), 100)
    found = lipschitz(sampler, truth, 4)
    sigma = process.at(1.0).sigma
    exact = sigma * (truth.flow(torch.eye(3), 1.0, 0.0) - truth.flow(torch.zeros(1, 3), 1.0, 0.0))
    assert torch.allclose(found, torch.linalg.matrix_norm(exact, 2).expand(4), rtol=2e-3)
    assert torch.allclose(found, truth.values.max().sqrt().expand(4), rtol=1e-2)


def test_all_noise_of_an_ancestral_run_makes_the_covariance():
    """J J^T over the start and every draw is the covariance of the samples: exactly that of the plug-in chain, and
    that of the data in the limit of many steps.
    """
    truth = GaussianDenoiser(torch.zeros(3), covariance(3), VariancePreserving())
    gaps = []
    for steps in (25, 100, 400):
        sampler = Sampler(solvers.Ancestral(), steps)
        j = NoiseMap(sampler, truth, 1).linearised().matrix()[0]
        assert j.shape == (3, 3 * steps)  # the last row draws nothing
        want = torch.eye(3) * truth.process.at(1.0).sigma ** 2
        for _, row in sampler.program(truth.process):
            mean = truth(torch.eye(3), row.t).mean - truth(torch.zeros(1, 3), row.t).mean
            step = row.a * torch.eye(3) + row.b * mean.T
            want = step @ want @ step.T + row.scale**2 * torch.eye(3)
        assert torch.allclose(j @ j.T, want, atol=1e-12)
        gaps.append(float((want - covariance(3)).norm() / covariance(3).norm()))
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] and gaps[2] < 0.03


def test_the_map_is_the_sampler():
    truth, sampler = mixture(VariancePreserving()), Sampler(solvers.Ancestral(), 6)
    run = NoiseMap(sampler, truth, 5, seed=3, label=1)
    assert torch.equal(run(run.noise), sampler(truth, 5, seed=3, label=1))
    assert not torch.equal(run(run.noise + 0.1), run(run.noise))
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    fixed = NoiseMap(sampler, truth, start, seed=3)
    assert fixed.noise.shape == (5, 3 * 5)
    assert torch.equal(fixed(fixed.noise), sampler(truth, start, seed=3))


def test_lipschitz_is_the_largest_singular_value():
    truth, sampler = mixture(VariancePreserving()), Sampler(solvers.Ancestral(), 12)
    dense = NoiseMap(sampler, truth, 5, seed=1).linearised().matrix()
    assert torch.allclose(lipschitz(sampler, truth, 5, seed=1), torch.linalg.matrix_norm(dense, 2), rtol=1e-6)


def test_steps_one_by_one_bound_the_run():
    """Tight where all directions are stretched alike, above it where they are not."""
    round_ = GaussianDenoiser(torch.zeros(3), 0.3, VariancePreserving())
    for solver in (solvers.DDIM(), solvers.Ancestral()):
        sampler = Sampler(solver, 20)
        found, bound = lipschitz(sampler, round_, 2), product_bound(sampler, round_, 2)
        assert torch.allclose(found, bound, rtol=1e-9)
        other = mixture(VariancePreserving())
        assert bool((product_bound(sampler, other, 4) > 1.01 * lipschitz(sampler, other, 4)).all())
    with pytest.raises(ValueError, match="without memory"):
        product_bound(Sampler(solvers.DPMSolverPP(), 5), round_, 2)


def test_runs_without_normal_noise_are_refused():
    with pytest.raises(ValueError, match="normal noise"):
        NoiseMap(Sampler(solvers.Ancestral(), 3), table(Absorbing(3)), 2)
    start = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="normal noise"):
        NoiseMap(Sampler(solvers.DDIM(), 3), gaussian(VariancePreserving()), start)


# --- tails


def test_gaussian_projections_meet_the_bound_in_the_exponent():
    values = normal_quantiles()
    assert concentration_excess(values, 1.0) < 0
    assert 0.85 < subgaussian_scale(values) < 1
    gap, count = 4.0, int((values.abs() > 4.0).sum())
    assert -2 * math.log(count / N / 2) / gap**2 == pytest.approx(1.0, abs=0.4)
    assert subgaussian_scale(normal_quantiles(10**4)) < subgaussian_scale(values)  # towards 1 from below
    assert concentration_excess(values, 0.8) > 0


def test_samples_of_a_lipschitz_sampler_concentrate():
    truth = gaussian(VariancePreserving())
    sampler = Sampler(solvers.Ancestral(), 40)
    constant = float(lipschitz(sampler, truth, 1)[0])
    samples = sampler(truth, 20_000, seed=0)
    for values in (samples[:, 0], samples.norm(dim=1), samples @ truth.vectors[0, :, -1]):
        assert concentration_excess(values, constant) <= 0.05


def test_no_lipschitz_map_makes_a_student_law():
    """Its radial transport R(r) = F_t^-1(F_chi(r)) has a slope without bound, and its samples break the bound."""
    from scipy import stats

    r = torch.linspace(1, 6, 200).double().numpy()
    far = stats.f(2, 3).isf(stats.chi2(2).sf(r**2)) ** 0.5 * 2**0.5  # |t|^2 / 2 has an F law
    slope = (far[1:] - far[:-1]) / (r[1:] - r[:-1])
    assert (slope[1:] > slope[:-1]).all() and slope[-1] > 100 * slope[0]
    values = student(100_000, 1, 3.0)[:, 0]
    assert concentration_excess(values, 3 * float(values.std())) > 1.0
    scales = [subgaussian_scale(student(n, 1, 3.0)[:, 0]) for n in (1000, 10_000, 100_000)]
    assert scales[0] < scales[1] < scales[2]


@pytest.mark.parametrize("nu", [1.5, 3.0])
def test_hill_reads_the_tail(nu):
    pareto = ((torch.arange(N) + 0.5) / N) ** (-1 / nu)
    assert hill_index(pareto) == pytest.approx(nu, rel=0.01)
    assert hill_index(student(400_000, 4, nu).norm(dim=1)) == pytest.approx(nu, rel=0.15)
    assert hill_index(normal_quantiles().abs()) > 10


def test_tails_of_few_values_are_refused():
    with pytest.raises(ValueError, match="N share"):
        hill_index(torch.ones(1000))
    with pytest.raises(ValueError, match="fewest"):
        subgaussian_scale(torch.ones(5))


# --- universality


def classes(n: int, seed: int, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of signs times scales, far from Gaussian entry by entry but not in projections."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(2).repeat_interleave(n)
    x = torch.randint(2, (2 * n, d), generator=generator) * 2.0 - 1
    x = x * torch.where(y == 0, 1.0, 1.3)[:, None]
    return x + 0.4 * torch.where(y == 0, -1.0, 1.0)[:, None], y


def test_a_twin_has_the_moments_of_each_class():
    x, y = classes(500, 0)
    drawn, labels = gaussian_twin(x, y, 200_000, torch.Generator().manual_seed(0))
    assert labels.bincount().tolist() == [200_000, 200_000]
    for k in (0, 1):
        real, made = x[y == k], drawn[labels == k]
        assert torch.allclose(made.mean(0), real.mean(0), atol=0.02)
        assert torch.allclose(made.T.cov(), real.T.cov(), atol=0.02)


def test_gaussian_data_are_their_own_twin():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat_interleave(4000)
    x = torch.randn(8000, 5, generator=generator) @ covariance(5) + y[:, None] * 0.7
    order = torch.arange(8000).reshape(2, 2, 2000)
    train, test = ((x[i], y[i]) for i in (order[:, 0].flatten(), order[:, 1].flatten()))
    found = universality(train, test, generator=torch.Generator().manual_seed(1))
    assert abs(found.data - found.twin) < 0.03


def test_a_learner_of_shape_sees_what_a_linear_one_does_not():
    """Rows on a lattice: the nearest known row tells classes apart at once, on the twin it does not."""
    train, test = classes(1000, 0), classes(1000, 1)

    def nearest(x, y, test):
        return y[torch.cdist(test, x).argmin(1)]

    linear = universality(train, test, generator=torch.Generator().manual_seed(0))
    local = universality(train, test, nearest, generator=torch.Generator().manual_seed(0))
    assert local.data == 0 and local.twin > 0.05
    assert abs(linear.data - linear.twin) < 0.06


def test_least_squares_solves_the_normal_equations():
    x, y = classes(50, 0)
    targets = torch.nn.functional.one_hot(y).double()
    weights = torch.linalg.solve(x.T @ x, x.T @ targets)
    assert torch.equal(least_squares(x, y, x), (x @ weights).argmax(1))
    with pytest.raises(ValueError, match="every class"):
        universality((x, torch.zeros_like(y).scatter(0, torch.tensor([0]), 1)), (x, y))


def test_a_twin_is_drawn_where_its_data_are():
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    expected = gaussian_twin(x, y, 4, torch.Generator().manual_seed(1))[0]
    with torch.device("meta"):
        found = gaussian_twin(x, y, 4, torch.Generator("cpu").manual_seed(1))[0]
        alone = gaussian_twin(x, y, 4)[0]
    assert torch.equal(found, expected) and alone.device == x.device

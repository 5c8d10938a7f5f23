"""Explained variance, kinetic energy and the geometry of trajectories, on data whose answers are known."""

from __future__ import annotations

import pytest
import torch
from tests.exact import gaussian, mixture, table

from ornstein import solvers
from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.denoisers import EmpiricalDenoiser, GaussianDenoiser, GaussianFit
from ornstein.diagnostics import explained_variance, kinetic_energy, log_likelihood, trajectory
from ornstein.processes import Absorbing, RectifiedFlow, VarianceExploding, VariancePreserving

VARIANCES = torch.tensor([4.0, 1.0, 0.25, 0.04], dtype=torch.float64)


def axes(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]


def tilted(process, mean: float = 0.3) -> tuple[GaussianDenoiser, torch.Tensor]:
    """Gaussian data along tilted axes, the widest first."""
    turn = axes()
    return GaussianDenoiser(torch.full((4,), mean), turn.T @ VARIANCES.diag() @ turn, process), turn


# --- the closed-form flow


def test_the_gaussian_flow_is_a_group():
    fit = GaussianFit(torch.linspace(-1, 1, 4), axes()[:2], torch.tensor([2.0, 0.5]), 0.1)
    process = VariancePreserving()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    there = fit.flow(process, x, 0.9, 0.5)
    assert torch.allclose(fit.flow(process, there, 0.5, 0.1), fit.flow(process, x, 0.9, 0.1), atol=1e-12)
    assert torch.allclose(fit.flow(process, there, 0.5, 0.9), x, atol=1e-12)
    assert torch.allclose(fit.flow(process, x, 0.5, 0.5), x, atol=1e-14)
    assert torch.allclose(there, fit.denoiser(process).flow(x, 0.9, 0.5), atol=1e-12)


def test_the_log_determinant_carries_the_density():
    fit = GaussianFit(torch.linspace(-1, 1, 4), axes()[:2], torch.tensor([2.0, 0.5]), 0.1)
    process = VariancePreserving()
    truth = fit.denoiser(process)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    x_s = fit.flow(process, x, 0.8, 0.2)
    change = truth.log_density(x, 0.8) - truth.log_density(x_s, 0.2)
    assert torch.allclose(change, torch.full((5,), fit.log_det(process, 0.8, 0.2)), atol=1e-10)
    data = fit.flow(process, x, 0.8, 0.0)
    found = log_likelihood(truth, data, prior=lambda x: truth.log_density(x, 1.0), rtol=1e-8, atol=1e-8)
    assert torch.allclose(found.nats, truth.log_density(x, 0.8) - fit.log_det(process, 0.8, 0.0), atol=1e-5)


def test_no_variance_off_the_axes_is_the_limit_of_little():
    process = VariancePreserving()
    narrow = GaussianFit(torch.zeros(4), axes()[:2], torch.tensor([2.0, 0.5]), 0.0)
    full = GaussianFit(torch.zeros(4), axes(), torch.tensor([2.0, 0.5, 0.0, 0.0]), 0.0)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(narrow.flow(process, x, 0.9, 0.1), full.flow(process, x, 0.9, 0.1), atol=1e-12)
    off = narrow.flow(process, x, 0.9, 0.1) @ axes()[2:].T
    ratio = process.at(0.1).sigma / process.at(0.9).sigma
    assert torch.allclose(off, ratio * x @ axes()[2:].T, atol=1e-12)


def test_the_rotation_is_exact_where_the_data_have_no_variance():
    """x_t = alpha x_0 + sigma x_T against the true coordinate, along an axis of variance L: off by a factor
    (alpha sqrt L + sigma) / sqrt(alpha^2 L + sigma^2), between 1 and sqrt 2.
    """
    process, time = VariancePreserving(), 0.4
    level = process.at(time)
    for variance in (0.0, 0.3, 1.0, 5.0):
        fit = GaussianFit(torch.zeros(2), torch.zeros(0, 2), torch.zeros(0), variance)
        x_0 = fit.flow(process, torch.ones(1, 2), 1.0, 0.0)
        x_t = fit.flow(process, torch.ones(1, 2), 1.0, time)
        rotation = level.alpha * x_0 + level.sigma * torch.ones(1, 2)
        root = variance**0.5
        want = (level.alpha * root + level.sigma) / (level.alpha**2 * variance + level.sigma**2) ** 0.5
        assert torch.allclose(rotation / x_t, torch.full((1, 2), want), rtol=1e-3)
        assert 1 - 1e-12 <= want <= 2**0.5 + 1e-12


@pytest.mark.parametrize("make", [gaussian, mixture])
def test_far_from_the_data_only_mean_and_covariance_count(make):
    """The Gaussian of the same two moments is the expansion of any score: what it misses falls as level^-6 of |s|^2."""
    truth = make(VarianceExploding(0.01, 500.0))
    x = truth.sample_data(4000, torch.Generator().manual_seed(0))
    weights = truth.log_weights.exp()
    mean = weights @ truth.means
    own = (truth.vectors * truth.values.unsqueeze(1)) @ truth.vectors.mT
    gaps = truth.means - mean
    covariance = (weights[:, None, None] * (own + gaps[:, :, None] * gaps[:, None])).sum(0)
    fit = GaussianDenoiser(mean, covariance, truth.process)
    missed = 1 - explained_variance(truth, fit, x, [10.0, 20.0])
    if make is gaussian:
        assert missed.abs().max() < 1e-12
    else:
        assert 0 < missed[0] < 1e-4 and 30 < missed[0] / missed[1] < 130


def test_the_ladder_climbs_to_the_truth():
    truth = mixture(VariancePreserving())
    x = truth.sample_data(2000, torch.Generator().manual_seed(0))
    fit = GaussianFit.of(truth.sample_data(2000, torch.Generator().manual_seed(1)))
    ladder = [
        GaussianFit.isotropic(fit.mean, float(fit.variances.mean())).denoiser(truth.process),
        fit.denoiser(truth.process),
        truth,
    ]
    shares = torch.stack([explained_variance(truth, rung, x, [0.3, 1.0, 3.0]) for rung in ladder])
    assert bool((shares[0] < shares[1]).all()) and bool((shares[1] < 1).all())
    assert torch.equal(shares[2], torch.ones(3))
    points = EmpiricalDenoiser(truth.sample_data(2000, torch.Generator().manual_seed(2)), truth.process)
    assert float(explained_variance(truth, points, x, [3.0])) > 0.99
    assert float(explained_variance(truth, points, x, [0.05])) < 0.5  # it pulls towards its points


def test_an_ansatz_of_another_process_is_the_same_ansatz():
    truth = mixture(VariancePreserving())
    x = truth.sample_data(500, torch.Generator().manual_seed(0))
    fit = GaussianFit.of(x)
    here, there = (fit.denoiser(p) for p in (truth.process, RectifiedFlow()))
    assert torch.allclose(
        explained_variance(truth, here, x, [0.5]), explained_variance(truth, there, x, [0.5])
    )
    with pytest.raises(ValueError, match="does not reach"):
        explained_variance(truth, here, x, [1e6])


# --- kinetic energy


def test_the_energy_of_gaussian_data_is_known():
    """Of N(0, c I) under (1 - t, t): the standard deviation m moves by m' alone, and E|v|^2 / dim = m'^2."""
    c = 0.25
    truth = GaussianDenoiser(torch.zeros(3), c, RectifiedFlow())
    t = (torch.arange(10000) + 0.5) / 10000
    variance = (1 - t) ** 2 * c + t**2
    want = float(((t - (1 - t) * c) ** 2 / variance).mean())
    x = truth.sample_data(4000, torch.Generator().manual_seed(0))
    found = kinetic_energy(truth.process, truth, x)
    assert abs(found.value - want) < 4 * found.standard_error and found.standard_error < 0.02
    half = float((((t - (1 - t) * c) ** 2 / variance)[5000:]).mean()) / 2
    late = kinetic_energy(truth.process, truth, x, first=0.5)
    assert abs(late.value - half) < 4 * late.standard_error and late.standard_error < 0.3 * half


def test_a_process_that_moves_nothing_costs_nothing():
    process = VariancePreserving()
    truth = GaussianDenoiser(torch.zeros(3), 1.0, process)
    x = truth.sample_data(64, torch.Generator().manual_seed(0))
    assert kinetic_energy(process, truth, x).value < 1e-20
    converted = kinetic_energy(RectifiedFlow(), truth, x)
    own = kinetic_energy(RectifiedFlow(), GaussianDenoiser(torch.zeros(3), 1.0, RectifiedFlow()), x)
    assert converted.value == pytest.approx(own.value, rel=1e-3)  # VP ends at a little signal


# --- trajectories


def run(truth, n: int, largest: float = 30.0):
    grid = TimeGrid.log_snr(120, truth.process, largest=largest)
    start = truth.process.prior(torch.zeros(n, 4)).sample(Keyed(0, n))
    return trajectory(Sampler(solvers.DPMSolverPP(), grid=grid), truth, start)


def test_outlines_settle_where_theory_says():
    """Along an axis of variance L the outline is x_0 / sqrt(1 + level^2 / L): half settled at a known level."""
    truth, turn = tilted(VariancePreserving(), mean=0.0)
    path = run(truth, 64, largest=100.0)
    assert path.states.shape == (121, 64, 4) and path.outlines.shape == (120, 64, 4)
    found = path.settled_at(turn)
    left = (path.outlines[0] - path.states[-1]) @ turn.T  # at the first call not all is still to come
    first = left.square().mean(0) / (path.states[-1] @ turn.T).square().mean(0)
    level = 1 / (1 - (0.5 * first).sqrt()) ** 2 - 1
    assert torch.allclose(found, -0.5 * (level * VARIANCES).log(), atol=0.05)
    assert bool((found.diff() > 0).all())


def test_trajectories_turn_in_the_plane_of_their_ends():
    narrow = GaussianDenoiser(torch.full((4,), 2.0), 1e-6, VariancePreserving())
    assert float(run(narrow, 8).plane_share().min()) > 1 - 1e-6  # a point: the rotation is exact
    wide, _ = tilted(VariancePreserving())
    shares = run(wide, 64).plane_share()
    assert 0.9 < float(shares.mean()) < 1 - 1e-4


def test_a_path_that_never_settles_says_so():
    truth, turn = tilted(VariancePreserving())
    path = run(truth, 8)
    short = type(path)(path.half_log_snr[:3], path.states[[0, 1, 2, -1]], path.outlines[:3])
    assert bool(torch.isinf(short.settled_at(turn)).any())


def test_states_without_a_log_snr_are_refused():
    with pytest.raises(ValueError, match="trajectory: needs"):
        trajectory(Sampler(solvers.Ancestral(), 3), table(Absorbing(3)), 2)

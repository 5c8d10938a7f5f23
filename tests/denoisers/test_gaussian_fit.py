"""The Gaussian fit and its flow, against closed forms and automatic differentiation."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Sampler, TimeGrid
from ornstein.denoisers import GaussianFit, NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.processes import RectifiedFlow
from ornstein.solvers import RungeKutta4

from ..exact import AFFINE, covariance


def data(n: int = 400, d: int = 6) -> torch.Tensor:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z @ torch.linalg.cholesky(covariance(d)).T + torch.arange(d)


def dense(fit: GaussianFit) -> torch.Tensor:
    return fit.stretched(torch.eye(fit.mean.numel(), dtype=torch.float64), fit.spectrum)


def test_all_axes_give_the_sample_covariance():
    x = data()
    torch.testing.assert_close(dense(GaussianFit.of(x, 6)), x.T.cov())
    torch.testing.assert_close(GaussianFit.of(x, 6).mean, x.mean(0))


def test_fewer_samples_than_dimensions_give_it_too():
    x = data(5)
    fit = GaussianFit.of(x, 4)
    torch.testing.assert_close(dense(fit), x.T.cov())
    assert fit.rest == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_the_variance_that_the_axes_leave_is_spread_evenly(rank):
    x = data()
    fit, whole = GaussianFit.of(x, rank), x.T.cov()
    torch.testing.assert_close(dense(fit).trace(), whole.trace())
    values = torch.linalg.eigvalsh(whole).flip(0)
    assert fit.rest == pytest.approx(float(values[rank:].mean()))
    torch.testing.assert_close(fit.variances, values[:rank])


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("rank", [0, 3, 6])
def test_the_flow_is_a_semigroup_with_the_jacobian_it_says(name, rank):
    process, fit = AFFINE[name](), GaussianFit.of(data(), rank)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    once = fit.flow(process, x, 0.9, 0.2)
    torch.testing.assert_close(fit.flow(process, fit.flow(process, x, 0.9, 0.5), 0.5, 0.2), once)
    torch.testing.assert_close(fit.flow(process, once, 0.2, 0.9), x)
    torch.testing.assert_close(fit.flow(process, x, 0.4, 0.4), x)
    jacobian = torch.autograd.functional.jacobian(lambda v: fit.flow(process, v[None], 0.9, 0.2)[0], x[0])
    assert fit.log_det(process, 0.9, 0.2) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]))


@pytest.mark.parametrize("name", AFFINE)
def test_it_carries_density_and_agrees_with_its_own_denoiser(name):
    process, fit = AFFINE[name](), GaussianFit.of(data(), 3)
    exact, x = fit.denoiser(process), torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fit.flow(process, x, 0.9, 0.2), exact.flow(x, 0.9, 0.2))
    moved = fit.flow(process, x, 0.9, 0.2)
    carried = exact.log_density(x, 0.9) - fit.log_det(process, 0.9, 0.2)
    torch.testing.assert_close(exact.log_density(moved, 0.2), carried)


def test_a_numerical_solution_converges_to_the_flow():
    process, fit = AFFINE["vp-linear"](), GaussianFit.of(data(), 3)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    solved = Sampler(RungeKutta4(), grid=TimeGrid.uniform(200, 0.9, 0.2))(fit.denoiser(process), x)
    torch.testing.assert_close(solved, fit.flow(process, x, 0.9, 0.2), rtol=1e-7, atol=1e-7)


def test_a_low_rank_is_a_full_rank_with_equal_variances():
    fit, process = GaussianFit.of(data(), 2), AFFINE["flow"]()
    values, axes = torch.linalg.eigh(dense(fit))
    whole = GaussianFit(fit.mean, axes.T, values)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fit.flow(process, x, 1.0, 0.0), whole.flow(process, x, 1.0, 0.0))
    assert fit.log_det(process, 0.9, 0.1) == pytest.approx(whole.log_det(process, 0.9, 0.1))


def test_the_rotation_form_is_exact_only_where_there_is_no_variance():
    """2303.02490: c_s = alpha_s c_0 + sigma_s z along an axis is off by up to sqrt(2)."""
    process = AFFINE["vp-linear"]()
    level, variances = process.at(0.5), torch.tensor([0.0, 0.5, 2.0])
    truth = (level.alpha**2 * variances + level.sigma**2).sqrt()
    rotation = level.alpha * variances.sqrt() + level.sigma
    share = rotation / truth
    assert float(share[0]) == pytest.approx(1.0)
    assert bool((share[1:] > 1).all()) and bool((share <= 2**0.5).all())


def test_scales():
    fit = GaussianFit(torch.zeros(5), torch.eye(5)[:2], torch.tensor([9.0, 4.0]), rest=1.0)
    assert fit.scales == (3.0, 1.0)
    assert GaussianFit(torch.zeros(3), torch.eye(3), torch.tensor([9.0, 4.0, 1.0])).scales == (3.0, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.eye(2), torch.ones(2)), "axes: expected"),
        ((torch.zeros(3), torch.ones(1, 3), torch.ones(1)), "orthonormal"),
        ((torch.zeros(3), torch.eye(3)[:1], -torch.ones(1)), "at least 0"),
        ((torch.zeros(3), torch.eye(3)[:1], torch.ones(1), -1.0), "at least 0"),
    ],
)
def test_what_cannot_be_a_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianFit(*arguments)


@pytest.mark.parametrize(("n", "rank"), [(1, None), (4, 4), (400, 7), (400, -1)])
def test_ranks_that_the_samples_do_not_determine_are_refused(n, rank):
    with pytest.raises(ValueError, match="rank: expected 0 to"):
        GaussianFit.of(data(n), rank)


def test_it_is_saved_with_a_model_and_comes_back(tmp_path):
    model = NetworkDenoiser(ResidualMLP(6, 8), RectifiedFlow(), shape=(6,))
    model.fit = GaussianFit.of(data(), 3)
    model.save_pretrained(tmp_path)
    found = NetworkDenoiser.from_pretrained(tmp_path).fit
    assert found.rest == model.fit.rest
    for name, value in model.fit.tensors.items():
        assert torch.equal(found.tensors[name], value)


def test_a_damaged_file_names_itself(tmp_path):
    model = NetworkDenoiser(ResidualMLP(6, 8), RectifiedFlow(), shape=(6,))
    model.fit = GaussianFit.of(data(), 3)
    path = model.save_pretrained(tmp_path) / "gaussian_fit.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"gaussian_fit\.safetensors"):
        NetworkDenoiser.from_pretrained(tmp_path)

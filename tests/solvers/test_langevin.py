"""Correctors leave q_t as it is: by exact recursions and by detailed balance on a Gaussian."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.denoisers import GaussianDenoiser, MixtureDenoiser
from ornstein.processes import VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM, Langevin, PreconditionedLangevin, ReverseDiffusion, predictor_corrector
from ornstein.solvers.langevin import mean_norm

from ..exact import AFFINE, covariance, gaussian, mixture
from ..processes.test_anchor import MeanReverting, Residual

HERE = 0.4


def _law(solver, truth, x, t=HERE, **fields):
    (step,) = Sampler(solver, grid=TimeGrid([(t, t, solver)])).steps(truth, x, **fields)
    return step.distribution


def _exact(truth, t=HERE):
    """Mean and covariance of q_t for one Gaussian."""
    level = truth.process.at(t)
    values, vectors = truth.values[0], truth.vectors[0]
    spread = level.alpha**2 * values + level.sigma**2
    return level.alpha * truth.means[0], (vectors * spread) @ vectors.T


def test_a_step_by_the_score_stays_bounded_at_a_mode():
    """Where the score vanishes the paper's rule has no bound; here it is 4 steps of the level's."""
    truth = gaussian(AFFINE["vp-linear"]())
    mode = _exact(truth)[0].expand(2, 3).clone()
    law = _law(Langevin(0.2, step="score"), truth, mode)
    longest = math.sqrt(2 * 8) * 0.2 * truth.process.at(HERE).sigma
    torch.testing.assert_close(law.scale.flatten(), torch.full((2,), longest, dtype=torch.float64))


@pytest.mark.parametrize("name", AFFINE)
def test_langevin_is_its_formula(name):
    """2011.13456, algorithms 4 and 5: x + e score + sqrt(2 e) z."""
    process = AFFINE[name]()
    truth, x = mixture(process), torch.randn(5, 3)
    score, sigma = truth(x, HERE).score, process.at(HERE).sigma
    law = _law(Langevin(0.2), truth, x)
    e = 2 * (0.2 * sigma) ** 2
    torch.testing.assert_close(law.mean, x + e * score, rtol=1e-11, atol=1e-12)
    assert law.scale == pytest.approx(math.sqrt(2 * e))
    law = _law(Langevin(0.2, step="score"), truth, x)
    e = 2 * (0.2 * mean_norm(3) / score.norm(dim=1, keepdim=True)) ** 2
    e = e.clamp(max=8 * (0.2 * sigma) ** 2)
    torch.testing.assert_close(law.mean, x + e * score, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(law.scale.expand(5, 3), (2 * e).sqrt().expand(5, 3), rtol=1e-10, atol=0)
    z = (law.sample(Keyed(0, 5)) - law.mean) / law.scale
    assert torch.allclose(law.noise_of(law.mean + law.scale * z), z)  # a proper Normal given x


def test_the_mean_norm_of_a_normal_vector():
    assert float(mean_norm(1)) == pytest.approx(math.sqrt(2 / math.pi))
    z = torch.randn(200_000, 7, generator=torch.Generator().manual_seed(0))
    assert float(mean_norm(7)) == pytest.approx(float(z.norm(dim=1).mean()), rel=3e-3)
    assert float(mean_norm(10**6)) == pytest.approx(1000, rel=1e-5)


@pytest.mark.parametrize("name", AFFINE)
def test_langevin_leaves_a_gaussian_as_the_step_goes_to_0(name):
    """x' = (1 - e H) x + sqrt(2 e) z leaves 1 / (H - e H^2 / 2): the gap of the variance is e H / 2 of it."""
    process, data = AFFINE[name](), 0.6
    level, gaps = process.at(HERE), []
    exact = level.alpha**2 * data + level.sigma**2
    for snr in (0.2, 0.1, 0.05):
        solver = Langevin(snr)
        (row,) = solver.on(process).rows(process, TimeGrid([(HERE, HERE)]))
        kept = row.a + row.b * level.alpha * data / exact
        left = row.scale**2 / (1 - kept**2)
        gaps.append(left / exact - 1)
        e = 2 * (snr * level.sigma) ** 2
        assert left == pytest.approx(1 / (1 / exact - e / exact**2 / 2), rel=1e-9)
    assert gaps[0] / gaps[2] == pytest.approx(16, rel=0.15) and gaps[2] < 0.003


def test_a_step_of_each_samples_own_leaves_another_law():
    """Its stationary density is q / e, e ~ 1 / |score|^2: in one dimension q x^2, of 3 times the variance."""
    process = VariancePreserving()
    truth = GaussianDenoiser(torch.zeros(1), torch.eye(1), process)
    grid, n = TimeGrid([(HERE, HERE)]) * 400, 4000
    start = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    own = Sampler(Langevin(0.1, step="score"), grid=grid)(truth, start, seed=1)
    level = Sampler(Langevin(0.1), grid=grid)(truth, start, seed=1)
    assert float(level.var()) == pytest.approx(1.0, abs=0.08)
    assert float(own.var()) > 1.5
    high = GaussianDenoiser(torch.zeros(64), torch.eye(64), process)  # in many dimensions the two meet
    start = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    own = Sampler(Langevin(0.1, step="score"), grid=grid)(high, start, seed=1)
    assert float(own.var()) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(("step", "damping"), [(0.1, 0.0), (1.0, 0.0), (0.5, 0.3), (1.5, 1.0), (1.9, 10.0)])
@pytest.mark.parametrize("name", AFFINE)
def test_newton_langevin_leaves_a_gaussian_exactly(name, step, damping):
    """Detailed balance, q(x) K(x' | x) = q(x') K(x | x'), for every step and damping, to rounding."""
    process = AFFINE[name]()
    truth = GaussianDenoiser(torch.linspace(-1.0, 1.5, 3), covariance(3), process)
    x, solver = torch.randn(6, 3), PreconditionedLangevin(step, damping)
    law = _law(solver, truth, x)
    there = law.sample(Keyed(3, 6))
    back = _law(solver, truth, there)
    forth = truth.log_density(x, HERE) + law.log_prob(there)
    torch.testing.assert_close(
        truth.log_density(there, HERE) + back.log_prob(x), forth, rtol=1e-10, atol=1e-8
    )


def test_newton_langevin_reaches_a_gaussian_in_one_step_without_damping():
    process = VariancePreserving()
    truth = GaussianDenoiser(torch.linspace(-1.0, 1.5, 3), covariance(3), process)
    law = _law(PreconditionedLangevin(1.0, 0.0), truth, 50 * torch.randn(4, 3))
    mean, spread = _exact(truth)
    torch.testing.assert_close(law.mean, mean.expand(4, 3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        law.scale.matrix @ law.scale.matrix.mT, spread.expand(4, 3, 3), rtol=1e-9, atol=1e-10
    )


def test_newton_langevin_is_the_dense_formula_on_a_mixture():
    process = VariancePreserving()
    plain = mixture(process)
    truth = MixtureDenoiser(
        [0.5, 0.3, 0.2],
        plain.means,
        torch.stack([covariance(3, k) * 0.3 for k in range(3)]),
        process,
        variance=True,
    )
    x = torch.randn(4, 3)
    law, level = _law(PreconditionedLangevin(0.4, 0.2), truth, x), process.at(HERE)
    for i in range(4):
        score = torch.func.grad(lambda v: truth.log_density(v[None], HERE)[0])(x[i])
        hessian = torch.func.hessian(lambda v: truth.log_density(v[None], HERE)[0])(x[i])
        values, vectors = torch.linalg.eigh(-hessian)
        steep = (vectors * values.abs()) @ vectors.T
        m = torch.linalg.inv(steep + 0.2 / level.sigma**2 * torch.eye(3))
        torch.testing.assert_close(law.mean[i], x[i] + 0.4 * m @ score, rtol=1e-8, atol=1e-9)
        spread = 0.4 * m @ (2 * torch.eye(3) - 0.4 * steep @ m)
        root = law.scale.matrix[i]
        torch.testing.assert_close(root @ root.T, spread, rtol=1e-8, atol=1e-10)


def test_newton_langevin_takes_a_variance_per_entry():
    process = VariancePreserving()
    full = GaussianDenoiser(torch.zeros(3), torch.diag(torch.tensor([0.01, 1.0, 4.0])), process)

    class Entries(GaussianDenoiser):
        def forward(self, x, t, condition=None, step=None):
            posterior = super().forward(x, t, condition, step)
            posterior.variance = torch.diagonal(posterior.variance, dim1=1, dim2=2)
            return posterior

    entries = Entries(torch.zeros(3), torch.diag(torch.tensor([0.01, 1.0, 4.0])), process)
    x = torch.randn(4, 3)
    whole, each = (_law(PreconditionedLangevin(0.4), d, x) for d in (full, entries))
    torch.testing.assert_close(each.mean, whole.mean)
    matrix = whole.scale.matrix
    torch.testing.assert_close(torch.diag_embed(each.scale**2), matrix @ matrix.mT, rtol=1e-9, atol=1e-12)


def test_a_corrector_pulls_a_wrong_state_to_the_law():
    process = VarianceExploding(0.01, 50.0)
    truth, n = gaussian(process), 4000
    level = process.at(HERE)
    data = truth.sample_data(n, torch.Generator().manual_seed(0))
    x = data + 1.5 * level.sigma * torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    end = Sampler(Langevin(0.3), grid=TimeGrid([(HERE, HERE)]) * 100)(truth, x, seed=Keyed(0, n))
    _, exact = _exact(truth)
    torch.testing.assert_close(end.T.cov(), exact, rtol=0.15, atol=0.05)


def test_predictor_corrector_is_rows_of_a_grid():
    process = VariancePreserving()
    corrector, grid = Langevin(), TimeGrid.through([1.0, 0.6, 0.3, 0.0])
    made = predictor_corrector(grid, corrector, times=2)
    made.check()
    assert [(r.t, r.s) for r in made if r.solver is None] == [(r.t, r.s) for r in grid]
    assert [r.t for r in made if r.solver is corrector] == [0.6, 0.6, 0.3, 0.3]
    *_, last = Sampler(ReverseDiffusion(), grid=made).steps(mixture(process), 3)
    assert last.evaluations == 3 + 4 and torch.isfinite(last.next).all()


def test_predictor_corrector_mends_the_marginal_of_the_predictor():
    """Exact recursion: with correctors the variance is closer to the data's than with the predictor's rows alone."""
    process, data = VarianceExploding(0.01, 50.0), 0.6
    grid = TimeGrid.log_snr(20, process)
    found = []
    for made in (grid, predictor_corrector(grid, Langevin(0.4))):
        variance = process.at(1.0).sigma ** 2 + data
        for solver, row in Sampler(ReverseDiffusion(), grid=made).program(process):
            assert solver.stochastic
            level = process.at(row.t)
            k = level.alpha * data / (level.alpha**2 * data + level.sigma**2)
            variance = (row.a + row.b * k) ** 2 * variance + row.scale**2
        found.append(abs(variance - data))
    assert found[1] < 0.5 * found[0]


def test_correctors_know_the_anchor():
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    process = MeanReverting()
    truth, x = Residual(process), torch.randn(6, 3)
    law = _law(Langevin(0.2), truth, x, anchor=y)
    from ornstein.core import Condition

    score = truth(x, HERE, Condition({"anchor": y})).score
    e = 2 * (0.2 * process.at(HERE).sigma) ** 2
    torch.testing.assert_close(law.mean, x + e * score, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Langevin(0.0), "snr"),
        (lambda: Langevin(step="own"), "step"),
        (lambda: PreconditionedLangevin(2.0), "step"),
        (lambda: PreconditionedLangevin(damping=-1.0), "damping"),
        (lambda: predictor_corrector(TimeGrid.uniform(3), Langevin(), 0), "times"),
        (lambda: Sampler(Langevin(), 4).program(VariancePreserving()), "moves"),
        (lambda: Sampler(Langevin(), grid=TimeGrid([(0.0, 0.0)])).program(VariancePreserving()), "no noise"),
        (
            lambda: _law(PreconditionedLangevin(), mixture(VariancePreserving()), torch.randn(2, 3)),
            "no variance",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_corrector_works_with_vector_time():
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(2, 3)
    t = torch.tensor([0.3, 0.6])
    for solver in (Langevin(), Langevin(step="score")):
        both = _law(solver, truth, x, t)
        for i in range(2):
            one = _law(solver, truth, x[i : i + 1], float(t[i]))
            torch.testing.assert_close(both.mean[i : i + 1], one.mean, rtol=1e-10, atol=1e-10)
    assert DDIM().order == 1

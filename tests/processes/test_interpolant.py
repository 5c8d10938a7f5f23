"""Two-sided interpolants: identities, closed forms, marginals, and what other processes they reduce to."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from ornstein.core import AffineProcess, Condition, Keyed, Posterior, Sampler, TimeGrid, align
from ornstein.denoisers import InterpolantMixture, MixtureDenoiser
from ornstein.processes import GaussianMixture, Interpolant, Points, RectifiedFlow
from ornstein.processes.divergence import divergence, gradient
from ornstein.processes.interpolant import PATHS, SQUARED_GAMMAS
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Euler, FreeDiffusion, Heun, RungeKutta4, Stochastic

KINDS = [
    (path, gamma)
    for path in PATHS
    for gamma in SQUARED_GAMMAS
    if (path, gamma) not in (("trigonometric", "sine-squared"), ("encoding-decoding", "zero"))
]


def data() -> GaussianMixture:
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.4]]])
    return GaussianMixture([0.4, 0.6], torch.tensor([[2.0, 1.0], [-1.0, -1.5]]), covariances)


def base() -> GaussianMixture:
    return GaussianMixture([0.5, 0.5], torch.tensor([[-2.0, 2.0], [2.0, -2.0]]), [0.2, 0.5])


def exact(path: str = "linear", gamma: str = "brownian", **options) -> InterpolantMixture:
    return InterpolantMixture(data(), Interpolant(path, gamma, base=base(), **options))


def _moments(x):
    return torch.cat([x.mean(0), x.T.cov().flatten()])


@pytest.mark.parametrize(("path", "gamma"), KINDS)
def test_ends_are_the_two_laws_and_slopes_are_finite_there(path, gamma):
    process = Interpolant(path, gamma)
    assert process.at(0.0) == pytest.approx((1, 0, 0), abs=1e-15)
    assert process.at(1.0) == pytest.approx((0, 1, 0), abs=1e-15)
    t = torch.linspace(0, 1, 11)
    slopes = process.slopes(t)
    assert all(torch.isfinite(v).all() for v in slopes)
    inside, h = t[1:-1] + 0.013, 1e-6
    for name, square in (("alpha", 1), ("anchor", 1), ("sigma", 2)):
        high, low = (getattr(process.at(inside + sign * h), name) ** square for sign in (1, -1))
        slope = getattr(process.slopes(inside), name)
        torch.testing.assert_close((high - low) / (2 * h) / square, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.8, 1.0, None])
@pytest.mark.parametrize(("path", "gamma"), KINDS)
def test_the_state_is_made_of_its_three_estimates_and_the_2x2_system_gives_them_back(path, gamma, t):
    model, x = exact(path, gamma), torch.randn(6, 2)
    t = torch.linspace(0, 1, 6) if t is None else t
    posterior, level = model(x, t), model.process.at(t)
    alpha, beta, sigma = (align(v, x) for v in level)
    rebuilt = alpha * posterior.mean + beta * posterior.end + sigma * posterior.noise
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-12)
    slope = model.process.slopes(t)
    flow = align(slope.alpha, x) * posterior.mean + align(slope.anchor, x) * posterior.end
    flow = flow - align(slope.sigma, x) * posterior.score
    torch.testing.assert_close(posterior.velocity, flow, rtol=0, atol=1e-12)
    if path != "encoding-decoding":
        x_0, y = model.process.solved(x, posterior.velocity, posterior.score, t)
        torch.testing.assert_close(x_0, posterior.mean, rtol=0, atol=1e-11)
        torch.testing.assert_close(y, posterior.end, rtol=0, atol=1e-11)


def test_where_the_system_is_singular_the_end_that_shows_is_found_and_the_other_is_zero():
    model, x = exact("encoding-decoding"), torch.randn(4, 2)
    for t in (0.2, 0.5, 0.9):
        posterior = model(x, t)
        x_0, y = model.process.solved(x, posterior.velocity, posterior.score, t)
        shown, expected, hidden = (x_0, posterior.mean, y) if t < 0.5 else (y, posterior.end, x_0)
        assert (hidden == 0).all()
        torch.testing.assert_close(shown, expected if t != 0.5 else 0 * x, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("path", "gamma"), [("linear", "brownian"), ("trigonometric", "quadratic")])
def test_closed_forms_are_conditional_means_of_the_simulated_path(path, gamma):
    """E[. | x_t] by regression: moments of every residual against functions of x_t vanish."""
    model, n, t = exact(path, gamma), 400_000, 0.35
    generator = torch.Generator().manual_seed(0)
    x_0, y = data().sample(n, generator), base().sample(n, generator)
    z = torch.randn(n, 2, generator=generator)
    alpha, beta, sigma = model.process.at(t)
    x = alpha * x_0 + beta * y + sigma * z
    posterior, slope = model(x, t), model.process.slopes(t)
    velocity = slope.alpha * x_0 + slope.anchor * y + slope.sigma / sigma * z
    tests = torch.stack([torch.ones(n), x[:, 0], x[:, 1], torch.sin(x[:, 0]), torch.cos(x[:, 1])])
    pairs = ((posterior.mean, x_0), (posterior.end, y), (posterior.noise, z), (posterior.velocity, velocity))
    for found, target in pairs:
        residual = (tests @ (target - found)) / n
        error = (tests.unsqueeze(-1) * (target - found)).std(1) / math.sqrt(n)
        assert (residual.abs() < 4.5 * error).all()


@pytest.mark.parametrize(("path", "gamma"), KINDS)
def test_the_exact_score_and_velocity_solve_the_continuity_equation(path, gamma):
    """d_t log q + div b + b . grad log q = 0, and the score is grad log q."""
    model = exact(path, gamma)
    x = torch.randn(8, 2, requires_grad=True)
    t = torch.linspace(0.05, 0.95, 8).requires_grad_()
    log_q = _log_density(model, x, t)
    rate, score = gradient(log_q, t), gradient(log_q, x)
    posterior = model(x, t)
    torch.testing.assert_close(posterior.score, score, rtol=1e-9, atol=1e-9)
    spread = divergence(posterior.velocity, x)[0]
    residual = rate + spread + (posterior.velocity * score).sum(1)
    torch.testing.assert_close(residual, torch.zeros(8), rtol=0, atol=1e-9)


def _log_density(model, x, t):
    return model.log_density(x, t)


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0, lambda t: 2 * t * (1 - t)])
@pytest.mark.parametrize("path", ["linear", "encoding-decoding"])
def test_marginals_agree_for_every_diffusion(path, epsilon):
    model, n = exact(path), 2000
    truth = _moments(data().sample(400_000, torch.Generator().manual_seed(1)))
    found = Sampler(FreeDiffusion(epsilon, order=2), 50)(model, n, seed=0)
    torch.testing.assert_close(_moments(found), truth, rtol=0, atol=0.2)
    log_p = data().log_density(found).mean()
    assert float(log_p) == pytest.approx(float(data().log_density(data().sample(100_000)).mean()), abs=0.1)


def test_it_goes_up_too_and_the_flow_comes_back_where_it_started():
    model, x = exact(), data().sample(1000, torch.Generator().manual_seed(0))
    up = TimeGrid.uniform(60, first=0.0, last=1.0)
    encoded = Sampler(FreeDiffusion(0.3, order=2), grid=up)(model, x)
    expected = _moments(base().sample(400_000, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(_moments(encoded), expected, rtol=0, atol=0.25)
    there = Sampler(FreeDiffusion(0.0, order=2), grid=up)(model, x)
    back = Sampler(FreeDiffusion(0.0, order=2), 60)(model, there)
    assert (back - x).norm(dim=1).median() < 4e-3


def test_without_latent_noise_and_with_pairs_it_is_rectified_flow_between_them():
    process = Interpolant(gamma="zero")
    x_0, y = torch.randn(5, 3), torch.randn(5, 3)
    law = process.marginal(x_0, 0.3, Condition({"anchor": y}))
    torch.testing.assert_close(law.mean, 0.7 * x_0 + 0.3 * y)
    assert law.scale == 0.0
    slope = process.slopes(0.3)
    torch.testing.assert_close(slope.alpha * x_0 + slope.anchor * y, y - x_0)


class _Trigonometric(AffineProcess):
    def schedule(self, t):
        return torch.cos(0.5 * math.pi * t), torch.zeros_like(t), torch.sin(0.5 * math.pi * t)


@pytest.mark.parametrize("one_sided", [("linear", RectifiedFlow), ("trigonometric", _Trigonometric)])
def test_one_sided_with_a_normal_base_is_the_diffusion_of_that_schedule(one_sided):
    """Linear is conditional flow matching with OT paths, trigonometric preserves variance."""
    path, process = one_sided
    model = InterpolantMixture(data(), Interpolant(path, "zero"))
    law = data()
    known = MixtureDenoiser(law.weights, law.means, law.covariances, process())
    for t in (0.1, 0.5, 0.9):
        x = torch.randn(6, 2)
        ours, theirs = model(x, t), known(x, t)
        for name in ("mean", "score", "velocity"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.end, theirs.noise, rtol=1e-9, atol=1e-9)


def test_a_base_that_is_one_point_is_the_affine_process_with_that_anchor():
    y, x = torch.tensor([1.0, -2.0]), torch.randn(6, 2)

    class Bridge(AffineProcess):
        anchored, fields = True, frozenset({"anchor"})

        def schedule(self, t):
            return 1 - t, t, (t * (1 - t)).sqrt()

    point = GaussianMixture([1.0], y[None], 1e-14)
    law = data()
    model = InterpolantMixture(law, Interpolant(base=point))
    for t in (0.2, 0.6, 0.9):
        posterior, process = model(x, t), Bridge()
        shifted = (x - t * y) / (1 - t)  # x_0 seen through noise of variance t / (1 - t)
        plain = MixtureDenoiser(law.weights, law.means, law.covariances, _Seen(t / (1 - t)))
        torch.testing.assert_close(posterior.mean, plain(shifted, 0.5).mean, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(posterior.end, y.expand(6, 2), rtol=1e-7, atol=1e-7)
        condition = Condition({"anchor": y.expand(6, 2)})
        known = Posterior(process, x, t, posterior.mean, condition=condition)
        for name in ("noise", "score", "velocity"):
            torch.testing.assert_close(getattr(posterior, name), getattr(known, name), rtol=1e-6, atol=1e-6)
        ours = Interpolant().marginal(x, t, condition)
        theirs = process.marginal(x, t, condition)
        torch.testing.assert_close(ours.mean, theirs.mean)
        assert ours.scale == pytest.approx(theirs.scale, abs=1e-15)


class _Seen(AffineProcess):
    def __init__(self, variance):
        super().__init__()
        self.variance = variance

    def schedule(self, t):
        return torch.ones_like(t), torch.zeros_like(t), torch.full_like(t, self.variance**0.5)


# --- solvers


def _run(solver, steps):
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(3))
    return Sampler(solver, grid=TimeGrid.uniform(steps, 0.95, 0.05))(exact(), x)


@functools.cache
def _truth():
    return _run(RungeKutta4(), 128)


def _gap(solver, steps):
    return float((_run(solver, steps) - _truth()).norm(dim=1).median())


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (FreeDiffusion(), 1),
        (FreeDiffusion(order=2), 2),
        (Euler(), 1),
        (Heun(), 2),
        (RungeKutta4(), 4),
        (DDIM(), 1),
    ],
    ids=repr,
)
def test_solvers_that_read_the_other_end_anew_at_each_call_keep_their_order(solver, order):
    assert math.log2(_gap(solver, 20) / _gap(solver, 40)) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("solver", [Stochastic(0.5), Ancestral()], ids=repr)
def test_stochastic_steps_keep_the_marginals_from_the_very_end(solver):
    found = Sampler(solver, 150)(exact(), 2000, seed=1)
    truth = _moments(data().sample(400_000, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(_moments(found), truth, rtol=0, atol=0.25)


def test_stochastic_steps_are_refused_where_the_path_has_no_noise_to_draw_anew():
    for path, gamma in (("encoding-decoding", "sine-squared"), ("linear", "sine-squared")):
        with pytest.raises(ValueError, match="FreeDiffusion"):
            Sampler(Stochastic(1.0), 10)(exact(path, gamma), 2)


@pytest.mark.parametrize(
    ("solver", "why"),
    [
        (Euler(), "no deterministic step|gamma = 0 at t=1.0"),
        (Heun(), "no deterministic step|gamma = 0 at t=1.0"),
        (DDIM(), "no deterministic step"),
        (DPMSolverPP(), "no deterministic step|latent"),
    ],
    ids=repr,
)
def test_what_cannot_start_from_an_end_says_so(solver, why):
    with pytest.raises(ValueError, match=why):
        Sampler(solver, 5)(exact(), 2)


def test_solvers_built_on_the_log_snr_are_refused_inside_too():
    with pytest.raises(ValueError, match="latent"):
        Sampler(DPMSolverPP(), grid=TimeGrid.uniform(5, 0.9, 0.1))(exact(), torch.randn(2, 2))
    for name in ("half_log_snr", "time_at", "drift_and_diffusion"):
        with pytest.raises(ValueError, match="latent"):
            getattr(exact().process, name)(0.5)


# --- the base


@pytest.mark.parametrize("kind", ["normal", "mixture", "points"])
def test_runs_start_from_the_base_row_by_row(kind):
    cloud = base().sample(50, torch.Generator().manual_seed(0))
    given = {"normal": None, "mixture": base(), "points": cloud}[kind]
    law = Interpolant(base=given).prior(torch.zeros(5000, 2))
    drawn = law.sample(Keyed(0, 5000))
    mean = {"normal": torch.zeros(2), "mixture": torch.zeros(2), "points": cloud.mean(0)}[kind]
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.15)
    one = Interpolant(base=given).prior(torch.zeros(1, 2)).sample(Keyed(0, torch.tensor([7])))
    assert torch.equal(one[0], drawn[7])
    assert law.sample(Keyed(0, 5000), (3,)).shape == (3, 5000, 2)
    if kind == "points":
        assert torch.isin(drawn[:, 0], cloud[:, 0]).all()


def test_a_mixtures_density_is_that_of_its_draws():
    law, prior = base(), Interpolant(base=base()).prior(torch.zeros(4, 2))
    x = torch.randn(4, 2)
    known = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(law.weights),
        torch.distributions.MultivariateNormal(law.means, law.covariances),
    ).log_prob(x)
    torch.testing.assert_close(law.log_density(x), known)
    torch.testing.assert_close(prior.log_prob(x), known)


def test_a_mean_that_a_guide_moved_moves_the_noise():
    model, x = exact(), torch.randn(4, 2)
    posterior = model(x, 0.4)
    moved = posterior.with_mean(posterior.mean + 0.1)
    level, slope = model.process.at(0.4), model.process.slope(0.4)
    rebuilt = level.alpha * moved.mean + level.anchor * moved.end + level.sigma * moved.noise
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-12)
    flow = slope.alpha * moved.mean + slope.anchor * moved.end + slope.sigma * moved.noise
    torch.testing.assert_close(moved.velocity, flow, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[1:3].velocity, flow[1:3], rtol=0, atol=1e-12)


def test_wrong_settings_are_refused():
    for options, why in (
        ({"path": "liner"}, "Did you mean 'linear'"),
        ({"gamma": "brown"}, "unknown gamma"),
        ({"variance": 0.0}, "variance"),
        ({"path": "trigonometric", "gamma": "sine-squared"}, "gamma below 1"),
        ({"path": "encoding-decoding", "gamma": "zero"}, "noise alone"),
        ({"base": torch.zeros(3)}, "base"),
    ):
        with pytest.raises(ValueError, match=why):
            Interpolant(**options)
    with pytest.raises(ValueError, match="not samples"):
        InterpolantMixture(data(), Interpolant(base=torch.zeros(3, 2)))
    with pytest.raises(ValueError, match="covariances"):
        GaussianMixture([1.0], torch.zeros(1, 2), -1.0)
    with pytest.raises(ValueError, match="uniform"):
        Sampler(FreeDiffusion(), 4, grid="karras")(exact(), 2)
    with pytest.raises(ValueError, match="epsilon"):
        FreeDiffusion(-1.0)
    with pytest.raises(ValueError, match="shape"):
        Points(torch.zeros(3, 2), torch.zeros(1, 4))

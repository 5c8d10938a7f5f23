"""Presets of the affine family beyond the first four: their papers' formulas, their ends, their inverses."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Condition, Keyed
from ornstein.denoisers import EmpiricalDenoiser
from ornstein.processes import (
    EDM,
    OUVE,
    BrownianBridge,
    GeometricBrownian,
    KineticOptimal,
    MeanReverting,
    SubVariancePreserving,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)

LEVELS = [10 ** (k / 10) for k in range(-30, 31)]
PRESETS = {
    "sub-vp": SubVariancePreserving,
    "trigonometric": Trigonometric,
    "edm": EDM,
    "mr-cosine": MeanReverting,
    "mr-linear": lambda: MeanReverting("linear", 0.3),
    "mr-constant": lambda: MeanReverting("constant", 1.0, 0.01),
    "ouve": OUVE,
    "bridge": lambda: BrownianBridge(0.7),
    "geometric": lambda: GeometricBrownian(2.0, 0.5),
    "kinetic": lambda: KineticOptimal(LEVELS, [s**4 / (1 + s**4) for s in LEVELS]),
    "pinned": lambda: VariancePreserving().pin(Y, 1.0),
}
N = 5
TIMES = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
Y = torch.randn(N, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
GIVEN = Condition({"anchor": Y})


@pytest.fixture(params=PRESETS)
def process(request):
    return PRESETS[request.param]()


def test_f_c_and_g_are_the_derivatives_of_the_schedule(process):
    f, c, g = process.drift_and_diffusion(TIMES)
    e = 1e-6
    here, ahead, behind = (process.at(TIMES + d) for d in (0.0, e, -e))
    rates = [(a - b) / (2 * e) for a, b in zip(ahead, behind, strict=True)]
    torch.testing.assert_close(rates[0], f * here.alpha, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rates[1], f * here.anchor + c, rtol=1e-6, atol=1e-6)
    variance = (ahead.sigma**2 - behind.sigma**2) / (2 * e)
    torch.testing.assert_close(variance, 2 * f * here.sigma**2 + g**2, rtol=1e-5, atol=1e-6)


def test_time_at_inverts_half_log_snr(process):
    wanted = process.half_log_snr(TIMES)
    assert bool((wanted.diff() < 0).all())
    torch.testing.assert_close(process.time_at(wanted), TIMES, rtol=1e-9, atol=1e-9)
    assert process.time_at(float(wanted[7])) == pytest.approx(float(TIMES[7]), abs=1e-9)


def test_kernels_compose_and_the_bridge_is_bayes_rule(process):
    first, second, whole = (process.forward_step(t, s) for t, s in ((0.2, 0.5), (0.5, 0.8), (0.2, 0.8)))
    assert first.a * second.a == pytest.approx(whole.a)
    assert first.c * second.a + second.c == pytest.approx(whole.c, abs=1e-12)
    assert (second.a * first.scale) ** 2 + second.scale**2 == pytest.approx(whole.scale**2)
    x_0, x_t = torch.randn(N, 2), torch.randn(N, 2)
    bridge = process.bridge(x_t, x_0, 0.7, 0.3, GIVEN)
    for seed in range(2):
        x_s = bridge.sample(Keyed(seed, N))
        joint = process.marginal(x_0, 0.3, GIVEN).log_prob(x_s)
        joint = joint + process.kernel(x_s, 0.3, 0.7, GIVEN).log_prob(x_t) - bridge.log_prob(x_s)
        torch.testing.assert_close(joint, process.marginal(x_0, 0.7, GIVEN).log_prob(x_t))


def test_views_round_trip(process):
    x, mean = torch.randn(N, 2), torch.randn(N, 2)
    for t in (0.2, 0.8):
        from ornstein.core import Posterior

        posterior = Posterior(process, x, t, mean, condition=GIVEN)
        for view in ("noise", "score", "velocity"):
            again = process.mean_from(view, x, getattr(posterior, view), t, GIVEN)
            torch.testing.assert_close(again, mean, rtol=1e-9, atol=1e-9)


def test_numbers_are_finite_at_both_ends_and_every_grid_is_built(process):
    assert process.at(0.0).alpha == pytest.approx(1.0, abs=1e-12)
    assert process.at(0.0).sigma == 0 and process.at(0.0).anchor == 0
    for t, s in ((1.0, 0.5), (0.5, 0.0), (1.0, 0.0)):
        assert all(math.isfinite(v) for v in process.step(t, s, 1.0))
        assert all(math.isfinite(v) for v in process.step(t, s, 0.4))
    for kind in (None, "log-snr", "karras", "uniform"):
        grid = process.grid(kind, 6)
        assert len(grid) == 6 and grid[0].t == 1.0 and grid[-1].s == 0.0
        assert all(r.t > r.s for r in grid)
    assert all(math.isfinite(v) for v in process.drift_and_diffusion(1.0))


def test_the_prior_is_the_law_at_time_1_of_data_at_the_anchor(process):
    """At 0 where there is no anchor, or one of ones that the data are not near."""
    near = process.anchored and not isinstance(process, GeometricBrownian)
    prior, law = process.prior(Y, GIVEN), process.marginal(Y if near else torch.zeros(N, 2), 1.0, GIVEN)
    assert prior.scale == law.scale
    torch.testing.assert_close(prior.mean, law.mean)


def test_sub_vp_is_the_papers():
    """2011.13456: f = -rate/2, g^2 = rate (1 - exp(-2 int rate)), sigma = 1 - exp(-int rate)."""
    process, vp = SubVariancePreserving(), VariancePreserving()
    f, _, g = process.drift_and_diffusion(TIMES)
    rate = 0.1 + TIMES * 19.9
    integral = 0.1 * TIMES + 0.5 * TIMES**2 * 19.9
    torch.testing.assert_close(f, -0.5 * rate)
    torch.testing.assert_close(g**2, rate * (1 - torch.exp(-2 * integral)))
    torch.testing.assert_close(process.at(TIMES).sigma, 1 - torch.exp(-integral))
    assert bool((process.at(TIMES).sigma <= vp.at(TIMES).sigma).all())


@pytest.mark.parametrize("theta", ["cosine", "linear", "constant"])
def test_mean_reversion_is_irsde(theta):
    """dx = theta (y - x) dt + sigma dW with sigma^2 / theta = 2 sigma_inf^2, ending at alpha = last_alpha."""
    process = MeanReverting(theta, 50 / 255, 0.005)
    f, c, g = process.drift_and_diffusion(TIMES)
    torch.testing.assert_close(c, -f)
    torch.testing.assert_close(g**2, 2 * (50 / 255) ** 2 * c)
    assert process.at(1.0).alpha == pytest.approx(0.005)
    assert process.prior(Y, GIVEN).mean.equal(Y) or torch.allclose(process.prior(Y, GIVEN).mean, Y)
    shape = {"constant": TIMES**0, "linear": 1 + 199 * TIMES}.get(theta)
    if shape is None:  # theta of the released code: 1 - alpha_bar of the cosine schedule
        angle = math.pi / 2 * (TIMES + 0.008) / 1.008
        shape = 1 - (angle.cos() / math.cos(math.pi / 2 * 0.008 / 1.008)) ** 2
    torch.testing.assert_close(c / c[-1], shape / shape[-1], rtol=1e-8, atol=1e-8)


def test_mean_reverting_is_vp_of_the_residual():
    """With anchor_weight = 1 - alpha, (x - y) / sigma_inf preserves variance."""
    level = MeanReverting("constant", 0.3).at(TIMES)
    torch.testing.assert_close(level.alpha**2 + (level.sigma / 0.3) ** 2, torch.ones(19))
    torch.testing.assert_close(level.alpha + level.anchor, torch.ones(19))


def test_ouve_is_the_papers():
    """2208.05830: drift stiffness (y - x), g = sigma_min r^t sqrt(2 log r)."""
    f, c, g = OUVE(1.5, 0.05, 0.5).drift_and_diffusion(TIMES)
    torch.testing.assert_close(f, torch.full_like(f, -1.5))
    torch.testing.assert_close(c, torch.full_like(f, 1.5))
    torch.testing.assert_close(g, 0.05 * 10**TIMES * math.sqrt(2 * math.log(10.0)))


def test_geometric_brownian_motion_in_the_logarithm_and_in_x_are_one_path():
    """(a) of its family file: X by its exact kernel from the same noise, step by step."""
    process, x = GeometricBrownian(0.8, 0.3), torch.rand(N, 2) + 0.5
    log_x, times = x.log(), [0.0, 0.1, 0.45, 1.0]
    for i in range(3):
        t, s = times[i], times[i + 1]
        law = process.kernel(log_x, t, s)
        z = law.noise(Keyed(i, N))
        log_x = law.transform(z)
        x = x * torch.exp((0.3 - 0.5 * 0.8**2) * (s - t) + 0.8 * math.sqrt(s - t) * z)
        torch.testing.assert_close(log_x.exp(), x, rtol=1e-12, atol=0)


def test_edm_is_variance_exploding_on_another_clock():
    edm, ve = EDM(50.0), VarianceExploding(0.01, 50.0)
    t = ve.time_at(torch.tensor([-3.0, 0.0, 2.0]))
    torch.testing.assert_close(edm.at(edm.time_at(ve.half_log_snr(t))).sigma, ve.at(t).sigma)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanReverting("cosin"), "Did you mean 'cosine'"),
        (lambda: MeanReverting(sigma_inf=0.0), "sigma_inf > 0"),
        (lambda: OUVE(0.0), "stiffness > 0"),
        (lambda: BrownianBridge(-1.0), "scale: expected"),
        (lambda: EDM(0.0), "sigma_max"),
        (lambda: GeometricBrownian(0.0), "volatility"),
        (lambda: SubVariancePreserving(1.0, 0.5), "rates"),
        (lambda: KineticOptimal([1.0, 2.0], [0.5, 0.4]), "never fall"),
        (lambda: KineticOptimal([2.0, 1.0], [0.5, 0.6]), "levels: expected rising"),
        (lambda: KineticOptimal([1.0, 2.0], [0.5, 0.6], least=0.0), "least: expected"),
    ],
)
def test_wrong_numbers_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_velocity_of_the_flow_is_the_mean_of_the_paths_velocities(process):
    """principles (d): E[alpha' x_0 + b' y + sigma' z | x_t], over the points that may have led to x_t."""
    points = torch.randn(7, 2)
    truth, x, t = EmpiricalDenoiser(points, process), torch.randn(N, 2), 0.4
    posterior = truth(x, t, GIVEN)
    level, slope = process.at(t), process.slope(t)
    y = process.end(GIVEN) if process.anchored else torch.zeros(())
    z = ((x - level.anchor * y).unsqueeze(1) - level.alpha * points) / level.sigma
    paths = slope.alpha * points + slope.sigma * z + (slope.anchor * y).expand(N, 2).unsqueeze(1)
    weights = posterior.heads["responsibilities"].unsqueeze(-1)
    torch.testing.assert_close(posterior.velocity, (weights * paths).sum(1), rtol=1e-9, atol=1e-9)

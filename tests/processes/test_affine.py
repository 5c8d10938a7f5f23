from __future__ import annotations

import itertools
import math

import pytest
import torch

from ornstein.core import Keyed, TimeGrid
from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving

from ..exact import AFFINE, gaussian

TIMES = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)


@pytest.fixture(params=AFFINE)
def process(request):
    return AFFINE[request.param]()


def test_drift_and_diffusion_are_the_papers():
    """Song et al. 2020, 2011.13456, eqs. 9, 11 and appendix B."""
    f, _, g = VariancePreserving().drift_and_diffusion(TIMES)
    rate = 0.1 + TIMES * 19.9
    torch.testing.assert_close(f, -rate / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(g, rate.sqrt(), rtol=1e-10, atol=0)
    f, _, g = VarianceExploding(0.01, 50.0).drift_and_diffusion(TIMES)
    torch.testing.assert_close(f, torch.zeros(4))
    torch.testing.assert_close(g, 0.01 * 5000**TIMES * math.sqrt(2 * math.log(5000)), rtol=1e-10, atol=0)
    f, _, g = RectifiedFlow().drift_and_diffusion(TIMES)
    torch.testing.assert_close(f, -1 / (1 - TIMES))
    torch.testing.assert_close(g**2, 2 * TIMES / (1 - TIMES))


def test_drift_and_diffusion_are_the_derivatives_of_the_marginals(process):
    """Of the moments themselves, by central differences: m' = f m and (sigma^2)' = 2 f sigma^2 + g^2."""
    f, _, g = process.drift_and_diffusion(TIMES)
    e = 1e-5
    (a, _, s), (a0, _, s0), (a1, _, s1) = (process.schedule(TIMES + d) for d in (0.0, -e, e))
    torch.testing.assert_close((a1 - a0) / (2 * e), f * a, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close((s1**2 - s0**2) / (2 * e), 2 * f * s**2 + g**2, rtol=1e-5, atol=1e-8)


def test_slopes_are_the_derivatives_of_the_schedule(process):
    for t in TIMES.tolist():
        level, slope = process.at(t), process.slope(t)
        ahead, behind = process.at(t + 1e-6), process.at(t - 1e-6)
        assert slope.alpha == pytest.approx((ahead.alpha - behind.alpha) / 2e-6, rel=1e-5, abs=1e-8)
        assert slope.sigma == pytest.approx((ahead.sigma - behind.sigma) / 2e-6, rel=1e-5, abs=1e-8)
        assert isinstance(level.alpha, float)


def test_time_at_inverts_half_log_snr(process):
    wanted = torch.linspace(-3, 5, 33)
    torch.testing.assert_close(process.half_log_snr(process.time_at(wanted)), wanted, rtol=1e-9, atol=1e-9)
    assert process.half_log_snr(process.time_at(1.0)) == pytest.approx(1.0, abs=1e-9)


def test_the_ends_are_data_and_prior(process):
    assert process.at(0.0).alpha == pytest.approx(1.0, abs=1e-15) and process.at(0.0).sigma == 0
    prior = process.prior(torch.zeros(2, 3))
    assert prior.scale == process.at(1.0).sigma and not prior.mean.any()


def test_the_bridge_is_the_kernels_conditioned_by_bayes_rule(process):
    """q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0), so their ratio does not depend on x_s."""
    s, t, n = 0.4, 0.7, 5
    x_0, x_t = torch.randn(n, 2), torch.randn(n, 2)
    bridge, marginal = process.bridge(x_t, x_0, t, s), process.marginal(x_0, s)
    constants = []
    for seed in range(3):
        x_s = bridge.sample(Keyed(seed, n))
        log_joint = marginal.log_prob(x_s) + process.kernel(x_s, s, t).log_prob(x_t)
        constants.append(log_joint - bridge.log_prob(x_s))
        torch.testing.assert_close(constants[-1], process.marginal(x_0, t).log_prob(x_t))
    assert not torch.equal(constants[0], torch.zeros(n))


def test_kernels_compose_and_reproduce_the_marginals(process):
    x_0 = torch.randn(4, 2)
    middle, end = process.forward_step(0.2, 0.5), process.forward_step(0.5, 0.8)
    whole = process.forward_step(0.2, 0.8)
    assert middle.a * end.a == pytest.approx(whole.a)
    assert (end.a * middle.scale) ** 2 + end.scale**2 == pytest.approx(whole.scale**2)
    start = process.forward_step(0.0, 0.8)
    assert start.a == pytest.approx(process.at(0.8).alpha)
    assert start.scale == pytest.approx(process.at(0.8).sigma)
    torch.testing.assert_close(process.kernel(x_0, 0.0, 0.8).mean, process.marginal(x_0, 0.8).mean)


def test_all_views_of_a_posterior_round_trip(process):
    truth = gaussian(process)
    for t in TIMES.tolist():
        x = process.marginal(torch.randn(6, 3), t).sample(Keyed(0, 6))
        posterior = truth(x, t)
        level = process.at(t)
        torch.testing.assert_close(
            level.alpha * posterior.mean + level.sigma * posterior.noise, x, rtol=1e-12, atol=1e-12
        )
        for view in ("noise", "score", "velocity"):
            again = process.mean_from(view, x, getattr(posterior, view), t)
            scale = max(1.0, level.sigma / level.alpha)  # the division by alpha amplifies the rounding
            torch.testing.assert_close(again, posterior.mean, rtol=1e-12 * scale, atol=1e-12 * scale)


def test_the_score_is_the_gradient_of_the_log_density_and_velocity_the_flows(process):
    truth = gaussian(process)
    x = torch.randn(5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(truth.log_density(x, 0.4).sum(), x)
    posterior = truth(x.detach(), 0.4)
    torch.testing.assert_close(posterior.score, gradient)
    ahead, behind = (truth.flow(x.detach(), 0.4, 0.4 + d) for d in (1e-6, -1e-6))
    torch.testing.assert_close(posterior.velocity, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


def test_times_per_sample_and_per_entry_are_the_scalar_times_side_by_side(process):
    x, x_0 = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    t, s = torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0.6, 0.5, 0.0])
    rows = process.bridge(x, x_0, t, s)
    for i in range(3):
        one = process.bridge(x[i : i + 1], x_0[i : i + 1], float(t[i]), float(s[i]))
        torch.testing.assert_close(rows.mean[i], one.mean[0])
        assert float(rows.scale[i]) == pytest.approx(float(one.scale))
    entry = torch.rand(3, 2, 2) * 0.8 + 0.1
    per_entry = process.marginal(x_0, entry)
    scalar = process.marginal(x_0[1:2], float(entry[1, 0, 1])).mean[0, 0, 1]
    torch.testing.assert_close(per_entry.mean[1, 0, 1], scalar)


def test_a_waiting_component_stays_untouched_to_the_bit(process):
    x, x_0 = torch.randn(2, 3), torch.full((2, 3), float("nan"))
    for t in (0.0, 0.3, 1.0):
        numbers = process.step(t, t, 1.0)
        assert (numbers.a, numbers.b, numbers.scale) == (1.0, 0.0, 0.0)
        assert torch.equal(process.bridge(x, x_0, t, t).mean, x)


def test_the_step_family_is_ddim_at_0_and_the_bridge_at_1(process):
    t, s = 0.8, 0.35
    (a_t, _, s_t), (a_s, _, s_s) = process.at(t), process.at(s)
    ddim = process.step(t, s, 0.0)
    assert ddim.a == pytest.approx(s_s / s_t) and ddim.b == pytest.approx(a_s - s_s / s_t * a_t)
    assert ddim.scale == 0
    g = a_t / a_s * s_s**2 / s_t**2
    ancestral = process.step(t, s, 1.0)
    assert ancestral.a == pytest.approx(g) and ancestral.b == pytest.approx(a_s - g * a_t)
    assert ancestral.scale**2 == pytest.approx(s_s**2 * (1 - (a_t / a_s) ** 2 * s_s**2 / s_t**2))
    assert ancestral.scale**2 / ancestral.b == pytest.approx(s_s**2 / a_s)  # variance / gain
    for eta in (0.0, 0.5, 1.0):  # 2010.02502, eq. 12 and 16
        deviation = eta * ancestral.scale
        numbers = process.ddim_step(t, s, eta)
        assert numbers.scale == pytest.approx(deviation, abs=1e-14)
        assert numbers.a == pytest.approx(math.sqrt(s_s**2 - deviation**2) / s_t)
        assert numbers.b == pytest.approx(a_s - numbers.a * a_t)


def test_step_numbers_are_finite_at_both_ends(process):
    for c in (0.0, 0.5, 1.0):
        for t, s in ((1.0, 0.5), (0.5, 0.0), (1.0, 0.0)):
            numbers = process.step(t, s, c)
            assert all(math.isfinite(v) for v in numbers)
        assert process.step(0.5, 0.0, c).b == pytest.approx(1.0)


def test_numbers_keep_their_precision_for_tiny_steps(process):
    """1 - exp(-h) by expm1: relative error stays at rounding where the naive difference loses eight digits."""
    t = process.time_at(0.5)
    s = process.time_at(0.5 + 1e-8)
    h = float(process.half_log_snr(s) - process.half_log_snr(t))
    assert process.step(t, s, 0.0).b / process.at(s).alpha == pytest.approx(-math.expm1(-h), rel=1e-6)


def test_grids_start_at_the_prior_end_at_data_and_space_as_named(process):
    for kind in ("log-snr", "karras", "uniform"):
        grid = process.grid(kind, 8)
        assert len(grid) == 8 and grid[0].t == 1.0 and grid[-1].s == 0.0
        assert all(a.t > a.s for a in grid)
    levels = [process.half_log_snr(r.s) for r in process.grid("log-snr", 9)[:-1]]
    gaps = [b - a for a, b in itertools.pairwise(levels)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-6)
    assert math.exp(-levels[-1]) == pytest.approx(0.01, rel=1e-6)
    with pytest.raises(ValueError, match=r"unknown grid 'karas'. Did you mean 'karras'"):
        process.grid("karas", 3)


def test_rows_repeat_go_up_and_must_join():
    grid = (TimeGrid.through([0.5, 0.4]) + TimeGrid.through([0.4, 0.5])) * 3
    assert len(grid) == 6 and isinstance(grid[1:3], TimeGrid)
    grid.check()
    with pytest.raises(ValueError, match=r"row 0 ends at 0.4, row 1 starts at 0.6"):
        (TimeGrid.through([0.5, 0.4]) + TimeGrid.through([0.6, 0.1])).check()


def test_noise_is_kept_through_float32():
    process = VariancePreserving()
    x = torch.randn(2, 3, dtype=torch.float32)
    for law in (process.bridge(x, x, 0.5, 0.2), process.bridge(x, x, torch.tensor([0.5, 0.4]), 0.2)):
        assert law.mean.dtype == torch.float32 and law.sample(Keyed(0, 2)).dtype == torch.float32


def test_the_clock_is_half_the_log_snr_held_within_ten(process):
    assert process.clock(0.0) == 10.0
    assert process.clock(0.5) == pytest.approx(process.half_log_snr(0.5))
    assert process.clock(1.0) == max(process.half_log_snr(1.0), -10.0)
    times = torch.tensor([0.0, 0.3, 1.0])
    assert process.clock(times).tolist() == pytest.approx([process.clock(float(t)) for t in times])


def test_without_signal_at_time_1_the_clock_stops_at_minus_ten():
    assert RectifiedFlow().clock(1.0) == -10.0 and RectifiedFlow().clock(torch.tensor([1.0])).item() == -10.0


def test_ratio_is_exp_minus_h_and_finite_at_both_ends(process):
    t, s = 0.7, 0.2
    h = process.half_log_snr(s) - process.half_log_snr(t)
    assert process.ratio(t, s) == pytest.approx(math.exp(-h))
    assert process.ratio(t, 0.0) == 0.0 and process.ratio(t, t) == process.ratio(0.0, 0.0) == 1.0


@pytest.mark.parametrize("process", [VariancePreserving(), VarianceExploding(), RectifiedFlow()], ids=repr)
def test_where_there_is_no_noise_a_velocity_says_nothing_and_the_state_all(process):
    x, v = torch.randn(3, 2), torch.randn(3, 2)
    torch.testing.assert_close(process.mean_from("velocity", x, v, 0.0), x / process.at(0.0).alpha)
    rows = process.mean_from("velocity", x, v, torch.tensor([0.0, 0.3, 0.6]))
    torch.testing.assert_close(rows[0], x[0] / process.at(0.0).alpha)
    torch.testing.assert_close(rows[1], process.mean_from("velocity", x, v, 0.3)[1])

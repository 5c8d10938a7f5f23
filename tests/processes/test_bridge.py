"""Point ends, Brownian bridges and pinned processes (exact checks of brownian-bridge-vfi)."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Condition, Denoiser, Keyed, Posterior, ProductPosterior, Sampler, TimeGrid
from ornstein.denoisers import EmpiricalDenoiser, GaussianDenoiser, NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.processes import (
    Absorbing,
    BrownianBridge,
    ConsecutiveBridge,
    MeanReverting,
    RectifiedFlow,
    UniformNoise,
    VarianceExploding,
    VariancePreserving,
)
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Euler, Heun, Renoise, Stochastic

from ..exact import AFFINE, Learned, covariance, gaussian

N = 4
Y = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_given_the_data_the_reverse_step_has_lost_the_anchor(scale):
    """mean (s/t) x_t + (1 - s/t) x_0, variance 2 scale s (1 - s/t): BBDM's step and DDIM's at eta = 1 are one."""
    process = BrownianBridge(scale)
    for t, s in ((0.9, 0.4), (0.5, 0.1), (0.3, 0.0)):
        numbers = process.step(t, s, 1.0)
        assert numbers.a == pytest.approx(s / t) and numbers.b == pytest.approx(1 - s / t)
        assert numbers.c == pytest.approx(0.0, abs=1e-15)
        assert numbers.scale**2 == pytest.approx(2 * scale * s * (1 - s / t))
        assert process.ddim_step(t, s, 1.0) == pytest.approx(numbers)


def test_a_stochastic_step_from_the_point_is_finite_and_the_marginal_of_its_guess():
    process = BrownianBridge()
    for c in (0.3, 1.0, 2.0):
        numbers = process.step(1.0, 0.6, c)
        level = process.at(0.6)
        assert numbers == pytest.approx((0.0, level.alpha, level.anchor, level.sigma))
    y, x_0 = torch.randn(N, 3), torch.randn(N, 3)
    law = process.bridge(y, x_0, 1.0, 0.6, Condition({"anchor": y}))
    near = process.bridge(y, x_0, 1 - 1e-12, 0.6, Condition({"anchor": y}))
    torch.testing.assert_close(law.mean, near.mean)
    rows = process.step(torch.tensor([1.0, 0.5]), torch.tensor([0.6, 0.2]), 1.0)
    assert rows.scale[0] == pytest.approx(level.sigma) and bool(torch.isfinite(torch.stack(rows)).all())


def test_no_flow_starts_at_a_point():
    process = BrownianBridge()
    for numbers in (lambda: process.step(1.0, 0.5, 0.0), lambda: process.ddim_step(1.0, 0.5, 0.0)):
        with pytest.raises(ValueError, match="BrownianBridge ends in a point"):
            numbers()
    with pytest.raises(ValueError, match="BrownianBridge ends in a point"):
        process.step(torch.tensor([0.5, 1.0]), 0.2, 0.0)
    assert process.step(1.0, 1.0, 0.0).a == 1.0  # waiting is allowed
    assert process.half_log_snr(1.0) == -math.inf and process.clock(1.0) == -10.0
    assert process.ratio(1.0, 0.5) == 0.0


@pytest.mark.parametrize(
    "solver",
    [DDIM(), DDIM(0.5), Stochastic(0.7), Ancestral(), DPMSolverPP(), Renoise(), Euler(), Heun()],
    ids=repr,
)
@pytest.mark.parametrize("kind", [None, "uniform", "karras"])
def test_every_solver_runs_from_the_point_and_is_exact_for_known_data(solver, kind):
    process = BrownianBridge()
    truth = EmpiricalDenoiser(torch.tensor([[0.3, -1.0, 2.0]]), process)
    found = Sampler(solver, 5, kind)(truth, N, anchor=Y.expand(N, 3))
    if isinstance(solver, Euler | Heun):  # not exact: the velocity has a root's slope at the point
        assert bool(torch.isfinite(found).all())
    else:
        torch.testing.assert_close(found, truth.data.expand(N, 3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [Ancestral(), DPMSolverPP(), DDIM()], ids=repr)
def test_samples_of_a_bridge_have_the_datas_law(solver):
    process = BrownianBridge()
    truth = GaussianDenoiser(torch.tensor([0.5, -1.0, 2.0]), covariance(3), process)
    found = Sampler(solver, 200)(truth, 20000, anchor=Y.expand(20000, 3), seed=1)
    torch.testing.assert_close(found.mean(0), truth.means[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(found.T.cov(), covariance(3), rtol=0.1, atol=0.04)


def test_variance_exploding_pinned_at_time_1_is_a_brownian_bridge():
    """On the clock v = sigma^2(t) / sigma^2(1), with variance sigma^2(1) v (1 - v)."""
    base = VarianceExploding(0.1, 3.0)
    pinned = base.pin(Y, 1.0)
    t = torch.linspace(0.05, 1.0, 20)
    v = (base.at(t).sigma / base.at(1.0).sigma) ** 2
    bridge = BrownianBridge(0.5 * base.at(1.0).sigma ** 2).at(v)
    level = pinned.at(t)
    for found, known in zip(level, bridge, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", [*AFFINE.values(), lambda: VarianceExploding(0.1, 2.0)])
@pytest.mark.parametrize("t_end", [1.0, 0.6])
def test_pinning_is_bayes_rule(base, t_end):
    """q(x_t | x_0, x_T) from the base's own bridge, and its kernel from the base's kernels."""
    process = base()
    x_0, x_end = torch.randn(N, 3), torch.randn(N, 3)
    pinned = process.pin(x_end, t_end)
    law, known = pinned.marginal(x_0, 0.4), process.bridge(x_end, x_0, t_end, 0.4)
    torch.testing.assert_close(law.mean, known.mean)
    assert law.scale == pytest.approx(known.scale)
    x, later = known.sample(Keyed(0, N)), torch.randn(N, 3)
    if process.at(t_end).alpha:
        logs = process.kernel(x, 0.4, 0.5).log_prob(later) + process.kernel(later, 0.5, t_end).log_prob(x_end)
        logs = logs - process.kernel(x, 0.4, t_end).log_prob(x_end)
        torch.testing.assert_close(pinned.kernel(x, 0.4, 0.5).log_prob(later), logs)
    torch.testing.assert_close(pinned.prior(x_0).mean, x_end)
    assert pinned.prior(x_0).scale == 0 and pinned.marginal(x_0, t_end).scale == 0


@pytest.mark.parametrize("kind", [None, "uniform"])
def test_a_process_pinned_before_time_1_rests_there_until_then(kind):
    pinned = VariancePreserving().pin(Y, 0.55)
    truth = EmpiricalDenoiser(torch.tensor([[0.3, -1.0, 2.0]]), pinned)
    steps = list(Sampler(DPMSolverPP(), 8, kind).steps(truth, 2))
    assert all(torch.equal(step.next, Y.expand(2, 3)) for step in steps if step.s >= 0.55)
    torch.testing.assert_close(steps[-1].next, truth.data.expand(2, 3))


def test_a_second_anchor_is_refused():
    with pytest.raises(ValueError, match="MeanReverting has an anchor already"):
        MeanReverting().pin(Y)
    with pytest.raises(ValueError, match="t_end"):
        VariancePreserving().pin(Y, 0.0)


@pytest.mark.parametrize(
    "process", [VariancePreserving(), BrownianBridge(), Absorbing(3), UniformNoise(3)], ids=str
)
def test_a_bridge_goes_back_only(process):
    x = torch.zeros(2, 3, dtype=torch.long if process.discrete else torch.float64)
    given = Condition({"anchor": torch.zeros(2, 3)})
    for t, s in ((0.3, 0.7), (torch.tensor([0.3, 0.9]), torch.tensor([0.7, 0.1]))):
        with pytest.raises(ValueError, match=f"bridge: {type(process).__name__} steps back"):
            process.bridge(x, x, t, s, given)


def test_a_flow_has_finite_numbers_where_its_drift_is_not():
    f, c, g = RectifiedFlow().drift_and_diffusion(1.0)
    assert f < -1e8 and g > 1e4 and c == 0.0
    assert all(torch.isfinite(v).all() for v in RectifiedFlow().drift_and_diffusion(torch.tensor([0.0, 1.0])))


@pytest.mark.parametrize("solver", [DDIM(), Ancestral(), DDIM(0.5), Stochastic(0.5), DPMSolverPP()], ids=repr)
def test_gradients_of_a_learned_schedule_are_finite_and_right_where_the_grid_touches_the_data(solver):
    process = Learned()
    truth, x, noise = gaussian(process), torch.randn(2, 3), Keyed(0, 2)
    sampler = Sampler(solver, grid=TimeGrid.through([1.0, 0.6, 0.3, 0.0]))

    def loss():
        return sampler(truth, x, seed=noise, grad=True).square().sum()

    loss().backward()
    slope = process.pace.grad.item()
    with torch.no_grad():
        process.pace.add_(1e-6)
        ahead = loss().item()
        process.pace.sub_(2e-6)
        behind = loss().item()
    assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)
    process.pace.grad = None
    numbers = process.step(0.3, 0.0, 1.0), process.forward_step(0.0, 0.3), process.step(0.0, 0.0, 1.0)
    sum(v for n in numbers for v in n if isinstance(v, torch.Tensor)).backward()
    assert bool(torch.isfinite(process.pace.grad))


# --- consecutive bridges


class Between(Denoiser):
    """Exact where x_0 | y, z ~ N((y + z) / 2, power) and the leaves have independent noise."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.process, self.power = ConsecutiveBridge(0.5, shared=False), power
        self.shape = {"previous": (2,), "next": (2,)}

    def forward(self, x, t, condition=None, step=None):
        precision = torch.full((1, 1), 1 / self.power)
        total = precision * 0.5 * (condition["previous"] + condition["next"])
        for k, part in self.process.parts.items():
            level = part.at(t[k] if isinstance(t, dict) else t)
            if level.sigma:
                u = x[k] - level.anchor * condition[k]
                precision = precision + (level.alpha / level.sigma) ** 2
                total = total + level.alpha / level.sigma**2 * u
            elif level.alpha:
                precision, total = torch.ones(1, 1), x[k]
        mean = total / precision
        parts = {k: Posterior(p, x[k], t, mean) for k, p in self.process.parts.items()}
        return ProductPosterior(self.process, x, t, parts, condition=condition)


@pytest.mark.parametrize("solver", [DDIM(), Ancestral()], ids=repr)
def test_consecutive_bridges_start_at_the_neighbours_and_reach_the_middle(solver):
    model = Between(0.0001)
    y, z = torch.randn(N, 2), torch.randn(N, 2)
    steps = list(Sampler(solver, 20).steps(model, N, previous=y, next=z))
    torch.testing.assert_close(steps[0].next, {"previous": y, "next": z})  # no noise at all
    found = steps[-1].readout()
    for leaf in found.values():
        torch.testing.assert_close(leaf, 0.5 * (y + z), rtol=0, atol=0.06)


def test_the_law_of_consecutive_bridges_is_the_posterior_given_both_neighbours():
    """(d): with the exact conditional denoiser either leaf ends with the law of x_0 given y and z."""
    model, n = Between(0.2), 20000
    y, z = torch.tensor([[1.0, -1.0]]).expand(n, 2), torch.tensor([[0.0, 3.0]]).expand(n, 2)
    found = Sampler(Ancestral(), 300)(model, n, previous=y, next=z, seed=2)
    for leaf in found.values():
        torch.testing.assert_close(leaf.mean(0), torch.tensor([0.5, 1.0]), rtol=0.02, atol=0.02)
        torch.testing.assert_close(leaf.T.cov(), 0.2 * torch.eye(2), rtol=0.06, atol=0.01)


def test_swapping_the_neighbours_and_the_leaves_is_a_symmetry():
    """(e): to the bit with the noises swapped, which a deterministic start cannot tell."""
    model, y, z = Between(0.2), torch.randn(N, 2), torch.randn(N, 2)
    grid = TimeGrid.through([0.7, 0.4, 0.0])
    a, b = torch.randn(N, 2), torch.randn(N, 2)
    one = Sampler(DDIM(), grid=grid)(model, {"previous": a, "next": b}, previous=y, next=z)
    other = Sampler(DDIM(), grid=grid)(model, {"previous": b, "next": a}, previous=z, next=y)
    torch.testing.assert_close(one["previous"], other["next"])
    torch.testing.assert_close(one["next"], other["previous"])


def test_shared_noise_moves_both_leaves_alike():
    process, x_0 = ConsecutiveBridge(), torch.randn(N, 2)
    y, z = torch.randn(N, 2), torch.randn(N, 2)
    law = process.marginal(
        {"previous": x_0, "next": x_0}, torch.full((N,), 0.4), Condition({"previous": y, "next": z})
    )
    x = law.sample(Keyed(0, N))
    torch.testing.assert_close(x["previous"] - x["next"], 0.4 * (y - z))
    assert torch.equal(*law.noise(Keyed(0, N)).values())
    with pytest.raises(ValueError, match="share their noise"):
        law.log_prob(x)


def test_the_noise_drawn_along_a_bridge_is_less_than_along_ddpm():
    """(f): sums of the steps' variances over 50 uniform steps, where both end at the data with unit noise scale."""
    vp, bridge = VariancePreserving(), BrownianBridge(0.5)
    grid = TimeGrid.uniform(50)
    drawn = [sum(p.step(r.t, r.s, 1.0).scale ** 2 for r in grid) for p in (vp, bridge)]
    assert drawn[1] == pytest.approx(sum(r.s * (1 - r.s / r.t) for r in grid))

    assert drawn[1] < 0.5 * drawn[0]


def test_a_network_on_a_bridge_predicts_the_mean():
    """The other predictions divide by what is 0 at the point."""
    network = ResidualMLP(3, width=8, depth=1)
    model = NetworkDenoiser(network, BrownianBridge(), "mean", shape=(3,))
    assert bool(torch.isfinite(Sampler(DDIM(), 4)(model, N, anchor=Y.expand(N, 3))).all())
    for prediction in ("velocity", "edm", "noise", "score"):
        with pytest.raises(
            ValueError, match="says nothing at the point in which BrownianBridge ends; use 'mean'"
        ):
            NetworkDenoiser(network, BrownianBridge(), prediction, shape=(3,))

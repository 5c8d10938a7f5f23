"""MR Sampler is the exponential integrator in the shifted variable: its formulas in x, and what follows."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Condition, Denoiser, Posterior, Sampler, TimeGrid
from ornstein.processes import MeanReverting, VariancePreserving
from ornstein.solvers import DDIM, LML, DPMSolverPP, EVODiff, MRSampler, SASolver, SDEDPMSolverPP, Stochastic

from ..exact import mixture
from .test_order import _slope

N = 5
FORM = {1: "taylor", 2: "taylor", 3: "midpoint"}


class Smooth(Denoiser):
    """A smooth nonlinear denoiser with an anchor, of no particular data; equivariant to shifts of x and y."""

    def __init__(self, process) -> None:
        super().__init__()
        self.process, self.shape = process, (3,)

    def forward(self, x, t, condition=None, step=None):
        y, level = condition["anchor"], self.process.at(t)
        u = x - level.anchor * y - level.alpha * y
        mean = y + 0.3 * torch.tanh(2 * u) + 0.1 * torch.sin(3 * u.roll(1, -1) + 2 * t)
        return Posterior(self.process, x, t, mean, condition=condition)


@pytest.fixture
def y():
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def process():
    return MeanReverting()


def _grid(process, steps, high=-0.5, low=4.0):
    return TimeGrid.through(process.time_at(torch.linspace(high, low, steps + 1)).tolist())


def written_out(truth, x, y, grid, order, kind, noises):
    """2502.07856's updates in x with data prediction, as its released sampler computes them."""
    process, calls = truth.process, []
    for (t, s, _), z in zip(grid, noises, strict=True):
        at, to = process.at(t), process.at(s)
        lam = [float(process.half_log_snr(v)) for v in (t, s)]
        h, q = lam[1] - lam[0], truth(x, t, Condition({"anchor": y})).mean
        ratio, keep = to.sigma / at.sigma, to.alpha / at.alpha
        use = min(order, len(calls) + 1)
        d_1 = (q - calls[0][1]) / (calls[0][0] / h) if use > 1 else 0.0
        if kind == "sde":
            phi_1 = 1 - math.exp(-2 * h)
            x = ratio * math.exp(-h) * x + to.alpha * phi_1 * q + to.alpha * (1 - phi_1 / (2 * h)) * d_1
            x = x + to.sigma * math.sqrt(phi_1) * z
            x = x + y * (1 - keep * math.exp(-2 * h) - to.alpha * phi_1)
        else:
            phi_1 = math.exp(-h) - 1
            phi_2 = phi_1 / h + 1
            d_2 = 0.0
            if use == 3:
                r_0, r_1 = calls[0][0] / h, calls[1][0] / h
                older = (calls[0][1] - calls[1][1]) / r_1
                d_2 = (d_1 - older) / (r_0 + r_1)
                d_1 = d_1 + r_0 * d_2
            x = ratio * x - to.alpha * (phi_1 * q - phi_2 * d_1 + (phi_2 / h - 0.5) * d_2)
            x = x + y * (1 - ratio + ratio * at.alpha - to.alpha)
        calls = [(h, q), *calls][:2]
    return x


@pytest.mark.parametrize(("order", "kind"), [(1, "ode"), (2, "ode"), (3, "ode"), (1, "sde"), (2, "sde")])
def test_the_updates_in_x_written_out(order, kind, process, y):
    """(a) and (b), to 1e-12."""
    truth, x = Smooth(process), torch.randn(N, 3)
    grid = _grid(process, 12)
    steps = list(Sampler(MRSampler(order, kind), grid=grid).steps(truth, x, seed=1, anchor=y))
    noises = [step.distribution.noise(step.noise) for step in steps]
    expected = written_out(truth, x, y, grid, order, kind, noises)
    torch.testing.assert_close(steps[-1].next, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("order", "kind"), [(1, "ode"), (2, "ode"), (3, "ode"), (1, "sde"), (2, "sde")])
def test_it_is_dpm_solver_in_the_shifted_variable(order, kind, process, y):
    """(a) the same numbers on u, with no y: for the residual, mean reversion is variance preservation."""

    class Residual(Denoiser):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.process = inner, Scaled(process)

        def forward(self, x, t, condition=None, step=None):
            sigma_inf = process.sigma_inf
            inner = self.inner(sigma_inf * x + y, t, Condition({"anchor": y}))
            return Posterior(self.process, x, t, (inner.mean - y) / sigma_inf)

    truth, z = Smooth(process), torch.randn(N, 3)
    grid, size = _grid(process, 12), process.sigma_inf
    mr = Sampler(MRSampler(order, kind), grid=grid)(truth, size * z + y, seed=1, anchor=y)
    family = SDEDPMSolverPP(order, FORM[order], 0.0 if kind == "ode" else 1.0)
    plain = Sampler(family, grid=grid)(Residual(truth), z, seed=1)
    torch.testing.assert_close(mr, size * plain + y, rtol=1e-12, atol=1e-12)


class Scaled(VariancePreserving):
    """Mean reversion's own alpha as a variance-preserving process."""

    def __init__(self, process) -> None:
        super().__init__()
        self.source = [process]

    def schedule(self, t):
        alpha, _, sigma = self.source[0].schedule(t)
        return alpha, torch.zeros_like(t), sigma / self.source[0].sigma_inf

    def time_at(self, half_log_snr):
        raise NotImplementedError


def test_without_an_anchor_it_is_dpm_solver_bit_for_bit():
    """(c) anchor_weight = 0, sigma_inf = 1."""
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    for order in (1, 2, 3):
        ends = [Sampler(s, 9)(truth, x) for s in (MRSampler(order), SDEDPMSolverPP(order, FORM[order], 0.0))]
        assert torch.equal(*ends)
    ends = [Sampler(s, 9)(truth, x) for s in (MRSampler(1), DDIM())]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    ends = [Sampler(s, 9)(truth, x) for s in (MRSampler(2), SASolver(2, 0, 0.0))]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_without_an_anchor_it_is_diffusers_scheduler(order):
    """(c) DPMSolverMultistepScheduler(solver_type="heun"), compared where both have the same levels."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=order, solver_type="heun", lower_order_final=False, final_sigmas_type="sigma_min",
        beta_schedule="linear", timestep_spacing="linspace",
    )  # fmt: skip
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()  # sigma / alpha
    process = VariancePreserving()
    truth, x = mixture(process), torch.randn(4, 3)
    times = process.time_at(-sigmas.log()).tolist()
    grid = TimeGrid.through(times)
    ours = Sampler(MRSampler(order), grid=grid)(truth, x)
    for (t, _, _), label in zip(grid, scheduler.timesteps, strict=True):
        x = scheduler.step(truth(x, t).noise, label, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)  # the scheduler's numbers are in float32


def test_order_1_sde_is_the_posterior_of_ir_sde(process, y):
    """(d) 2301.11699's optimal reverse step, A u_t + B (D - y) with variance C, theta in its own integrals."""
    truth, x, (t, s) = Smooth(process), torch.randn(N, 3), (0.6, 0.45)
    (step,) = Sampler(MRSampler(1, "sde"), grid=TimeGrid.through([t, s])).steps(truth, x, anchor=y)
    total, left = (-math.log(process.at(v).alpha) for v in (t, s))  # int theta
    part = total - left
    a = (1 - math.exp(-2 * left)) / (1 - math.exp(-2 * total)) * math.exp(-part)
    b = (1 - math.exp(-2 * part)) / (1 - math.exp(-2 * total)) * math.exp(-left)
    c = (
        process.sigma_inf**2
        * (1 - math.exp(-2 * left))
        * (1 - math.exp(-2 * part))
        / (1 - math.exp(-2 * total))
    )
    expected = a * (x - y) + b * (step.posterior.mean - y) + y
    torch.testing.assert_close(step.distribution.mean, expected, rtol=1e-12, atol=1e-12)
    assert step.distribution.scale**2 == pytest.approx(c, rel=1e-12)


class Gaussian(Denoiser):
    """Exact where x_0 = y + 0.3 + 0.2 z, by the closed form of the flow too."""

    def __init__(self, process) -> None:
        super().__init__()
        self.process, self.shape = process, (3,)

    def spread(self, t):
        level = self.process.at(t)
        return level.alpha**2 * 0.04 + level.sigma**2

    def forward(self, x, t, condition=None, step=None):
        y, level = condition["anchor"], self.process.at(t)
        u, mean = x - level.anchor * y, y + 0.3
        gain = level.alpha * 0.04 / self.spread(t)
        return Posterior(self.process, x, t, mean + gain * (u - level.alpha * mean), condition=condition)

    def flow(self, x, t, s, y):
        at, to, mean = self.process.at(t), self.process.at(s), y + 0.3
        stretched = (self.spread(s) / self.spread(t)) ** 0.5 * (x - at.anchor * y - at.alpha * mean)
        return to.alpha * mean + to.anchor * y + stretched


@pytest.mark.parametrize(("order", "measured"), [(1, 1), (2, 2), (3, 2)])
def test_measured_order_with_an_anchor(order, measured, process, y):
    """(e) 1 and 2; the published third order has half the weight on its last term and is of order 2, which the
    Adams method of `SASolver`, with the whole weight and a corrector for its first steps, is not."""
    truth, steps = Gaussian(process), [40, 80, 160]
    x = y + 0.2 * torch.randn(N, 3)

    def errors(solver):
        found = []
        for n in steps:
            grid = _grid(process, n)
            end = Sampler(solver, grid=grid)(truth, x, anchor=y)
            found.append(float((end - truth.flow(x, grid[0].t, grid[-1].s, y)).norm()))
        return found

    assert _slope(errors(MRSampler(order)), steps) == pytest.approx(measured, abs=0.3)
    if order == 3:
        assert _slope(errors(SASolver(3, 3, 0.0)), steps) > 2.8


@pytest.mark.parametrize(
    "solver",
    [MRSampler(2), MRSampler(3), MRSampler(2, "sde"), EVODiff("ddim"), LML(DPMSolverPP(2))],
    ids=repr,
)
def test_a_constant_added_to_data_and_anchor_is_added_to_samples(solver, process, y):
    """(f); and for the methods written for variance preservation, which serve mean reversion with no new code.

    EVODiff's inner products are of posterior means, which have an origin: for it, this fails as it should."""
    x, moved = torch.randn(N, 3), []
    for shift in (0.0, 2.0):
        end = Sampler(solver, 9)(Smooth(process), x + y + shift, seed=1, anchor=y + shift)
        moved.append(end - shift)
    linear = not isinstance(solver, EVODiff | LML)
    assert torch.allclose(*moved, rtol=1e-10, atol=1e-10) is linear


def test_the_velocity_is_the_derivative_in_the_angle(process, y):
    """(g) x_0 = alpha x - (sigma / sigma_inf) v + (1 - alpha) y with alpha = cos phi, sigma = sigma_inf sin phi."""
    truth, x, t = Smooth(process), torch.randn(N, 3), 0.4
    posterior = truth(x, t, Condition({"anchor": y}))
    level, slope = process.at(t), process.slope(t)
    turning = -slope.alpha / (level.sigma / process.sigma_inf)  # d phi / dt
    v = posterior.velocity / turning
    mean = level.alpha * x - level.sigma / process.sigma_inf * v + (1 - level.alpha) * y
    torch.testing.assert_close(mean, posterior.mean, rtol=1e-9, atol=1e-9)


def test_runs_start_at_the_anchor_with_the_priors_noise(process):
    """y + sigma_inf z, not N(0, sigma_inf^2) and not at y itself."""
    y = torch.full((4000, 3), 2.0)
    first, *_ = Sampler(MRSampler(), 3).steps(Smooth(process), 4000, anchor=y)
    assert float(first.next.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(first.next.std()) == pytest.approx(process.sigma_inf, rel=0.03)


def test_wrong_arguments_are_named():
    for wrong, match in (((2, "heun"), "kind"), ((4, "ode"), "order"), ((3, "sde"), "order")):
        with pytest.raises(ValueError, match=match):
            MRSampler(*wrong)
    assert repr(MRSampler(3)) == "MRSampler(order=3, kind='ode')"
    assert not MRSampler().stochastic and MRSampler(1, "sde").stochastic and Stochastic().reverses

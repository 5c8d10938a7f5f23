from __future__ import annotations

import math

import pytest
import torch

import ornstein as orn
from ornstein.core import Sampler, TimeGrid
from ornstein.processes import SDE, VariancePreserving


def _ornstein_uhlenbeck(rate=1.3, level=0.4, noise=0.8):
    return SDE(lambda t, x: rate * (level - x), noise)


def test_an_ornstein_uhlenbeck_process_against_its_closed_form():
    rate, level, noise, n, steps, end = 1.3, 0.4, 0.8, 40_000, 200, 1.5
    times = [end * i / steps for i in range(steps + 1)]
    path = orn.simulate(_ornstein_uhlenbeck(), torch.full((n, 1), 2.0), times, seed=0)
    assert path.shape == (steps + 1, n, 1)
    decay = math.exp(-rate * end)
    mean, variance = level + (2.0 - level) * decay, noise**2 / (2 * rate) * (1 - decay**2)
    assert path[-1].mean() == pytest.approx(mean, abs=4 * (variance / n) ** 0.5 + 2e-3)
    assert path[-1].var() == pytest.approx(variance, rel=0.03)
    stationary = noise**2 / (2 * rate) * math.exp(-rate * 0.5)  # autocovariance at lag 0.5, near stationarity
    lag = int(0.5 / (end / steps))
    tail = path[-1] - path[-1].mean(), path[-1 - lag] - path[-1 - lag].mean()
    before = noise**2 / (2 * rate) * (1 - math.exp(-2 * rate * (end - 0.5)))
    assert (tail[0] * tail[1]).mean() == pytest.approx(before * math.exp(-rate * 0.5), rel=0.05)
    assert stationary > before * math.exp(-rate * 0.5)


def test_the_mean_converges_at_first_order():
    """The mean of Euler-Maruyama on a linear drift is a recursion: no sampling error."""
    errors = []
    for steps in (20, 40, 80):
        times = [i / steps for i in range(steps + 1)]
        quiet = SDE(lambda t, x: 1.3 * (0.4 - x), 0.0)
        end = orn.simulate(quiet, torch.full((1, 1), 2.0), times)[-1]
        errors.append(abs(float(end) - (0.4 + 1.6 * math.exp(-1.3))))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_simulation_is_the_samplers_loop_with_its_noise():
    from ornstein.solvers import Forward

    process, x = _ornstein_uhlenbeck(), torch.zeros(5, 2)
    times = [0.0, 0.1, 0.3]
    path = orn.simulate(process, x, times, seed=4)
    steps = list(Sampler(Forward(), grid=TimeGrid.through(times)).steps(process, x, seed=4))
    assert all(torch.equal(a, s.next) for a, s in zip(path[1:], steps, strict=True))
    one = orn.simulate(process, x[:1], times, seed=4)
    assert torch.equal(one[:, 0], path[:, 0])


def test_the_forward_sde_of_an_affine_process_reaches_its_marginal():
    process = VariancePreserving()

    def drift(t, x):
        return process.drift_and_diffusion(t)[0] * x

    sde = SDE(drift, lambda t, x: process.drift_and_diffusion(t)[2])
    x_0, n = torch.tensor([[1.0, -2.0]]), 20_000
    end = orn.simulate(sde, x_0.expand(n, 2), [0.3 * i / 150 for i in range(151)])[-1]
    exact = process.marginal(x_0, 0.3)
    torch.testing.assert_close(end.mean(0), exact.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(end.std(0), torch.full((2,), exact.scale), atol=0.02, rtol=0)


def test_a_condition_reaches_the_coefficients():
    process = SDE(lambda t, x, c: c["pull"].unsqueeze(1).expand_as(x), 0.0, fields=("pull",))
    end = orn.simulate(process, torch.zeros(2, 1), [0.0, 1.0], pull=[1.0, -2.0])[-1]
    assert end.tolist() == [[1.0], [-2.0]]

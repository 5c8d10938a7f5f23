"""Kinetic-optimal paths: the exact checks of 2306.06626's family file."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from ornstein.core import Keyed
from ornstein.denoisers import EmpiricalDenoiser
from ornstein.processes import (
    KineticOptimal,
    RectifiedFlow,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
    data_separation,
    kinetic_energy,
)

LEVELS = [10 ** (k / 20) for k in range(-60, 61)]
TIMES = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)


def diagonal(c) -> list[float]:
    return [float(np.mean(c**2 * s**2 / (c * s**2 + 1))) for s in LEVELS]


def points(n: int = 20, d: int = 8) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    return x / x.square().mean().sqrt()


def test_where_the_posterior_is_sharp_the_best_path_is_straight():
    """(a): separation 1 gives angle pi/2, alpha = 1 - t, sigma = t, energy 2."""
    process = KineticOptimal(LEVELS, [1.0] * len(LEVELS))
    assert process.angle == pytest.approx(math.pi / 2) and process.energy == pytest.approx(2.0)
    level = process.at(TIMES)
    torch.testing.assert_close(level.alpha, 1 - TIMES, rtol=0, atol=2e-6)
    torch.testing.assert_close(level.sigma, TIMES, rtol=0, atol=2e-6)
    assert kinetic_energy(RectifiedFlow(), LEVELS, [1.0] * len(LEVELS)) == pytest.approx(2.0, rel=1e-10)


def test_gaussian_data_need_not_move():
    """(b): separation s^2 / (1 + s^2) makes the metric vanish: variance preservation has no energy at all."""
    separation = [s**2 / (1 + s**2) for s in LEVELS]
    process = KineticOptimal(LEVELS, separation, least=1e-3)
    assert process.energy < 1e-5
    level, known = process.at(TIMES), Trigonometric().at(TIMES)
    torch.testing.assert_close(level.alpha, known.alpha, rtol=0, atol=1e-5)
    for preset in (Trigonometric(), VariancePreserving(), process):
        assert abs(kinetic_energy(preset, LEVELS, separation)) < 1e-4
    assert kinetic_energy(RectifiedFlow(), LEVELS, separation) == pytest.approx(
        _gaussian_energy(RectifiedFlow(), np.ones(1)), abs=1e-6
    )


def _gaussian_energy(process, c) -> float:
    """int mean_i (d/dt sqrt(alpha^2 c_i + sigma^2))^2 dt."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = torch.from_numpy(0.5 * (nodes + 1))
    level, slope = process.at(t), process.slope(t)
    c = torch.as_tensor(c)[:, None]
    deviation = (level.alpha**2 * c + level.sigma**2).sqrt()
    moved = (level.alpha * slope.alpha * c + level.sigma * slope.sigma) / deviation
    return float(0.5 * (torch.from_numpy(weights) * moved.square().mean(0)).sum())


@pytest.mark.parametrize(
    "process", [RectifiedFlow(), Trigonometric(), VariancePreserving("cosine")], ids=repr
)
def test_the_energy_of_a_diagonal_gaussian_is_its_closed_form(process):
    """(c), the data scaled to mean variance 1."""
    c = np.array([2.5, 1.0, 0.4, 0.1])
    energy = kinetic_energy(process, LEVELS, diagonal(c))
    assert energy == pytest.approx(_gaussian_energy(process, c), rel=2e-3)


def test_the_separation_of_points_rises_from_0_to_1():
    """(d)."""
    separation = data_separation(points(), LEVELS)
    assert separation[0] < 1e-4 and separation[-1] == pytest.approx(1.0, abs=1e-12)
    assert all(b >= a for a, b in itertools.pairwise(separation))


def test_the_separation_of_two_points_is_that_of_the_quadrature_and_its_mmse_is_the_slope_of_information():
    """(f): separation = E tanh^2(s^2 + s z), mmse = 1 - separation, and dI/d(s^2) = mmse / 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()

    def mmse(power: float) -> float:
        return 1 - float((weights * np.tanh(power + math.sqrt(power) * nodes)).sum())

    def information(power: float) -> float:
        return power - float((weights * np.log(np.cosh(power + math.sqrt(power) * nodes))).sum())

    s = [0.3, 0.7, 1.0, 2.0]
    found = data_separation(torch.tensor([[-1.0], [1.0]]), s, draws=200_000)
    assert found == pytest.approx([1 - mmse(v**2) for v in s], abs=0.01)
    for v in s:
        slope = (information(v**2 + 1e-5) - information(v**2 - 1e-5)) / 2e-5
        assert slope == pytest.approx(0.5 * mmse(v**2), rel=1e-6)


@pytest.mark.parametrize("process", [RectifiedFlow(), VariancePreserving("cosine")], ids=repr)
def test_the_energy_density_is_the_mean_square_of_the_marginal_velocity(process):
    x_0 = points()
    truth = EmpiricalDenoiser(x_0, process)
    n = 40_000
    which = torch.randint(20, (n,), generator=torch.Generator().manual_seed(1))
    for t in (0.2, 0.5, 0.7):
        level, slope = process.at(t), process.slope(t)
        s = level.alpha / level.sigma
        (separation,) = data_separation(x_0, [s], draws=n)
        turn = (slope.alpha * level.sigma - level.alpha * slope.sigma) / level.sigma
        known = slope.alpha**2 + slope.sigma**2 - (1 - separation) * turn**2
        x_t = process.marginal(x_0[which], t).sample(Keyed(0, n))
        assert float(truth(x_t, t).velocity.square().mean()) == pytest.approx(known, rel=0.02)


@pytest.mark.parametrize("n", [5, 20, 200])
def test_no_preset_moves_the_marginals_less(n):
    """(e), and the table's energy is the chord's, 4 sin^2(angle / 2)."""
    separation = data_separation(points(n), LEVELS)
    best = KineticOptimal(LEVELS, separation, least=1e-3)
    energy = kinetic_energy(best, LEVELS, separation)
    assert energy == pytest.approx(best.energy, rel=3e-3)
    floored = KineticOptimal(LEVELS, separation)
    assert energy <= kinetic_energy(floored, LEVELS, separation) < 1.1 * energy
    assert float(floored.slope(TIMES).alpha.abs().max()) < 8
    for other in (
        RectifiedFlow(),
        Trigonometric(),
        VariancePreserving(),
        VariancePreserving("cosine"),
        SubVariancePreserving(),
    ):
        assert energy < kinetic_energy(other, LEVELS, separation)


def test_data_of_another_size_scale_the_noise():
    separation = data_separation(points(), LEVELS)
    assert data_separation(0.3 * points() + 2.0, LEVELS) == pytest.approx(separation, rel=1e-9)
    one, other = (KineticOptimal(LEVELS, separation, scale) for scale in (1.0, 0.3))
    torch.testing.assert_close(other.at(TIMES).sigma, 0.3 * one.at(TIMES).sigma, rtol=1e-9, atol=1e-12)
    assert torch.equal(other.at(TIMES).alpha, one.at(TIMES).alpha)
    assert other.prior(torch.zeros(1, 8)).scale == pytest.approx(0.3)

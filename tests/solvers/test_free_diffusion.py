"""The free diffusion coefficient on processes whose noise can be read off the state."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Sampler, TimeGrid
from ornstein.processes import VariancePreserving
from ornstein.solvers import EulerMaruyama, FreeDiffusion

from ..exact import AFFINE, gaussian, mixture


@pytest.mark.parametrize("name", AFFINE)
def test_without_noise_it_follows_the_flow_to_its_declared_order(name):
    model = gaussian(AFFINE[name]())
    first, last = (0.9, 0.2) if name != "ve" else (0.8, 0.4)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) * model.process.at(first).sigma
    truth = model.flow(x, first, last)
    for order in (1, 2):
        errors = [
            float(
                (
                    Sampler(FreeDiffusion(order=order), grid=TimeGrid.uniform(n, first, last))(model, x)
                    - truth
                ).norm()
            )
            for n in (40, 80)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_half_the_squared_diffusion_is_the_reverse_sde():
    """Its step is Euler-Maruyama's, number by number."""
    model = mixture(VariancePreserving(), labels=False)
    x, grid = torch.randn(5, 3), TimeGrid.uniform(10, 0.9, 0.1)
    solver = FreeDiffusion(lambda t: 0.5 * model.process.drift_and_diffusion(t)[2] ** 2)
    ours, theirs = (Sampler(s, grid=grid).step(model, x, 3).distribution for s in (solver, EulerMaruyama()))
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-9, atol=1e-10)
    assert float(ours.scale) == pytest.approx(float(theirs.scale))


def test_its_gain_is_what_the_mean_moves_by():
    model = mixture(VariancePreserving(), labels=False)
    step = Sampler(FreeDiffusion(0.7), grid=TimeGrid.uniform(10, 0.9, 0.1)).step(model, torch.randn(5, 3), 2)
    moved = step.law(step.posterior.with_mean(step.posterior.mean + 0.01))
    expected = step.distribution.mean + 0.01 * step.gain
    torch.testing.assert_close(moved.mean, expected, rtol=1e-9, atol=1e-10)


def test_what_it_cannot_do_is_refused():
    model = gaussian(VariancePreserving())
    with pytest.raises(ValueError, match="no noise"):
        Sampler(FreeDiffusion(), grid=TimeGrid.uniform(5, 0.0, 1.0))(model, torch.randn(2, 3))
    with pytest.raises(ValueError, match="got -1"):
        Sampler(FreeDiffusion(lambda t: -1.0), 3)(model, 2)
    with pytest.raises(ValueError, match="order"):
        FreeDiffusion(order=3)
    one = torch.tensor([0.5, 0.4])
    with pytest.raises(ValueError, match="one time"):
        Sampler(FreeDiffusion(), grid=TimeGrid([(one, 0.5 * one)]))(model, torch.randn(2, 3))

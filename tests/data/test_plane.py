from __future__ import annotations

import math

import pytest
import torch

from ornstein.data import load
from ornstein.data.plane import PLANE


@pytest.mark.parametrize("kind", PLANE)
def test_densities_are_those_of_the_draws(kind):
    law = PLANE[kind]()
    x = law.sample(40_000, torch.Generator().manual_seed(0))
    assert (x.abs() <= law.half_width).double().mean() > 0.999
    cells = 280
    side = torch.linspace(-law.half_width, law.half_width, cells + 1, dtype=torch.float64)
    middle = 0.5 * (side[1:] + side[:-1])
    grid = torch.cartesian_prod(middle, middle)
    mass = law.log_density(grid).exp().reshape(cells, cells) * (side[1] - side[0]) ** 2
    assert float(mass.sum()) == pytest.approx(1.0, abs=0.01)
    blocks = mass.reshape(14, 20, 14, 20).sum((1, 3))
    counts = torch.histogramdd(x.double(), bins=[side[::20].contiguous()] * 2).hist / len(x)
    torch.testing.assert_close(counts, blocks, rtol=0, atol=5 * math.sqrt(0.04 / len(x)))


def test_the_data_set_is_loaded_by_name():
    blobs = load("plane", kind="blobs", samples=1000, seed=3)
    assert (len(blobs.train), len(blobs.held_out), blobs.shape) == (900, 100, (2,))
    assert torch.equal(blobs.train.x_0, load("plane", kind="blobs", samples=1000, seed=3).train.x_0)
    with pytest.raises(ValueError, match="Did you mean 'blobs'"):
        load("plane", kind="blob")
    with pytest.raises(ValueError, match="samples"):
        load("plane", samples=3)

"""Distances of subspaces with known angles."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.metrics import subspace_distance


def test_it_is_the_sine_of_the_angle():
    for angle in (0.0, 0.3, math.pi / 2):
        u = torch.tensor([[1.0], [0.0]])
        v = torch.tensor([[math.cos(angle)], [math.sin(angle)]])
        assert float(subspace_distance(u, v)) == pytest.approx(2**0.5 * math.sin(angle), abs=1e-5)


def test_bases_do_not_matter_and_dimensions_may_differ():
    u = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0)).double()
    turned = u @ torch.tensor([[2.0, 1.0], [0.0, -0.5]], dtype=torch.float64)
    assert torch.allclose(subspace_distance(u, turned), torch.zeros(3).double(), atol=1e-12)
    axes = torch.eye(6, dtype=torch.float64)
    assert float(subspace_distance(axes[:, :2], axes[:, 2:4])) == pytest.approx(2.0)
    assert float(subspace_distance(axes[:, :3], axes[:, :2])) == pytest.approx(1.0)  # one direction more
    with pytest.raises(ValueError, match="expected 6 rows"):
        subspace_distance(axes[:, :2], u[0])

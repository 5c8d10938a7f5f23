"""Spherical interpolation: endpoints, lengths, equal arcs, and grids."""

from __future__ import annotations

import math

import torch

from ornstein.conditions import slerp, slerp_grid


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


def test_ends_are_reached_and_unit_vectors_stay_unit():
    a, b = unit(50, 6), unit(50, 6, seed=1)
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)
    between = slerp(a, b, torch.rand(50, dtype=torch.float64))
    assert torch.allclose(between.norm(dim=1), torch.ones(50, dtype=torch.float64), atol=1e-12)


def test_the_angle_grows_in_proportion():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(2.0), math.sin(2.0)])
    for share in (0.1, 0.5, 0.8):
        angle = math.atan2(*reversed(slerp(a, b, share).tolist()))
        assert abs(angle - 2.0 * share) < 1e-12
    linear = (a + b) / 2
    assert float(linear.norm()) < 0.6  # what a linear rule would have given


def test_nearly_parallel_vectors_are_joined_by_a_line():
    a = unit(1, 8)
    b = a + 1e-7 * unit(1, 8, seed=1)
    assert torch.allclose(slerp(a, b, 0.25), 0.75 * a + 0.25 * b, atol=1e-12)
    near = unit(1, 3) + 3e-4 * unit(1, 3, seed=2)  # both sides of the switch agree
    assert torch.allclose(slerp(unit(1, 3), near, 0.3), 0.7 * unit(1, 3) + 0.3 * near, atol=1e-7)


def test_opposite_and_zero_vectors_give_finite_numbers_and_gradients():
    a = unit(1, 4).requires_grad_()
    for b in (-a.detach(), torch.zeros(1, 4)):
        found = slerp(a, b, 0.5)
        (slope,) = torch.autograd.grad(found.sum(), a)
        assert bool(found.isfinite().all() and slope.isfinite().all())


def test_a_constant_grid_is_constant_everywhere():
    grid = unit(3, 1, 1, 5).expand(3, 4, 6, 5)
    places = torch.rand(20, 2, dtype=torch.float64) * 8 - 1
    assert torch.allclose(slerp_grid(grid, places), grid[:, :1, 0].expand(3, 20, 5), atol=1e-12)


def test_a_grid_gives_its_nodes_its_borders_and_unit_vectors():
    grid = unit(2, 3, 4, 5)
    nodes = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))
    assert torch.allclose(slerp_grid(grid, nodes), grid.flatten(1, 2), atol=1e-12)
    beyond = slerp_grid(grid, torch.tensor([[-2.0, -1.0], [9.0, 9.0]]))
    assert torch.allclose(beyond, torch.stack([grid[:, 0, 0], grid[:, 2, 3]], 1))
    places = torch.rand(30, 2, dtype=torch.float64) * torch.tensor([2.0, 3.0])
    assert torch.allclose(slerp_grid(grid, places).norm(dim=2), torch.ones(2, 30), atol=1e-12)
    middle = slerp_grid(grid, torch.tensor([[0.0, 1.5]]))[:, 0]
    assert torch.allclose(middle, slerp(grid[:, 0, 1], grid[:, 0, 2], 0.5))

"""Codes by stages of time: which part is seen, and which one learns."""

from __future__ import annotations

import pytest
import torch

from ornstein.conditions import MODES, TimeMasked

ENDS, DIMS = (0.05, 0.1, 0.3, 0.5, 1.0), (2, 1, 4, 3, 2)  # stages of the paper's config, smaller parts
MIDDLES = torch.tensor([0.02, 0.07, 0.2, 0.4, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("mode", ["base", "both"])
def test_masks_grow_with_time_and_end_with_the_whole_code(mode):
    seen = TimeMasked(ENDS, DIMS, mode)(torch.ones(5, 12), MIDDLES)
    assert seen.sum(1).tolist() == [2, 3, 7, 10, 12]
    assert bool((seen.diff(dim=0) >= 0).all())


def test_stop_grad_shows_everything():
    z = torch.randn(5, 12)
    assert torch.equal(TimeMasked(ENDS, DIMS, "stop_grad")(z, MIDDLES), z)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_what_may_learn_and_nothing_else(mode):
    z = torch.randn(5, 12, requires_grad=True)
    TimeMasked(ENDS, DIMS, mode)(z, MIDDLES).square().sum().backward()
    ends = torch.tensor(DIMS).cumsum(0)
    for stage, row in enumerate(z.grad):
        first = 0 if mode == "base" else int(ends[stage]) - DIMS[stage]
        expected = torch.zeros(12, dtype=torch.bool)
        expected[first : int(ends[stage])] = True
        assert torch.equal(row != 0, expected)


@pytest.mark.parametrize("mode", MODES)
def test_one_part_is_the_identity(mode):
    z = torch.randn(4, 7, requires_grad=True)
    seen = TimeMasked([1.0], [7], mode)(z, 0.3)
    assert torch.equal(seen, z)
    assert torch.equal(torch.autograd.grad(seen.sum(), z)[0], torch.ones(4, 7))


def test_an_end_belongs_to_its_stage():
    mask = TimeMasked([0.5, 1.0], [1, 1], "base")
    assert mask(torch.ones(4, 2), torch.tensor([0.0, 0.5, 0.5 + 1e-9, 1.0]))[:, 1].tolist() == [0, 0, 1, 1]
    assert torch.equal(mask(torch.ones(1, 2), 0.7), torch.ones(1, 2))


def test_uniform_stages_share_the_code_out():
    mask = TimeMasked.uniform(8, 20)
    assert mask.size == 20 and len(mask.dims) == 8 and set(mask.dims) <= {2, 3}
    assert torch.allclose(mask.ends, torch.arange(1, 9) / 8)
    assert torch.equal(torch.cat(mask.parts(torch.arange(20.0)[None]), 1), torch.arange(20.0)[None])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([0.5, 0.4, 1.0], [1, 1, 1]), "rising"),
        (([0.5], [1]), "rising from above 0 to 1"),
        (([0.5, 1.0], [1]), "expected 2 numbers"),
        (([1.0], [1], "bsae"), "Did you mean 'base'"),
    ],
)
def test_what_makes_no_stages_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeMasked(*arguments)
    with pytest.raises(ValueError, match=r"codes \(B, 1\)"):
        TimeMasked([1.0], [1])(torch.zeros(2, 3), 0.5)

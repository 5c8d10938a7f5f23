from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from ornstein.networks import Block, SequenceTransformer


@pytest.fixture
def network(wake):
    torch.manual_seed(0)
    return wake(SequenceTransformer(7, 6, length=5, width=16, depth=2, heads=2).double())


@pytest.fixture
def block(wake):
    torch.manual_seed(0)
    return wake(Block(16, 4, 6).double())


def tokens(length=5):
    return torch.randn(2, length, 16, dtype=torch.double)


def vectors(groups=1):
    return torch.randn(2, groups, 6, dtype=torch.double)


def test_one_hot_rows_equal_ids_and_have_gradients(network):
    ids, level = torch.randint(7, (3, 5)), torch.randn(3).double()
    rows = one_hot(ids, 7).double().requires_grad_()
    output = network(rows, level)
    assert torch.allclose(output, network(ids, level), rtol=0, atol=1e-10)
    output.square().sum().backward()
    assert (rows.grad.abs() > 0).all()


def test_positions_are_all_that_tells_the_order(network):
    ids, order = torch.tensor([[0, 1, 2, 3, 4]]), torch.tensor([3, 0, 4, 1, 2])
    level = torch.zeros(1).double()
    assert not torch.allclose(network(ids[:, order], level), network(ids, level)[:, order])
    nn.init.zeros_(network.positions)
    assert torch.allclose(network(ids[:, order], level), network(ids, level)[:, order], atol=1e-10)


def test_every_token_reads_every_other(network):
    ids, level = torch.zeros(1, 5, dtype=torch.long), torch.zeros(1).double()
    for i in range(5):
        changed = ids.clone()
        changed[0, i] = 6
        assert ((network(changed, level) - network(ids, level)).abs().sum(-1) > 0).all()


def test_shorter_sequences_are_legal_and_longer_ones_refused(network):
    assert network(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2)).shape == (2, 3, 6)
    for wrong in (torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 5), torch.zeros(2, 5, 7).long()):
        with pytest.raises(ValueError, match=r"x: expected ids \(B, L\) or soft rows \(B, L, 7\)"):
            network(wrong, torch.zeros(2))
    with pytest.raises(ValueError, match="soft rows: expected 7 weights"):
        network(torch.zeros(2, 5, 6), torch.zeros(2))


def test_second_derivatives_are_right(network):
    rows = torch.rand(2, 3, 7, dtype=torch.double, requires_grad=True)
    level = torch.randn(2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda r, v: network(r, v), (rows, level), fast_mode=True)


def test_a_block_starts_as_the_identity():
    x = tokens()
    assert torch.equal(Block(16, 4, 6).double()(x, vectors()), x)


def test_a_block_does_not_see_the_order(block):
    x, c, order = tokens(), vectors(), torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(block(x[:, order], c), block(x, c)[:, order], atol=1e-10)
    assert not torch.allclose(block(x, c), x)


def test_groups_say_which_vector_modulates_a_token(block):
    x, c = tokens(), vectors(2)
    first = block(x, c, groups=torch.zeros(5, dtype=torch.long))
    assert torch.allclose(first, block(x, c[:, :1]), atol=1e-10)
    groups = torch.tensor([0, 1, 1, 0, 1])
    mixed = block(x, c, groups=groups)
    assert torch.allclose(mixed, block(x, c[:, groups]), atol=1e-10)
    assert not torch.allclose(mixed, first)


def test_a_masked_token_is_not_read(block):
    x, c = tokens(), vectors()
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, 3:] += 1
    before, after = block(x, c, mask=mask), block(changed, c, mask=mask)
    assert torch.allclose(before[:, :3], after[:, :3], rtol=0, atol=1e-12)
    assert ((before - after)[:, 3:].abs().sum(-1) > 1e-3).all()
    assert torch.allclose(block(x, c, mask=torch.ones_like(mask)), block(x, c), atol=1e-12)


def test_a_block_is_its_formula(wake):
    class Halve(nn.Module):
        def forward(self, x):
            return x / 2

    block = wake(Block(16, 4, 6, ffn=Halve()).double())
    x, c = tokens(), vectors()
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = block.modulation(nn.functional.silu(c)).chunk(
        6, dim=-1
    )

    def normed(v):
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    h = x + gate_1 * block.attention((1 + scale_1) * normed(x) + shift_1)
    h = h + gate_2 * ((1 + scale_2) * normed(h) + shift_2) / 2
    assert torch.allclose(block(x, c), h, atol=1e-10)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads: expected a divisor of the width 16, got 3"):
        SequenceTransformer(7, 6, length=5, width=16, heads=3)

"""The blockwise transformer: who reads whom, and that a cache changes nothing."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition
from ornstein.networks import Block, BlockwiseTransformer, KVCache, skip_causal
from ornstein.networks.patches import Blocks
from ornstein.networks.rotary import waves

SIZE, GRID = (4, 6), (2, 3)
EXACT = 1e-12


@pytest.fixture
def network(wake):
    torch.manual_seed(0)
    return wake(BlockwiseTransformer(2, SIZE, GRID, width=16, depth=3, heads=2, labels=5).double())


def states():
    return torch.randn(2, 3, 2, *SIZE, dtype=torch.double).unbind(0)


def levels():
    return torch.randn(3, 6).double()


def label(*ids):
    return Condition({"label": torch.tensor(ids)})


@pytest.mark.parametrize("blocks, tokens", [(1, 4), (3, 2), (5, 1), (4, 3)])
def test_the_mask_reads_its_share_of_pairs(blocks, tokens):
    mask = skip_causal(blocks, tokens)
    assert mask.sum() == (blocks**2 + blocks) * tokens**2
    half = blocks * tokens
    assert not mask[:half, half:].any()  # clean tokens never see noised ones
    own = torch.arange(half) // tokens
    assert torch.equal(mask[half:, half:], own[:, None] == own[None])
    assert torch.equal(mask[half:, :half], own[None] < own[:, None])
    assert torch.equal(mask[:half, :half], own[None] <= own[:, None])


def test_gradients_flow_from_earlier_clean_blocks_and_from_the_block_itself(network):
    clean, noised = (v.requires_grad_() for v in states())
    output = network(noised, levels(), label(0, 1, 2), clean=clean)
    layout = network.layout
    for i in range(6):
        gradients = torch.autograd.grad(
            layout.cut(output)[:, i].square().sum(), (clean, noised), retain_graph=True
        )
        from_clean, from_noised = (layout.cut(g).abs().flatten(2).sum(2) for g in gradients)
        assert (from_clean[:, :i] > 0).all()
        assert (from_clean[:, i:] == 0).all()
        assert (from_noised[:, i] > 0).all()
        assert from_noised.sum() == from_noised[:, i].sum()


def test_one_block_is_a_plain_bidirectional_transformer_on_the_noised_half(wake):
    network = wake(BlockwiseTransformer(1, (2, 3), grid=1, width=16, depth=2, heads=2).double())
    x, clean = torch.randn(2, 2, 1, 2, 3).double().unbind(0)
    clean.requires_grad_()
    level, positions = torch.randn(2).double(), network.positions
    h = network.stem(x.flatten(1)[..., None]) + waves(positions, 16).double()
    c = network.conditioning(level)[:, None]
    for block in network.blocks:
        assert isinstance(block, Block)
        h = block(h, c, positions=positions)
    output = network(x, level, clean=clean)
    assert torch.allclose(network.head(h, c)[..., 0], output.flatten(1), rtol=0, atol=EXACT)
    assert torch.autograd.grad(output.sum(), clean)[0].abs().max() == 0


def test_the_cached_pass_is_the_whole_pass_for_every_block(network):
    clean, noised = states()
    level, condition = levels(), label(0, 1, 2)
    whole = network.layout.cut(network(noised, level, condition, clean=clean))
    given, asked = (network.layout.cut(v) for v in (clean, noised))
    cache = KVCache()
    for i in range(6):
        made = network.predict(asked[:, i], i, level[:, i], condition, cache)
        assert torch.allclose(made, whole[:, i], rtol=0, atol=EXACT)
        cache = network.read(given[:, i], i, cache)


def test_levels_and_labels_leave_clean_tokens_as_they_are_bit_for_bit(network):
    clean, noised = states()
    seen = []
    half = 24
    for block in network.blocks:
        block.attention.qkv.register_forward_hook(lambda m, given, out: seen.append(out[:, :half]))
    network(noised, levels(), label(0, 1, 2), clean=clean)
    network(torch.randn_like(noised), levels(), label(4, 4, 3), clean=clean)
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True))


def test_a_clean_token_and_its_noised_copy_share_a_position(network):
    where = network.positions.unflatten(1, (6, 4))
    assert where[:, 0].tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert where[:, 4].tolist() == [[2, 2, 3, 3], [2, 3, 2, 3]]
    assert where.shape == (2, 6, 4)


def test_one_level_for_all_is_as_many_equal_ones(network):
    clean, noised = states()
    level = torch.randn(3).double()
    one, many = (network(noised, v, clean=clean) for v in (level, level[:, None].expand(-1, 6)))
    assert torch.allclose(one, many, rtol=0, atol=EXACT)


def test_patches_inside_blocks(wake):
    network = wake(BlockwiseTransformer(1, (8,), grid=2, patch=2, width=16, depth=2, heads=2).double())
    assert network.tokens == 2
    clean, noised = torch.randn(2, 3, 1, 8).double().unbind(0)
    whole = network.layout.cut(network(noised, torch.zeros(3, 2).double(), clean=clean))
    cache = network.read(clean[..., :4], 0, KVCache())
    made = network.predict(noised[..., 4:], 1, torch.zeros(3).double(), None, cache)
    assert torch.allclose(made, whole[:, 1], rtol=0, atol=EXACT)


def test_experts_are_routed_token_by_token_with_a_cache_too(wake):
    options = {"hidden": 8, "experts": {"experts": 4}}
    network = wake(BlockwiseTransformer(2, SIZE, GRID, width=16, depth=2, heads=2, **options).double())
    clean, noised = states()
    whole, given = network.layout.cut(network(noised, levels() * 0, clean=clean)), network.layout.cut(clean)
    cache = network.read(given[:, 0], 0, KVCache())
    made = network.predict(network.layout.cut(noised)[:, 1], 1, torch.zeros(3).double(), None, cache)
    assert torch.allclose(made, whole[:, 1], rtol=0, atol=EXACT)


def test_blocks_are_cut_and_joined():
    layout = Blocks(SIZE, GRID)
    x = torch.arange(24.0).reshape(1, 1, *SIZE)
    assert layout.count == 6
    assert layout.cut(x)[0, 1, 0].tolist() == [[2, 3], [8, 9]]
    assert torch.equal(layout.join(layout.cut(x)), x)
    times = torch.rand(3, 6).double()
    assert torch.equal(layout.times(layout.spread(times)), times)
    assert torch.equal(layout.times(0.3), torch.full((1, 6), 0.3, dtype=torch.double))
    assert torch.equal(layout.times(times[:, 0]), times[:, :1].expand(-1, 6))


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"grid: expected divisors of the size \(4, 6\), got \(3, 3\)"):
        BlockwiseTransformer(1, SIZE, 3)
    with pytest.raises(ValueError, match=r"patch: expected divisors of the block \(2, 2\), got \(2, 3\)"):
        BlockwiseTransformer(1, SIZE, GRID, patch=(2, 3))
    with pytest.raises(ValueError, match=r"t: expected a number, \(B,\), or \(B, 1, \(4, 6\)\)"):
        Blocks(SIZE, GRID).times(torch.zeros(2, 2))

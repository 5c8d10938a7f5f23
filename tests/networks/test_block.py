"""The contract of the transformer block: positions, masks, caches, text and what it reports."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ornstein.core import Condition
from ornstein.denoisers import NetworkDenoiser
from ornstein.diagnostics import pooled_features
from ornstein.networks import Block, JointBlock, KVCache, MoE, SwiGLU, Transformer, tap_names, tapped
from ornstein.networks.norms import RMSNorm
from ornstein.networks.patches import from_patches, to_patches
from ornstein.networks.rotary import grid_positions, rotate, waves
from ornstein.processes import RectifiedFlow


def tokens(length=6, width=16):
    return torch.randn(2, length, width, dtype=torch.double)


def vectors(groups=1):
    return torch.randn(2, groups, 6, dtype=torch.double)


@pytest.fixture
def make(wake):
    torch.manual_seed(0)
    return lambda **options: wake(Block(16, 4, 6, **options).double())


def test_norms_are_their_formulas_and_are_made_in_float32():
    x = torch.randn(3, 8)
    norm = RMSNorm(8)
    norm.weight.data.uniform_(0.5, 2)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, atol=1e-6)
    huge = torch.full((1, 8), 3e3, dtype=torch.float16)  # its square is infinite in float16
    assert norm.half()(huge).isfinite().all()


def test_scores_of_rotated_tokens_depend_on_differences_of_positions():
    q, k = torch.randn(2, 1, 1, 6, 12, dtype=torch.double)
    where, bases = grid_positions((2, 3)), (10.0, 100.0)
    moved = where + torch.tensor([[5], [7]])
    scores = [rotate(q, p, bases) @ rotate(k, p, bases).mT for p in (where, moved)]
    assert torch.allclose(*scores, atol=1e-12)
    assert not torch.allclose(scores[0], q @ k.mT, atol=1e-3)
    assert torch.allclose(rotate(q, where, bases).norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(rotate(q, 0 * where, bases), q)


def test_both_axes_of_a_grid_turn_tokens():
    x, where = torch.ones(1, 1, 4, 9, dtype=torch.double), grid_positions((2, 2))
    assert where.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    turned = rotate(x, where, (10.0, 10.0))[0, 0]
    assert len({tuple(row.tolist()) for row in turned}) == 4
    assert (turned[:, 8] == 1).all()  # what the axes do not share out evenly
    assert len({tuple(row.tolist()) for row in waves(where, 9)}) == 4


def test_tokens_that_are_not_modulated_do_not_depend_on_the_vectors(make):
    block, x, which = make(norm="rms"), tokens(), torch.tensor([False, True] * 3)
    mask = torch.eye(6, dtype=torch.bool)
    one, other = (block(x, vectors(), modulated=which, mask=mask) for _ in range(2))
    assert torch.equal(one[:, ~which], other[:, ~which])
    assert ((one - other)[:, which].abs().amax(-1) > 1e-3).all()
    plain = x + block.attention(block.norms[0](x), mask)
    plain = plain + block.ffn(block.norms[1](plain))
    assert torch.allclose(one[:, ~which], plain[:, ~which], atol=1e-12)
    assert torch.equal(block(x, None, mask=mask)[:, ~which], one[:, ~which])


def test_a_mask_may_be_a_predicate(make):
    block, x, c = make(), tokens(), vectors()
    dense = torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.equal(block(x, c, mask=lambda q, k: k <= q), block(x, c, mask=dense))


def test_a_cache_gives_what_one_pass_gives(make):
    block, x, c = make(qk_norm=True, bases=(50.0,)), tokens(), vectors()
    where = torch.arange(6)[None]
    whole = block(x, c, positions=where, mask=lambda q, k: k // 2 <= q // 2)
    cache, parts = KVCache(), []
    for i in range(0, 6, 2):
        slots = cache.read(1, grows=True)
        parts.append(block(x[:, i : i + 2], c, positions=where[:, i : i + 2], cache=slots[0]))
        before, cache = cache, KVCache.append(slots)
        assert before.length == i
        assert cache.length == i + 2
    assert torch.allclose(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


def test_a_cache_is_read_without_growing_and_forks_and_reorders_as_a_value(make):
    block, x, c = make(), tokens(), vectors()
    slots = KVCache().read(1, grows=True)
    block(x[:, :3], c, cache=slots[0])
    cache = KVCache.append(slots)
    later = [block(x[:, 3:], c, cache=cache.read(1)[0]) for _ in range(2)]
    assert torch.equal(*later)
    assert cache.length == 3
    swapped = cache.reorder(torch.tensor([1, 0]))
    assert torch.allclose(
        block(x[[1, 0], 3:], c[[1, 0]], cache=swapped.read(1)[0]), later[0][[1, 0]], atol=1e-12
    )
    forked = block(*(v.repeat_interleave(3, 0) for v in (x[:, 3:], c)), cache=cache.fork(3).read(1)[0])
    assert torch.allclose(forked, later[0].repeat_interleave(3, 0), atol=1e-12)


def test_cross_attention_reads_the_tokens_that_are_there(make):
    block, x, c, text = make(cross=3), tokens(), vectors(), tokens(5, 3)
    shown = torch.tensor([[True] * 5, [True, True, False, False, False]])
    changed = text.clone()
    changed[1, 2:] += 1
    one, other = (block(x, c, tokens=v, tokens_mask=shown) for v in (text, changed))
    assert torch.equal(one, other)
    assert not torch.allclose(one[1], block(x, c, tokens=changed)[1], atol=1e-4)
    assert torch.equal(one[0], block(x, c, tokens=text)[0])
    nn.init.zeros_(block.cross_gate)
    assert torch.equal(block(x, c, tokens=text), block(x, c))


def test_two_streams_with_one_set_of_weights_are_one_stream(wake):
    pair = wake(JointBlock(16, 4, 6).double())
    pair.other.load_state_dict(pair.own.state_dict())
    x, y, c = tokens(4), tokens(3), vectors()
    both = pair.own(torch.cat([x, y], dim=1), c)
    assert torch.allclose(torch.cat(pair(x, c, y), dim=1), both, atol=1e-12)
    shown = torch.tensor([[True, False, False]] * 2)
    assert torch.allclose(pair(x, c, y, tokens_mask=shown)[0], pair(x, c, y[:, :1])[0], atol=1e-12)


@pytest.mark.parametrize("joint", [False, True])
def test_a_row_without_a_text_is_a_missing_text(joint, wake):
    network = wake(Transformer(1, width=16, depth=2, heads=2, text=3, joint=joint).double())
    assert network.fields == {"text"}
    x, level = torch.randn(2, 1, 4, 4, dtype=torch.double), torch.zeros(2).double()
    present = {"text": torch.tensor([True, False])}
    for given in (tokens(5, 3), {"tokens": tokens(5, 3), "mask": torch.ones(2, 5, dtype=torch.bool)}):
        one, missing = (network(x, level, v) for v in (Condition({"text": given}, present), None))
        assert torch.allclose(one[1], missing[1], atol=1e-12)
        assert not torch.allclose(one[0], missing[0], atol=1e-4)
    with pytest.raises(ValueError, match=r"text: expected \(B, S, 3\)"):
        network(x, level, Condition({"text": tokens(5, 4)}))


def test_any_size_is_cut_and_joined_again():
    x = torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7).float()
    made, sizes = to_patches(x, (2, 3))
    assert sizes == (3, 3)
    assert torch.equal(made[0, 0].reshape(3, 2, 3), x[0, :, :2, :3])
    assert torch.equal(from_patches(made, (2, 3), sizes, (5, 7)), x)


def test_long_skips_join_the_first_half_to_the_second(wake):
    network = wake(Transformer(1, width=16, depth=4, heads=2, skips=True).double())
    assert len(network.skips) == 2
    x, level, seen = torch.randn(1, 1, 4, 4, dtype=torch.double), torch.zeros(1).double(), {}
    for i, block in enumerate(network.blocks):
        block.register_forward_hook(lambda m, given, out, i=i: seen.update({i: (given[0], out)}))
    network(x, level)
    for i, (late, early) in enumerate(((2, 1), (3, 0))):
        joined = torch.cat([seen[late - 1][1], seen[early][1]], dim=-1)
        assert torch.allclose(network.skips[i](joined), seen[late][0], atol=1e-12)


def test_what_blocks_report_is_collected_by_layer(wake):
    network = wake(Transformer(1, width=16, depth=3, heads=2, hidden=8, experts={"experts": 4}).double())
    assert network.reports
    x, level, found = torch.randn(2, 1, 4, 4, dtype=torch.double), torch.zeros(2).double(), {}
    output = network(x, level, collect=found)
    assert torch.equal(output, network(x, level))
    assert [v.shape for v in found["routing"]] == [(2, 4, 2)] * 3
    assert all(v.ndim == 0 and v > 0 for v in found["balance"])
    assert not Transformer(1, width=16, depth=1, heads=2, hidden=8).reports


@pytest.mark.parametrize(
    "options",
    [{"text": 3}, {"text": 3, "joint": True}, {"hidden": 8, "experts": {}}],
    ids=str,
)
def test_every_option_compiles_as_one_graph(options, wake):
    torch.compiler.reset()
    network = wake(Transformer(1, width=16, depth=1, heads=2, **options))
    x, level = torch.randn(2, 1, 5, 4), torch.zeros(2)
    condition = Condition({"text": torch.randn(2, 3, 3)}) if "text" in options else None
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x.requires_grad_()
    plain, made = network(x, level, condition), compiled(x, level, condition)
    assert torch.allclose(plain, made, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(v.square().sum(), x)[0] for v in (plain, made)]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_a_block_of_experts_with_one_expert_is_the_dense_block(make):
    dense = make(ffn=SwiGLU(16, 8))
    sparse = copy.deepcopy(dense)
    sparse.ffn = MoE(16, experts=1, chosen=1, hidden=8).double().upcycle(dense.ffn)
    x, c = tokens(), vectors()
    assert torch.allclose(sparse(x, c), dense(x, c), rtol=0, atol=1e-12)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="unknown norm 'batch'"):
        Block(16, 4, 6, norm="batch")
    with pytest.raises(ValueError, match="heads: a head of 2 features cannot turn about 2 axes"):
        Block(16, 8, 6, bases=(10.0, 10.0))
    with pytest.raises(ValueError, match="joint: needs a text"):
        Transformer(1, joint=True)
    with pytest.raises(ValueError, match="patch: expected a positive integer or 2"):
        Transformer(1, patch=(2,))
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 1, H, W\)"):
        Transformer(1, width=16, heads=2)(torch.zeros(2, 3, 4, 4), torch.zeros(2))


def as_last(block, **options):
    """The block with its second stream ending there, of the same weights."""
    made = JointBlock(16, 4, 6, last=True, **options).double()
    made.own.load_state_dict(block.own.state_dict())
    other, state = block.other, made.other
    state.modulation.weight.data, state.modulation.bias.data = (
        v.data[:32].clone() for v in (other.modulation.weight, other.modulation.bias)
    )
    state.kv.weight.data, state.kv.bias.data = (
        v.data[16:].clone() for v in (other.attention.qkv.weight, other.attention.qkv.bias)
    )
    if options.get("norm") == "rms":
        state.norm.load_state_dict(other.norms[0].state_dict())
    if options.get("qk_norm"):
        state.key_norm.load_state_dict(other.attention.norms[1].state_dict())
    return made


@pytest.mark.parametrize("options", [{}, {"norm": "rms", "qk_norm": True}], ids=str)
def test_where_a_second_stream_ends_the_first_comes_out_as_ever(options, wake):
    block = wake(JointBlock(16, 4, 6, **options).double())
    made, x, c, text = as_last(block, **options), tokens(4), vectors(), tokens(3)
    for shown in (None, torch.tensor([[True, True, False], [True] * 3])):
        first, second = made(x, c, text, tokens_mask=shown)
        assert torch.allclose(first, block(x, c, text, tokens_mask=shown)[0], rtol=0, atol=1e-13)
        assert second is text
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in block.parameters())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_every_parameter_of_two_streams_has_a_gradient(depth, norm):
    options = {"hidden": 8, "experts": {"experts": 2}, "labels": 3}
    network = Transformer(1, width=16, depth=depth, heads=2, text=3, joint=True, qk_norm=norm, **options)
    condition = Condition({"text": torch.randn(2, 5, 3), "label": torch.tensor([0, 1])})
    network(torch.randn(2, 1, 4, 4), torch.zeros(2), condition).square().sum().backward()
    assert [k for k, p in network.named_parameters() if p.grad is None] == []


def test_what_the_first_of_two_streams_reports_is_collected():
    options = {"hidden": 8, "experts": {"experts": 4}}
    network, found = Transformer(1, width=16, depth=3, heads=2, text=3, joint=True, **options), {}
    network(torch.randn(2, 1, 4, 4), torch.zeros(2), collect=found)
    assert [v.shape for v in found["routing"]] == [(2, 4, 2)] * 3
    assert len(found["balance"]) == 3


def test_a_tap_on_a_block_of_two_streams_keeps_the_first():
    network = Transformer(1, width=16, depth=2, heads=2, text=3, joint=True)
    x, level, seen = torch.randn(2, 1, 4, 4), torch.zeros(2), []
    network.blocks[0].register_forward_hook(lambda module, given, output: seen.append(output[0]))
    with tapped(network, tap_names(network)) as taken:
        network(x, level)
    assert taken["blocks.0"] is seen[0]
    assert [v.shape for v in taken.values()] == [(2, 4, 16)] * 2
    model = NetworkDenoiser(network, RectifiedFlow(), "velocity", (1, 4, 4))
    assert pooled_features(model, x, 0.3, ["blocks.1"])["blocks.1"].shape == (2, 16)


@pytest.mark.parametrize("given", [2.0, (2, 1.5), "ab"])
def test_sizes_that_are_no_whole_numbers_are_refused_by_name(given):
    with pytest.raises(ValueError, match="patch: expected a positive integer or 2 of them"):
        Transformer(1, patch=given)

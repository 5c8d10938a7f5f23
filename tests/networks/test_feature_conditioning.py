"""Networks that see their own features, a vector, or a code."""

from __future__ import annotations

import copy

import pytest
import torch

from ornstein import denoisers, processes
from ornstein.adapters import JointAttention
from ornstein.core import Condition, build
from ornstein.networks import (
    BlockwiseTransformer,
    Concatenated,
    Embedded,
    Encoder,
    FeatureConditioned,
    MultiHead,
    Paired,
    SequenceTransformer,
    ShiftBranch,
    Transformer,
    UNet,
    tapped,
)


def filled(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator)
    return network


def unet():
    return filled(UNet(1, width=8, multipliers=(1, 2, 2)))


def words():
    return filled(SequenceTransformer(5, 4, 6, width=8, depth=3, heads=2))


def patched():
    return filled(Transformer(1, dims=2, patch=2, width=8, depth=3, heads=2, skips=True))


X, LEVEL, IDS = torch.randn(3, 1, 8, 8), torch.tensor([-2.0, 0.0, 3.0]), torch.randint(5, (3, 6))
CASES = [
    (unet, "decoder.0", 16, X),
    (unet, "middle", 16, X),
    (words, "blocks.1", 8, IDS),
    (patched, "blocks.1", 8, X),
]


def sparse(channels=1, **options):
    """A transformer whose blocks report the balance of their experts."""
    return Transformer(channels, width=8, depth=2, heads=2, experts={"experts": 4}, **options)


@pytest.mark.parametrize("made, at, features, x", CASES)
def test_at_the_start_it_is_the_network_bit_for_bit(made, at, features, x):
    network = made()
    expected = network(x, LEVEL)
    assert torch.equal(FeatureConditioned(network, at, features)(x, LEVEL), expected)


@pytest.mark.parametrize("made, at, features, x", CASES)
def test_at_the_start_the_networks_gradients_are_unchanged(made, at, features, x):
    network = made()
    network(x, LEVEL).square().sum().backward()
    expected = {k: p.grad.clone() for k, p in network.named_parameters()}
    network.zero_grad()
    wrapped = FeatureConditioned(network, at, features)
    wrapped(x, LEVEL).square().sum().backward()
    assert all(torch.allclose(p.grad, expected[k]) for k, p in network.named_parameters())
    assert wrapped.project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("made, at, features, x", CASES)
def test_later_blocks_see_the_pooled_features_and_earlier_ones_do_not(made, at, features, x):
    wrapped = FeatureConditioned(made(), at, features)
    torch.nn.init.normal_(wrapped.project.weight)
    earlier = ["blocks.0" if at == "blocks.1" else "encoder.0"]
    with tapped(wrapped, [*earlier, at, wrapped.later[-1]]) as steered:
        wrapped(x, LEVEL)
    with tapped(wrapped.network, [*earlier, at, wrapped.later[-1]]) as plain:
        wrapped.network(x, LEVEL)
    for name in (*earlier, at):
        assert torch.equal(steered[name], plain[name])
    assert not torch.allclose(steered[wrapped.later[-1]], plain[wrapped.later[-1]], atol=1e-3)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wrapped.modules())


def test_a_rows_output_does_not_depend_on_its_batch_and_copies_are_independent():
    wrapped = FeatureConditioned(unet(), "decoder.0", 16)
    torch.nn.init.normal_(wrapped.project.weight)
    whole = wrapped(X, LEVEL)
    assert torch.allclose(wrapped(X[1:2], LEVEL[1:2]), whole[1:2], atol=1e-4)
    other = copy.deepcopy(wrapped)
    torch.nn.init.zeros_(wrapped.project.weight)
    assert torch.equal(other(X, LEVEL), whole) and not torch.equal(wrapped(X, LEVEL), whole)


def test_feature_conditioning_is_written_and_rebuilt():
    wrapped = FeatureConditioned(UNet(1, width=8, multipliers=(1, 2), labels=4), "middle", 16)
    assert wrapped.fields == {"label"} and wrapped.labels == 4
    again = build(wrapped.spec())
    again.load_state_dict(wrapped.state_dict())
    assert torch.equal(again(X, LEVEL), wrapped(X, LEVEL))


def test_pooling_all_tokens_is_refused_where_it_would_leak():
    class TokenWise(SequenceTransformer):
        def forward(self, x, level, condition=None):
            h, c = self.tokens(x), self.conditioning(level)[:, None].repeat(1, 6, 1)
            for block in self.blocks:
                h = block(h, c)
            return h

    wrapped = FeatureConditioned(TokenWise(5, 4, 6, width=8, depth=3, heads=2), "blocks.0", 8)
    with pytest.raises(ValueError, match="leak the future"):
        wrapped(IDS, LEVEL)


def test_what_the_parts_of_a_network_report_is_heard_through_it():
    network = Transformer(1, dims=2, patch=2, width=8, depth=3, heads=2, experts={"experts": 4, "chosen": 2})
    wrapped = FeatureConditioned(network, "blocks.0", 8)
    model = denoisers.NetworkDenoiser(wrapped, processes.VariancePreserving(), "noise", (1, 8, 8)).train()
    assert wrapped.reports
    assert model(X, 0.5).heads["losses"]["balance"].requires_grad


@pytest.mark.parametrize("at, message", [("decoder.1", "block with others after it"), ("midle", "'middle'")])
def test_blocks_that_cannot_be_read_are_refused(at, message):
    with pytest.raises(ValueError, match=message):
        FeatureConditioned(unet(), at, 16)
    with pytest.raises(ValueError, match="gives 16, not 8"):
        FeatureConditioned(unet(), "middle", 8)(X, LEVEL)


def test_an_embedding_is_read_and_an_absent_one_is_the_zero_vector():
    network = Embedded(UNet(1, width=8, multipliers=(1, 2)), 5)
    filled(network)
    vector = torch.randn(3, 5)
    told = network(X, LEVEL, Condition({"embedding": vector}))
    assert not torch.allclose(told, network(X, LEVEL), atol=1e-3)
    zero = network(X, LEVEL, Condition({"embedding": torch.zeros(3, 5)}))
    some = Condition({"embedding": vector}).dropped(torch.tensor([True, False, True]))
    mixed = network(X, LEVEL, some)
    assert torch.equal(network(X, LEVEL), zero)
    assert torch.allclose(mixed[[0, 2]], zero[[0, 2]], atol=1e-5) and torch.allclose(
        mixed[1], told[1], atol=1e-5
    )
    again = build(network.spec())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(X, LEVEL, Condition({"embedding": vector})), told) and again.fields == {
        "embedding"
    }


def test_a_shift_branch_starts_at_zero_and_decodes_the_frozen_half():
    network = unet()
    branch = ShiftBranch(network, 4)
    with tapped(network, branch.taps) as taken:
        output = network(X, LEVEL)
    assert torch.equal(branch(taken, torch.randn(3, 4)), torch.zeros_like(X))
    branch.out.load_state_dict(
        network.out.state_dict()
    )  # with the frozen output and no code it is the frozen network
    for p in branch.told.parameters():
        torch.nn.init.zeros_(p)
    assert torch.allclose(branch(taken, torch.randn(3, 4)), output, atol=1e-5)
    shared = {id(p) for p in network.parameters()} & {id(p) for p in branch.parameters()}
    assert not shared and all(p.requires_grad for p in branch.parameters())


def test_an_encoder_says_where_things_are_and_is_row_wise():
    encoder = filled(Encoder(1, 6, width=8))
    x = torch.randn(4, 1, 8, 8)
    code = encoder(x)
    assert code.shape == (4, 6)
    assert torch.allclose(encoder(x[2:3]), code[2:3], atol=1e-4)
    assert not torch.allclose(encoder(x.flip(3)), code, atol=1e-2)
    assert encoder(torch.randn(1, 1, 13, 9)).shape == (1, 6)


def joined():
    return filled(Transformer(1, patch=2, width=8, depth=3, heads=2, text=3, joint=True))


@pytest.mark.parametrize("made, at, features, x", [*CASES, (joined, "blocks.0", 8, X)])
def test_what_later_blocks_are_given_is_the_formula(made, at, features, x):
    wrapped, given = FeatureConditioned(made(), at, features), []
    filled(wrapped.project)
    last = wrapped.network.get_submodule(wrapped.later[-1])
    last.register_forward_hook(lambda module, inputs, output: given.append(inputs[1].flatten(1)))
    with tapped(wrapped, [at]) as taken:
        wrapped(x, LEVEL)
    wrapped.network(x, LEVEL)
    h = taken[at]
    pooled = h.mean(1) if at.startswith("blocks.") else h.flatten(2).mean(2)
    normed = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, False, keepdim=True) + 1e-5).sqrt()
    expected = given[1] + (1 + wrapped.gain(LEVEL)) * wrapped.project(normed)
    assert torch.allclose(given[0], expected, rtol=1e-4, atol=1e-5)
    level, silent = wrapped.network.conditioning(LEVEL), torch.nn.functional.silu
    assert torch.allclose(given[1], silent(level) if isinstance(wrapped.network, UNet) else level)


def pair(x):
    return {"previous": x, "next": x}


AROUND = [
    (lambda: Embedded(sparse(), 5), X, LEVEL, None),
    (lambda: Concatenated(sparse(3, out_channels=1), 1), X, LEVEL, None),
    (lambda: Paired(sparse(4, out_channels=1)), pair(X), pair(LEVEL), Condition(pair(X))),
    (lambda: MultiHead(sparse(), {"name": TokenHead()}, "blocks.1"), X, LEVEL, None),
    (lambda: JointAttention(sparse(), ("previous", "next"), 2), pair(X), pair(LEVEL), None),
]


class TokenHead(torch.nn.Module):
    def forward(self, h):
        return h.mean(1)


@pytest.mark.parametrize("around, x, level, condition", AROUND, ids=[*"ecpmj"])
def test_every_network_around_another_hands_on_what_its_parts_report(around, x, level, condition):
    made, found = around(), {}
    assert made.reports
    made(x, level, condition, collect=found)
    assert len(found["balance"]) == 2


@pytest.mark.parametrize("mode, losses", [("train", {"balance"}), ("eval", set())])
def test_a_network_of_several_heads_learns_the_balance_of_its_experts(mode, losses):
    network = MultiHead(sparse(labels=3), {"name": TokenHead()}, "blocks.1")
    assert network.labels == 3 and network.fields == {"label"}
    model = getattr(denoisers.MultiTask(network, processes.VariancePreserving(), "noise", (1, 8, 8)), mode)()
    assert set(model(X, 0.5).heads.get("losses", {})) == losses


def test_heads_read_the_network_inside_others():
    network = MultiHead(Embedded(patched(), 5), {"name": TokenHead()}, "blocks.1")
    assert network(X, LEVEL)["name"].shape == (3, 8)
    with pytest.raises(ValueError, match=r"unknown module 'blocks\.9'"):
        MultiHead(Embedded(patched(), 5), {"name": TokenHead()}, "blocks.9")


def test_an_embedding_is_refused_where_every_block_has_a_vector():
    with pytest.raises(
        ValueError, match="network: a BlockwiseTransformer has a conditioning vector for each"
    ):
        Embedded(BlockwiseTransformer(1, (4, 4), width=8, depth=1, heads=2), 5)

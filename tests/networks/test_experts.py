"""Mixture of experts: what it computes, whatever way its tokens are sorted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ornstein.networks import MoE, SwiGLU
from ornstein.networks.experts import grouped_matmul


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens(length=7):
    return torch.randn(3, length, 6, dtype=torch.double)


def mixture(**options):
    return MoE(6, **{"experts": 4, "hidden": 5, **options}).double()


def naive(moe, x):
    """The sum over experts, token by token."""
    shares = (x @ moe.router.weight.T).softmax(-1)
    weights, choice = shares.topk(moe.chosen, dim=-1)
    if moe.renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros_like(x) if moe.shared is None else moe.shared(x)
    for k in range(moe.chosen):
        for e in range(moe.experts):
            gate, value = (x @ moe.inner[e]).chunk(2, -1)
            made = (F.silu(gate) * value) @ moe.outer[e]
            out = out + torch.where((choice[..., k] == e)[..., None], weights[..., k : k + 1] * made, 0.0)
    return out


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "options", [{}, {"chosen": 1}, {"shared": 3}, {"renormalise": True, "chosen": 3}], ids=str
)
def test_sorting_by_expert_is_the_loop_over_experts(options, mode):
    moe, x = mixture(**options), tokens().requires_grad_()
    getattr(moe, mode)()
    found, expected = moe(x), naive(moe, x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    inputs = [x, *moe.parameters()]
    pairs = zip(*(torch.autograd.grad(v.square().sum(), inputs) for v in (found, expected)), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in pairs)
    assert torch.autograd.grad(moe(x).sum(), x)[0].abs().sum() > 0


def test_one_expert_is_the_dense_network():
    dense = SwiGLU(6, 5).double()
    moe = mixture(experts=1, chosen=1).upcycle(dense)
    x = tokens()
    assert torch.allclose(moe(x), dense(x), rtol=0, atol=1e-12)


def test_equal_experts_are_the_dense_network_only_where_weights_are_renormalised():
    dense, x = SwiGLU(6, 5).double(), tokens()
    same = mixture(renormalise=True).upcycle(dense)
    assert torch.allclose(same(x), dense(x), rtol=0, atol=1e-12)
    released = mixture().upcycle(dense)
    top = released.router(x).softmax(-1).topk(2, dim=-1).values.sum(-1, keepdim=True)
    assert torch.allclose(released(x), top * dense(x), rtol=0, atol=1e-12)
    assert (top < 0.7).all()  # so upcycling as released changes the function
    full = mixture(chosen=4).upcycle(dense)
    assert torch.allclose(full(x), dense(x), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="dense: its inner layer"):
        mixture().upcycle(SwiGLU(6, 4))


def test_balance_is_alpha_where_the_router_is_uniform_whatever_the_choice():
    moe, x = mixture(balance=0.03), tokens()
    torch.nn.init.zeros_(moe.router.weight)
    found = {}
    moe(x, found)
    assert torch.allclose(found["balance"][0], torch.tensor(0.03).double(), rtol=1e-12)
    assert len(found["routing"][0].unique()) < 4  # ties all fall on the same experts: f is far from uniform


def test_balance_is_its_formula_and_pushes_towards_idle_experts():
    moe, x, found = mixture(balance=1.0), tokens(), {}
    moe(x, found)
    shares = moe.router(x).softmax(-1).flatten(0, 1)
    frequency = F.one_hot(found["routing"][0].flatten(), 4).double().mean(0) * 4
    assert torch.allclose(found["balance"][0], (frequency * shares.mean(0)).sum())
    for _ in range(100):
        found = {}
        moe(x, found)
        (gradient,) = torch.autograd.grad(found["balance"][0], moe.router.weight)
        moe.router.weight.data -= 0.5 * gradient
    after = F.one_hot(found["routing"][0].flatten(), 4).double().mean(0) * 4
    assert after.max() <= frequency.max()
    assert found["balance"][0] < 1.05


def test_renaming_experts_changes_nothing():
    moe, x, order = mixture(shared=3), tokens(), torch.tensor([2, 0, 3, 1])
    before = moe(x)
    for parameter in (moe.router.weight, moe.inner, moe.outer):
        parameter.data = parameter.data[order]
    assert torch.allclose(moe(x), before, rtol=0, atol=1e-12)


def test_tokens_pass_one_by_one():
    moe, x, order = mixture(), tokens(), torch.randperm(7)
    assert torch.allclose(moe(x[:, order]), moe(x)[:, order], rtol=0, atol=1e-12)
    assert torch.allclose(moe(x[1, 2:3]), moe(x)[1, 2:3], rtol=0, atol=1e-12)


def test_weights_are_those_of_the_softmax_over_all_experts():
    moe, x = mixture(chosen=1), tokens()
    moe.inner.data[:] = moe.inner[0].clone()
    moe.outer.data[:] = moe.outer[0].clone()
    expert = naive(mixture_of_one(moe), x)
    assert torch.allclose(moe(x), moe.router(x).softmax(-1).amax(-1, keepdim=True) * expert, atol=1e-12)


def mixture_of_one(moe):
    one = mixture(experts=1, chosen=1)
    one.inner.data, one.outer.data = moe.inner[:1].clone(), moe.outer[:1].clone()
    return one


def test_grouped_products_with_an_empty_group():
    x, weights, counts = torch.randn(5, 3), torch.randn(3, 3, 2), torch.tensor([2, 0, 3])
    expected = torch.cat([x[:2] @ weights[0], x[2:] @ weights[2]])
    assert torch.allclose(grouped_matmul(x, weights, counts), expected)
    compiled = torch.compile(grouped_matmul, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x, weights, counts), expected, atol=1e-6)


def test_grouped_products_have_derivatives():
    x, weights = torch.randn(5, 3).double().requires_grad_(), torch.randn(3, 3, 2).double().requires_grad_()
    counts = torch.tensor([2, 0, 3])
    assert torch.autograd.gradcheck(lambda x, w: grouped_matmul(x, w, counts), (x, weights))
    assert torch.autograd.gradgradcheck(lambda x, w: grouped_matmul(x, w, counts), (x, weights))


def test_second_derivatives_exist():
    moe, x = mixture(), tokens(2).requires_grad_()
    assert torch.autograd.gradgradcheck(moe, (x,), fast_mode=True)


def test_the_losses_of_parts_join_those_of_the_batch_in_training():
    from ornstein.core import Keyed
    from ornstein.denoisers import NetworkDenoiser
    from ornstein.networks import Transformer
    from ornstein.objectives import Denoising
    from ornstein.processes import RectifiedFlow

    options = {"experts": 4, "balance": 0.05}
    network = Transformer(1, width=16, depth=2, heads=2, hidden=8, experts=options)
    model, batch = NetworkDenoiser(network, RectifiedFlow()), {"x_0": torch.randn(4, 1, 4, 4)}
    losses = Denoising()(model, batch, Keyed(0, 4))
    assert list(losses.batch) == ["balance"]
    assert (
        losses.batch["balance"] >= 2 * 0.05 - 1e-6
    )  # f and P rise together, so it is lowest where both are even
    assert torch.allclose(losses.total, losses.sample.mean() + losses.batch["balance"])
    losses.batch["balance"].backward()
    assert all(block.ffn.router.weight.grad.abs().sum() > 0 for block in network.blocks)
    assert not Denoising()(model.eval(), batch, Keyed(0, 4)).batch


@pytest.mark.parametrize("options", [{"chosen": 5}, {"experts": 0}, {"hidden": 0}], ids=str)
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        mixture(**options)


def test_an_upcycled_router_is_drawn_and_does_not_start_equal():
    torch.manual_seed(0)
    moe = MoE(64, experts=8, hidden=5).upcycle(SwiGLU(64, 5), spread=0.3)
    assert moe.router.weight.std().item() == pytest.approx(0.3, rel=0.15)
    found = {}
    moe(torch.randn(20, 64), found)
    assert len(found["routing"][0].unique()) == 8

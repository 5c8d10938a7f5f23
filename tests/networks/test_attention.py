from __future__ import annotations

import pytest
import torch

from ornstein.networks.attention import SHORT, SelfAttention, attend


def heads(length):
    return torch.randn(3, 2, 4, length, 8, dtype=torch.double)


@pytest.mark.parametrize("length", [SHORT, SHORT + 1])
def test_attention_is_its_formula(length):
    q, k, v = heads(length)
    weights = (torch.einsum("bhqd,bhkd->bhqk", q, k) / 8**0.5).softmax(-1)
    assert torch.allclose(attend(q, k, v), torch.einsum("bhqk,bhkd->bhqd", weights, v), atol=1e-10)


@pytest.mark.parametrize("length", [SHORT, SHORT + 1])
def test_masked_keys_get_no_weight(length):
    q, k, v = heads(length)
    mask = torch.arange(length) < 5
    expected = attend(q[..., :5, :], k[..., :5, :], v[..., :5, :])
    assert torch.allclose(attend(q, k, v, mask.expand(length, -1))[..., :5, :], expected, atol=1e-10)


def test_long_sequences_have_second_derivatives_under_the_math_kernel():
    q, k, v = heads(SHORT + 1).requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(attend(q, k, v).square().sum(), q, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), q)
    assert second.abs().sum() > 0


def test_permuting_the_tokens_permutes_the_result():
    attention = SelfAttention(8, 2).double()
    x, order = torch.randn(2, 6, 8, dtype=torch.double), torch.randperm(6)
    assert torch.allclose(attention(x[:, order]), attention(x)[:, order], atol=1e-12)


def test_heads_do_not_mix_before_the_output_layer():
    attention = SelfAttention(8, 2).double()
    torch.nn.init.eye_(attention.out.weight)
    x = torch.randn(1, 5, 8, dtype=torch.double)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight.view(3, 2, 4, 8)[:, 1] += 1
    changed = (attention(x) - before).abs().amax((0, 1)) > 0
    assert changed.tolist() == [False] * 4 + [True] * 4

"""Mixture of experts: many feed-forward networks, of which every token passes a few."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_positive

__all__ = ["MoE", "SwiGLU", "grouped_matmul"]


class SwiGLU(nn.Module):
    """W_2 (silu(W_1 x) * W_3 x), tokens to tokens, without biases (Shazeer 2020, 2002.05202).

    Args:
        width: features of a token.
        hidden: features inside; 4 width if None.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * (hidden or 4 * width), bias=False)
        self.outer = nn.Linear(hidden or 4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return self.outer(_swiglu(self.inner(x)))


@torch.library.custom_op("ornstein::grouped_matmul", mutates_args=())
def grouped_matmul(x: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """The first counts[0] rows of `x` times weights[0], the next counts[1] times weights[1], and so on.

    One operator of a compiled graph, although how many rows a group has is read on the host; with gradients of all
    orders.

    Args:
        x: (N, a), sorted by group.
        weights: (E, a, b).
        counts: (E,) integers that add to N.

    Returns:
        (N, b).
    """
    return torch.cat([part @ weight for part, weight in zip(x.split(counts.tolist()), weights, strict=True)])


@torch.library.custom_op("ornstein::grouped_outer", mutates_args=())
def _outer(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """x^T y of each group, (E, a, b)."""
    sizes = counts.tolist()
    return torch.stack([a.T @ b for a, b in zip(x.split(sizes), y.split(sizes), strict=True)])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _matmul_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weights, counts = ctx.saved_tensors
    return grouped_matmul(gradient, weights.mT, counts), _outer(x, gradient, counts), None


def _outer_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    x, y, counts = ctx.saved_tensors
    return grouped_matmul(y, gradient.mT, counts), grouped_matmul(x, gradient, counts), None


grouped_matmul.register_fake(lambda x, weights, counts: x.new_empty(len(x), weights.shape[2]))
grouped_matmul.register_autograd(_matmul_backward, setup_context=_keep)
_outer.register_fake(lambda x, y, counts: x.new_empty(len(counts), x.shape[1], y.shape[1]))
_outer.register_autograd(_outer_backward, setup_context=_keep)


class MoE(nn.Module):
    """sum over the top k of E experts of p_i(x) expert_i(x), plus a shared expert that all tokens pass, with

        p = softmax(W x) over all E, W without a bias

    Tokens are sorted by expert, and each expert is one product over its tokens: no token is dropped, and each is
    treated on its own. Fei et al., "Scaling Diffusion Transformers to 16 Billion Parameters", 2024 (2407.11633),
    whose weights p are not renormalised over the top k; experts and the shared one are SwiGLU.

    Args:
        width: features of a token.
        experts: their number E.
        chosen: k, how many each token passes.
        hidden: features inside an expert; 4 width if None.
        shared: features inside the shared expert; 0 for none.
        renormalise: whether the k weights are divided by their sum.
        balance: alpha, the weight of the balance loss alpha sum_i f_i P_i that `collect` receives in training, with
            f_i = E times the share of (token, choice) pairs that expert i has, and P_i the mean of p_i. It is alpha
            where P is uniform. With several processes the shares are those of the whole batch.

    Raises:
        ValueError: more chosen than there are, or sizes that are not positive.
    """

    reports = True  # takes `collect`

    def __init__(
        self,
        width: int,
        experts: int = 8,
        chosen: int = 2,
        hidden: int | None = None,
        shared: int = 0,
        renormalise: bool = False,
        balance: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive(width=width, experts=experts, chosen=chosen, hidden=hidden, shared=shared or None)
        if chosen > experts:
            raise ValueError(f"chosen: expected at most the {experts} experts that there are, got {chosen}")
        hidden = hidden or 4 * width
        self.experts, self.chosen, self.renormalise, self.balance = (
            experts,
            chosen,
            renormalise,
            float(balance),
        )
        self.router = nn.Linear(width, experts, bias=False)
        self.inner = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.outer = nn.Parameter(torch.empty(experts, hidden, width))
        self.shared = SwiGLU(width, shared) if shared else None
        for weight in (self.inner, self.outer):
            bound = weight.shape[1] ** -0.5  # as of nn.Linear
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor, collect: dict[str, Any] | None = None) -> Tensor:
        """Tokens (..., width) to the same. `collect` gains "balance" and "routing" (..., k), lists by layer."""
        tokens = x.flatten(0, -2)
        shares = self.router(tokens).to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)
        weights, choice = shares.topk(self.chosen, dim=-1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        counts = F.one_hot(choice.flatten(), self.experts).sum(0)
        if collect is not None:
            collect.setdefault("balance", []).append(self.balance * _balance(shares, counts))
            collect.setdefault("routing", []).append(choice.unflatten(0, x.shape[:-1]))
        mixed = self._mixed(tokens, weights.to(x.dtype), choice, counts)
        return (mixed if self.shared is None else mixed + self.shared(tokens)).view_as(x)

    def _mixed(self, tokens: Tensor, weights: Tensor, choice: Tensor, counts: Tensor) -> Tensor:
        """The weighted sum over the chosen experts: sorted by expert, computed, and added up where they came from."""
        order = choice.flatten().argsort(stable=True)
        where, shares = order // self.chosen, weights.flatten().index_select(0, order)
        made = self._by_expert(tokens.index_select(0, where), counts) * shares.unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, where, made)

    def _by_expert(self, x: Tensor, counts: Tensor) -> Tensor:
        """Each expert on its tokens, which lie one expert after the other."""
        if torch.compiler.is_compiling():
            made: Tensor = grouped_matmul(_swiglu(grouped_matmul(x, self.inner, counts)), self.outer, counts)
            return made
        parts = zip(x.split(counts.tolist()), self.inner.unbind(), self.outer.unbind(), strict=True)
        return torch.cat([_swiglu(part @ inner) @ outer for part, inner, outer in parts])

    @torch.no_grad()
    def upcycle(self, dense: SwiGLU, spread: float = 0.02) -> MoE:
        """Every expert becomes a copy of a dense feed-forward network, and the router is drawn from N(0, spread^2).

        With `renormalise` and no shared expert the function is then that of the dense network; without, it is the
        dense one times the sum of the top k weights, as in the released code.

        Raises:
            ValueError: a dense network of another width.
        """
        inner, outer = dense.inner.weight.T, dense.outer.weight.T
        if inner.shape != self.inner.shape[1:]:
            raise ValueError(
                f"dense: its inner layer is {tuple(inner.shape)}, that of an expert {tuple(self.inner.shape[1:])}"
            )
        self.inner.copy_(inner.expand_as(self.inner))
        self.outer.copy_(outer.expand_as(self.outer))
        nn.init.normal_(self.router.weight, std=spread)
        return self


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def _balance(shares: Tensor, counts: Tensor) -> Tensor:
    """sum_i f_i P_i."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    frequency = counts.to(shares.dtype) * (len(counts) / counts.sum())
    return (frequency * shares.mean(0)).sum()

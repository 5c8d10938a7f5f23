"""Attention among tokens: the same modules in the U-Net and in the transformer block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import Slot
from .norms import RMSNorm
from .rotary import rotate

__all__ = ["CrossAttention", "Mask", "SelfAttention", "attend", "dense_mask", "heads_for"]

SHORT = 128  # up to here, written out is as fast or faster
HEAD_WIDTH = 32

Mask = (
    Tensor | Callable[[Tensor, Tensor], Tensor]
)  # dense and boolean, or a predicate of query and key indices


def dense_mask(mask: Mask | None, q: Tensor, k: Tensor) -> Tensor | None:
    """A mask as a boolean tensor, queries before keys; true where a query reads a key."""
    if mask is None or isinstance(mask, Tensor):
        return mask
    rows, columns = (torch.arange(v.shape[-2], device=v.device) for v in (q, k))
    return mask(rows[:, None], columns[None, :])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for queries, keys and values (B, heads, L, d).

    Up to 128 queries and keys this is written out, which has derivatives of all orders and forward-mode ones, and
    is the faster way on a CPU. Longer sequences use torch's fused attention, whose backward pass has no
    derivative of its own: where second or forward-mode derivatives are needed, run all passes under
    `torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`.
    """
    mask = dense_mask(mask, q, k)
    if max(q.shape[-2], k.shape[-2]) > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


def heads_for(width: int) -> int:
    """How many heads of about 32 features divide a width."""
    return math.gcd(max(1, width // HEAD_WIDTH), width)


def _check_heads(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")


class SelfAttention(nn.Module):
    """Multi-head self-attention, tokens (B, L, width) to tokens.

    Without `positions` it has no notion of them: permuting the tokens permutes the result.

    Args:
        width: features of a token.
        heads: number of heads.
        qk_norm: whether queries and keys are normed (`RMSNorm`, one for all heads), which keeps scores bounded.
        bases: of the rotary embedding, one for each axis of positions.

    Raises:
        ValueError: `heads` does not divide `width`, or a head is too narrow to turn.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False, bases: Sequence[float] = ()) -> None:
        super().__init__()
        _check_heads(width, heads)
        if width // heads < 2 * len(bases):
            raise ValueError(
                f"heads: a head of {width // heads} features cannot turn about {len(bases)} axes; it needs 2 for each"
            )
        self.heads, self.bases = heads, tuple(bases)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norms = nn.ModuleList(RMSNorm(width // heads) for _ in range(2)) if qk_norm else None

    def forward(
        self, x: Tensor, mask: Mask | None = None, positions: Tensor | None = None, cache: Slot | None = None
    ) -> Tensor:
        """Attend among all tokens, or where `mask` is true.

        Args:
            x: (B, L, width).
            mask: a boolean tensor that broadcasts to (B, heads, L, L), queries before keys; or a predicate
                (query index, key index) -> boolean. With a cache, earlier tokens are the first keys.
            positions: integers (axes, L).
            cache: tokens seen earlier, read beside those of `x`.
        """
        q, k, v = self.split(x, positions)
        if cache is not None:
            k, v = cache.extend(k, v)
        return self.merge(attend(q, k, v, mask))

    def split(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, L, d), normed and turned."""
        heads = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        both = heads[:2]
        if self.norms is not None:
            both = torch.stack([norm(part) for norm, part in zip(self.norms, both, strict=True)])
        if positions is not None:
            both = rotate(both, positions, self.bases)  # queries and keys turn alike
        q, k = both
        return q, k, heads[2]

    def merge(self, heads: Tensor) -> Tensor:
        """What the heads read, (B, heads, L, d), through the output layer: (B, L, width)."""
        return self.out(heads.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of tokens (B, L, width) to other tokens (B, S, source).

    Args:
        width: features of a token.
        heads: number of heads.
        source: features of the other tokens; `width` if None.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        _check_heads(width, heads)
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(source or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, mask: Mask | None = None) -> Tensor:
        """What every token of `x` reads in `tokens`, (B, L, width)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))

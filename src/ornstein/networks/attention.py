"""Self-attention over tokens: the same module in the U-Net and in the transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SelfAttention", "attend"]

SHORT = 128  # up to here, written out is as fast or faster


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for queries, keys and values (B, heads, L, d).

    Up to 128 tokens this is written out, which has derivatives of all orders and forward-mode ones, and
    is the faster way on a CPU. Longer sequences use torch's fused attention, whose backward pass has no
    derivative of its own: where second or forward-mode derivatives are needed, run all passes under
    `torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`.
    """
    if q.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention, tokens (B, L, width) to tokens.

    It has no notion of position: permuting the tokens permutes the result.

    Args:
        width: features of a token.
        heads: number of heads.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend among all tokens, or where `mask` is true.

        `mask` is a boolean tensor that broadcasts to (B, heads, L, L), queries before keys.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))

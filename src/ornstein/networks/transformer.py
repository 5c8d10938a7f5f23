"""The transformer block, and a transformer over sequences of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .attention import SelfAttention
from .checks import check_level, check_positive
from .embedding import Conditioning, TokenEmbedding
from .unet import zeroed

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["MLP", "Block", "SequenceTransformer", "modulate"]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) LayerNorm(x) + shift, the norm without parameters of its own."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class MLP(nn.Sequential):
    """W_2 gelu(W_1 x), tokens to tokens, with `ratio` times as many hidden units."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__(nn.Linear(width, ratio * width), nn.GELU("tanh"), nn.Linear(ratio * width, width))


class Block(nn.Module):
    """One transformer block, modulated by conditioning vectors (adaLN-Zero).

        x <- x + gate_1 attention(modulate(x, shift_1, scale_1))
        x <- x + gate_2 ffn(modulate(x, shift_2, scale_2)),

    the six vectors being a linear map of silu(c) that starts at zero, so that the block starts as the
    identity. The driver owns the order of blocks and may change c between them. Peebles and Xie,
    "Scalable Diffusion Models with Transformers", 2023 (arXiv 2212.09748).

    Args:
        width: features of a token.
        heads: attention heads, a divisor of `width`.
        conditioning: features of a conditioning vector.
        ffn: tokens (B, L, width) to the same; a dense `MLP` if None.
    """

    def __init__(self, width: int, heads: int, conditioning: int, ffn: nn.Module | None = None) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(conditioning, 6 * width))
        self.attention = SelfAttention(width, heads)
        self.ffn = MLP(width) if ffn is None else ffn

    def forward(
        self, x: Tensor, c: Tensor, *, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Tokens to tokens.

        Args:
            x: (B, L, width).
            c: (B, G, conditioning). Without `groups`, G is 1 (one vector for all tokens) or L.
            groups: (L,) which of the G vectors modulates each token.
            mask: what `SelfAttention` takes.
        """
        vectors = self.modulation(F.silu(c))
        if groups is not None:
            vectors = vectors[:, groups]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = vectors.chunk(6, dim=-1)
        x = torch.addcmul(x, gate_1, self.attention(modulate(x, shift_1, scale_1), mask))
        return torch.addcmul(x, gate_2, self.ffn(modulate(x, shift_2, scale_2)))


class SequenceTransformer(Module):
    """A bidirectional transformer from token sequences to logits, one row of `outputs` a position.

    The blocks are `blocks.0`, `blocks.1`, ...: names to attach hooks to. Positions are learned vectors. The
    output layer starts at zero, so that all outputs start equally likely.

    Args:
        vocabulary: tokens that it reads, ids 0..vocabulary-1 (data tokens, then the mask token if any).
        outputs: logits a position (data tokens only).
        length: tokens in the longest sequence.
        width: features of a token.
        depth: number of blocks.
        heads: attention heads, a divisor of `width`.
        labels: number of class labels, or None for a network without labels. With labels it reads
            `condition["label"]`, ids (B,); rows without one use a learned vector.

    Raises:
        ValueError: `heads` does not divide `width`; or, when called, sequences of another kind.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        length: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        labels: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(vocabulary=vocabulary, outputs=outputs, length=length, width=width)
        check_positive(depth=depth, heads=heads, labels=labels)
        self.labels = labels
        self.tokens = TokenEmbedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width))
        self.conditioning = Conditioning(width, labels)
        self.blocks = nn.ModuleList(Block(width, heads, width) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, outputs))

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.conditioning.fields

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """Logits (B, L, outputs).

        Args:
            x: ids (B, L) of integers, or soft rows (B, L, vocabulary) of weights.
            level: (B,) noise levels (log-odds of a clean token, about -10 to 10).
            condition: fields named in `fields`.
        """
        self._check(x)
        check_level(level, len(x))
        c = self.conditioning(level, condition)[:, None]
        h = self.tokens(x) + self.positions[: x.shape[1]]
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(F.silu(c)).chunk(2, dim=-1)
        return self.out(modulate(h, shift, scale))

    def _check(self, x: Tensor) -> None:
        length = len(self.positions)
        if x.ndim != 2 + x.is_floating_point() or x.shape[1] > length:
            raise ValueError(
                f"x: expected ids (B, L) or soft rows (B, L, {self.tokens.num_embeddings}) with L at most "
                f"{length}, got {x.dtype} of shape {tuple(x.shape)}"
            )

"""The transformer block: one for dense, mixture-of-experts, block-causal and joint networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import suggest

from .attention import CrossAttention, Mask, SelfAttention, attend
from .cache import Slot
from .norms import NORMS, LayerNorm, RMSNorm, zeroed

__all__ = ["MLP", "Block", "JointBlock", "modulate"]

Vectors = tuple[Tensor | None, ...]  # shift, scale, gate of the attention, then of the feed-forward network


def modulate(x: Tensor, shift: Tensor | None, scale: Tensor | None, norm: nn.Module | None = None) -> Tensor:
    """(1 + scale) norm(x) + shift; norm(x) without vectors. The norm is a LayerNorm without parameters if None."""
    normed = F.layer_norm(x, x.shape[-1:]) if norm is None else norm(x)
    return normed if shift is None or scale is None else torch.addcmul(shift, normed, 1 + scale)


def _added(x: Tensor, gate: Tensor | None, change: Tensor) -> Tensor:
    return x + change if gate is None else torch.addcmul(x, gate, change)


class MLP(nn.Sequential):
    """W_2 gelu(W_1 x), tokens to tokens, with `ratio` times as many hidden units."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__(nn.Linear(width, ratio * width), nn.GELU("tanh"), nn.Linear(ratio * width, width))


class Block(nn.Module):
    """One transformer block, modulated by conditioning vectors (adaLN-Zero).

        x <- x + gate_1 attention(modulate(x, shift_1, scale_1))
        x <- x + gate_c cross(norm(x), tokens)                            with `cross` only
        x <- x + gate_2 ffn(modulate(x, shift_2, scale_2)),

    the six vectors being a linear map of silu(c) that starts at zero, so that the block starts as the
    identity. The driver owns the order of blocks and may change c between them. Peebles and Xie,
    "Scalable Diffusion Models with Transformers", 2023 (arXiv 2212.09748).

    Args:
        width: features of a token.
        heads: attention heads, a divisor of `width`.
        conditioning: features of a conditioning vector; None for a block that nothing modulates.
        ffn: tokens (B, L, width) to the same; a dense `MLP` if None.
        norm: "layer" (without parameters) or "rms" (with a weight).
        qk_norm: whether queries and keys are normed.
        bases: of the rotary embedding, one for each axis of positions.
        cross: features of further tokens, such as a text's, that are read between attention and ffn; None for none.

    Raises:
        ValueError: `heads` does not divide `width`, or an unknown norm.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        conditioning: int | None,
        ffn: nn.Module | None = None,
        *,
        norm: str = "layer",
        qk_norm: bool = False,
        bases: Sequence[float] = (),
        cross: int | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(suggest(norm, NORMS, "norm"))
        self.modulation = None if conditioning is None else zeroed(nn.Linear(conditioning, 6 * width))
        self.attention = SelfAttention(width, heads, qk_norm, bases)
        self.ffn = MLP(width) if ffn is None else ffn
        self.norms = nn.ModuleList(NORMS[norm](width) for _ in range(2))
        self.cross = None if cross is None else CrossAttention(width, heads, cross)
        if cross is not None:
            self.cross_norm, self.cross_gate = LayerNorm(width), nn.Parameter(torch.zeros(width))

    def forward(
        self,
        x: Tensor,
        c: Tensor | None,
        *,
        groups: Tensor | None = None,
        modulated: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Mask | None = None,
        cache: Slot | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        collect: dict[str, Any] | None = None,
    ) -> Tensor:
        """Tokens to tokens.

        Args:
            x: (B, L, width).
            c: (B, G, conditioning). Without `groups`, G is 1 (one vector for all tokens) or L. None modulates nothing.
            groups: (L,) which of the G vectors modulates each token.
            modulated: (L,) booleans. A token with False has no shift or scale and a gate of 1: nothing about it
                depends on c, so that its keys and values can be kept.
            positions: integers (axes, L), for the rotary embedding.
            mask: what `SelfAttention` takes.
            cache: this block's `Slot` of a `KVCache`.
            tokens: (B, S, cross), which `cross` reads.
            tokens_mask: (B, S) booleans, true for tokens that are there.
            collect: gains by name what parts report, such as the `MoE`'s "balance" and "routing".
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.vectors(c, groups, modulated)
        normed = modulate(x, shift_1, scale_1, self.norms[0])
        x = _added(x, gate_1, self.attention(normed, mask, positions, cache))
        if self.cross is not None and tokens is not None:
            seen = None if tokens_mask is None else tokens_mask[:, None, None]
            x = torch.addcmul(x, self.cross_gate, self.cross(self.cross_norm(x), tokens, seen))
        return self.fed(x, (shift_2, scale_2, gate_2), collect)

    def vectors(
        self, c: Tensor | None, groups: Tensor | None = None, modulated: Tensor | None = None
    ) -> Vectors:
        """Shift, scale and gate of the attention and of the ffn, each (B, G or L, width)."""
        if c is None or self.modulation is None:
            return (None,) * 6
        made = self.modulation(F.silu(c))
        made = made if groups is None else made[:, groups]
        six: tuple[Tensor, ...] = made.chunk(6, dim=-1)
        if modulated is None:
            return six
        neutral = (0.0, 0.0, 1.0) * 2
        return tuple(torch.where(modulated[:, None], v, n) for v, n in zip(six, neutral, strict=True))

    def heads(
        self, x: Tensor, vectors: Vectors, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of modulate(x, shift, scale)."""
        return self.attention.split(modulate(x, vectors[0], vectors[1], self.norms[0]), positions)

    def after(
        self, x: Tensor, read: Tensor, vectors: Vectors, collect: dict[str, Any] | None = None
    ) -> Tensor:
        """The tokens after the block, for what their heads read in the attention."""
        return self.fed(_added(x, vectors[2], self.attention.merge(read)), vectors[3:], collect)

    def fed(self, x: Tensor, vectors: Vectors, collect: dict[str, Any] | None = None) -> Tensor:
        """x + gate ffn(modulate(x, shift, scale))."""
        shift, scale, gate = vectors
        normed = modulate(x, shift, scale, self.norms[1])
        reports = collect is not None and getattr(self.ffn, "reports", False)
        return _added(x, gate, self.ffn(normed, collect) if reports else self.ffn(normed))


class _Told(nn.Module):
    """Tokens that are read for the last time: keys and values, and nothing that would come after them."""

    def __init__(
        self,
        width: int,
        heads: int,
        conditioning: int,
        *,
        norm: str = "layer",
        qk_norm: bool = False,
        bases: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.count = heads
        self.modulation = zeroed(nn.Linear(conditioning, 2 * width))
        self.norm = NORMS[norm](width)
        self.kv = nn.Linear(width, 2 * width)
        self.key_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, tokens: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, width) to keys and values (B, heads, S, d)."""
        shift, scale = self.modulation(F.silu(c)).chunk(2, dim=-1)
        made = self.kv(modulate(tokens, shift, scale, self.norm))
        k, v = made.unflatten(-1, (2, self.count, -1)).permute(2, 0, 3, 1, 4)
        return self.key_norm(k), v


class JointBlock(nn.Module):
    """Two streams of tokens with weights of their own and one attention among all tokens of both.

    The block of MMDiT: Esser et al., "Scaling Rectified Flow Transformers", 2024 (arXiv 2403.03206), whose last block
    gives of the second stream only keys and values too: what came after them would be read by nobody.

    Args:
        width: features of a token of either stream.
        heads: attention heads, a divisor of `width`.
        conditioning: features of a conditioning vector, which modulates both streams.
        ffn: of the first stream; a dense `MLP` if None. That of the second is always dense.
        last: whether the second stream ends here: it is read, and comes out as it went in.
        **options: those of `Block`: norm, qk_norm, bases.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        conditioning: int,
        ffn: nn.Module | None = None,
        *,
        last: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        kind: Any = _Told if last else Block
        self.own = Block(width, heads, conditioning, ffn, **options)
        self.other = kind(width, heads, conditioning, **options)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        collect: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both streams after the block: (B, L, width) and (B, S, width). Only the first has positions."""
        six = self.own.vectors(c)
        q, k, v = self.own.heads(x, six, positions)
        if isinstance(self.other, _Told):
            theirs, told = None, self.other(tokens, c)
        else:
            theirs = self.other.vectors(c)
            asked, *told = self.other.heads(tokens, theirs)
            q = torch.cat([q, asked], dim=2)
        k, v = (torch.cat(pair, dim=2) for pair in zip((k, v), told, strict=True))
        read = attend(q, k, v, _both_seen(tokens_mask, x))
        length = x.shape[1]
        x = self.own.after(x, read[:, :, :length], six, collect)
        return x, tokens if theirs is None else self.other.after(tokens, read[:, :, length:], theirs, collect)


def _both_seen(tokens_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """(B, 1, 1, L + S): the tokens of the first stream are all there."""
    if tokens_mask is None:
        return None
    return torch.cat([tokens_mask.new_ones(x.shape[:2]), tokens_mask], dim=1)[:, None, None]

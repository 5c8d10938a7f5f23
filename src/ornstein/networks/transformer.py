"""Transformers: over sequences of tokens, and over signals, images and volumes cut into patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .block import MLP, Block, JointBlock, modulate
from .checks import check_level, check_positive
from .embedding import Conditioning, TokenEmbedding, text_tokens
from .experts import MoE, SwiGLU
from .norms import zeroed
from .patches import from_patches, per_axis, to_patches
from .rotary import base_for, grid_positions, waves

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["MLP", "Block", "SequenceTransformer", "Tower", "Transformer", "feed_forward", "modulate"]


def feed_forward(width: int, hidden: int | None, experts: dict[str, Any] | None) -> nn.Module:
    """A block's ffn: an `MoE` with the options `experts`, else a `SwiGLU` of `hidden` features, else an `MLP`."""
    if experts is not None:
        return MoE(width, hidden=hidden, **experts)
    return MLP(width) if hidden is None else SwiGLU(width, hidden)


class Tower(Module):
    """What transformers share: blocks, which the driver calls one after the other, and a modulated last layer that
    starts at zero. The blocks are `blocks.0`, `blocks.1`, ...: names to attach hooks to.
    """

    blocks: nn.ModuleList
    conditioning: Conditioning

    def _stack(self, blocks: Sequence[nn.Module], width: int, outputs: int) -> None:
        self.blocks = nn.ModuleList(blocks)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, outputs))

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.conditioning.fields

    @property
    def reports(self) -> bool:
        """Whether its parts report losses, so that it takes `collect`."""
        return any(getattr(module, "reports", False) for block in self.blocks for module in block.modules())

    def head(self, h: Tensor, c: Tensor, groups: Tensor | None = None) -> Tensor:
        """The last layer: tokens (B, L, width) and vectors (B, G, width) to (B, L, outputs)."""
        vectors = self.modulation(F.silu(c))
        shift, scale = (vectors if groups is None else vectors[:, groups]).chunk(2, dim=-1)
        return self.out(modulate(h, shift, scale))


class SequenceTransformer(Tower):
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
        self._stack([Block(width, heads, width) for _ in range(depth)], width, outputs)

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
        return self.head(h, c)

    def _check(self, x: Tensor) -> None:
        length = len(self.positions)
        if x.ndim != 2 + x.is_floating_point() or x.shape[1] > length:
            raise ValueError(
                f"x: expected ids (B, L) or soft rows (B, L, {self.tokens.num_embeddings}) with L at most "
                f"{length}, got {x.dtype} of shape {tuple(x.shape)}"
            )


class Transformer(Tower):
    """A transformer over signals, images or volumes of any size, cut into patches: DiT (Peebles and Xie 2023,
    2212.09748), with what later networks add as options.

    Positions enter as waves added to the patches and as rotations of queries and keys, for any size; a size that is no
    multiple of the patch is filled up and cut again. The output layer starts at zero. All blocks are `blocks.i`.

    Args:
        channels: channels of the input.
        dims: 1 for (B, C, L), 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        patch: points along each axis of a patch; a number for all axes or one for each.
        width: features of a token.
        depth: number of blocks.
        heads: attention heads, a divisor of `width`.
        labels: number of class labels, or None. With labels it reads `condition["label"]`.
        out_channels: channels of the output; `channels` if None.
        hidden: features inside the feed-forward networks, which are then `SwiGLU`; an `MLP` of 4 width if None.
        experts: options of `MoE`, which then takes their place (Fei et al. 2024, 2407.11633): experts, chosen,
            shared, renormalise, balance.
        skips: whether the first half of the blocks is joined to the second as in U-ViT (Bao et al. 2022, 2209.12152):
            h <- W [h, skip] before a block.
        text: features of a text's tokens, or None. With them it reads `condition["text"]`, see `TextTokens`.
        joint: whether the text is a stream of its own that takes part in attention (`JointBlock`), in place of being
            read by cross attention. Its own feed-forward networks are `MLP`s, whatever `hidden` and `experts` say.
        qk_norm: whether queries and keys are normed.
        text_depth: blocks among the text's tokens before they are read, see `TextTokens`.
        size: a usual size of the input, for the frequencies of rotations; 32 patches along each axis if None.

    Raises:
        ValueError: an argument out of range, or an input that does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        patch: int | Sequence[int] = 2,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        labels: int | None = None,
        out_channels: int | None = None,
        hidden: int | None = None,
        experts: dict[str, Any] | None = None,
        skips: bool = False,
        text: int | None = None,
        joint: bool = False,
        qk_norm: bool = False,
        text_depth: int = 0,
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_positive(channels=channels, width=width, depth=depth, heads=heads, labels=labels)
        check_positive(out_channels=out_channels, hidden=hidden, text=text)
        if dims not in (1, 2, 3):
            raise ValueError(f"dims: expected 1, 2 or 3, got {dims!r}")
        if joint and text is None:
            raise ValueError("joint: needs a text; give the features of its tokens as `text`")
        self.channels, self.dims, self.labels = channels, dims, labels
        self.patch, out_channels = per_axis(patch, dims, "patch"), out_channels or channels
        points = torch.Size(self.patch).numel()
        extents = [32] * dims if size is None else [-(-n // p) for n, p in zip(size, self.patch, strict=True)]
        self.stem = nn.Linear(channels * points, width)
        self.conditioning = Conditioning(width, labels)
        self.text = text_tokens(text, width, text_depth)
        options: dict[str, Any] = {"qk_norm": qk_norm, "bases": [base_for(n) for n in extents]}
        if text is not None and not joint:
            options["cross"] = width
        kind: Any = JointBlock if joint else Block
        more: list[dict[str, Any]] = [{"last": i == depth - 1} if joint else {} for i in range(depth)]
        blocks = [
            kind(width, heads, width, feed_forward(width, hidden, experts), **options, **m) for m in more
        ]
        self._stack(blocks, width, out_channels * points)
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth // 2 if skips else 0))

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.conditioning.fields | ({"text"} if self.text is not None else frozenset())

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        collect: dict[str, Any] | None = None,
    ) -> Tensor:
        """(B, channels, ...) -> (B, out_channels, ...).

        Args:
            x: the state, of any size.
            level: (B,) noise levels, about -10 to 10.
            condition: fields named in `fields`.
            collect: gains what the blocks report by name, lists by layer: of an `MoE` "balance" and "routing".
        """
        self._check(x)
        check_level(level, len(x))
        patches, sizes = to_patches(x, self.patch)
        positions = grid_positions(sizes, x.device)
        h = self.stem(patches) + waves(positions, self.stem.out_features).to(patches)
        h = self.run(h, self.conditioning(level, condition)[:, None], positions, condition, collect)
        return from_patches(h, self.patch, sizes, x.shape[2:])

    def run(
        self,
        h: Tensor,
        c: Tensor,
        positions: Tensor,
        condition: Condition | None = None,
        collect: dict[str, Any] | None = None,
    ) -> Tensor:
        """The blocks and the last layer: tokens (B, L, width) to (B, L, outputs), for vectors c (B, 1, width)."""
        tokens, mask = (None, None) if self.text is None else self.text(condition, len(h))
        options: dict[str, Any] = {"positions": positions, "tokens_mask": mask, "collect": collect}
        kept: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            late = i - (len(self.blocks) - len(self.skips))  # the blocks that a skip leads into
            if late >= 0:
                h = self.skips[late](torch.cat([h, kept.pop()], dim=-1))
            if isinstance(block, JointBlock):
                h, tokens = block(h, c, tokens, **options)
            else:
                h = block(h, c, tokens=tokens, **options)
            if i < len(self.skips):
                kept.append(h)
        return self.head(h, c)

    def _check(self, x: Tensor) -> None:
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels:
            axes = ", ".join(["B", str(self.channels), *"DHW"[3 - self.dims :]])
            raise ValueError(f"x: expected shape ({axes}), got {tuple(x.shape)}")

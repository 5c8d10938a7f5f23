"""A transformer over blocks: each block is denoised given the clean blocks before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .block import Block
from .cache import KVCache
from .checks import check_positive
from .embedding import Conditioning
from .patches import Blocks, from_patches, per_axis, to_patches
from .rotary import base_for, grid_positions, waves
from .transformer import Tower, feed_forward

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["BlockwiseTransformer", "skip_causal"]


def skip_causal(blocks: int, tokens: int, device: torch.device | None = None) -> Tensor:
    """Who reads whom among `blocks` clean blocks of `tokens` tokens, followed by their noised copies: (2 L, 2 L).

    Clean block i reads the clean blocks up to i; noised block i the clean blocks before i and itself. So
    T^2 + T of the 4 T^2 pairs of blocks are read (Hu et al. 2024, 2412.07720).
    """
    index = torch.arange(2 * blocks * tokens, device=device)
    noised, block = index >= blocks * tokens, index // tokens % blocks
    earlier, same = block[None] < block[:, None], block[None] == block[:, None]
    from_clean = ~noised[None] & (earlier | (same & ~noised[:, None]))
    return from_clean | (noised[None] & noised[:, None] & same)


class BlockwiseTransformer(Tower):
    """ACDiT: autoregressive over blocks and denoising within each, in one transformer (Hu et al. 2024, 2412.07720).

    The tokens are the clean blocks followed by the noised ones, under the mask `skip_causal`. A clean token and its
    noised copy have the same position. Clean tokens are not modulated: nothing about them depends on the levels or on
    the condition, so that their keys and values can be kept. One block is a plain diffusion transformer, blocks of one
    token are an autoregressive one.

    Args:
        channels: channels of the state.
        size: its axes.
        grid: blocks along each axis, a number for all axes or one for each.
        patch: points along each axis of a patch; it divides a block.
        width: features of a token.
        depth: number of blocks of the transformer.
        heads: attention heads, a divisor of `width`.
        labels: number of class labels, or None.
        out_channels: channels of the output; `channels` if None.
        hidden: features inside the feed-forward networks, which are then `SwiGLU`; an `MLP` of 4 width if None.
        experts: options of `MoE`, which then takes their place. Its balance loss counts clean and noised tokens.

    Raises:
        ValueError: an argument out of range, a grid or patch that does not divide.
    """

    positions: Tensor

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        grid: int | Sequence[int] = 2,
        patch: int | Sequence[int] = 1,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        labels: int | None = None,
        out_channels: int | None = None,
        hidden: int | None = None,
        experts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive(
            channels=channels, size=list(size), width=width, depth=depth, heads=heads, labels=labels
        )
        self.channels, self.labels, self.layout = channels, labels, Blocks(size, grid)
        self.patch = per_axis(patch, len(self.layout.size), "patch")
        if any(n % p for n, p in zip(self.layout.block, self.patch, strict=True)):
            raise ValueError(f"patch: expected divisors of the block {self.layout.block}, got {self.patch}")
        points, extents = torch.Size(self.patch).numel(), self._extents(self.layout.size)
        self.stem = nn.Linear(channels * points, width)
        self.conditioning = Conditioning(width, labels)
        options: dict[str, Any] = {"norm": "rms", "qk_norm": True, "bases": [base_for(n) for n in extents]}
        blocks = [
            Block(width, heads, width, feed_forward(width, hidden, experts), **options) for _ in range(depth)
        ]
        self._stack(blocks, width, (out_channels or channels) * points)
        self.inside = self._extents(self.layout.block)
        self.register_buffer("positions", self._positions(extents), persistent=False)

    def _extents(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(n // p for n, p in zip(size, self.patch, strict=True))

    def _positions(self, extents: Sequence[int]) -> Tensor:
        """Positions of the patches in the whole, (axes, L), block by block."""
        whole = grid_positions(extents).reshape(len(extents), 1, *extents)
        return to_patches(whole, self.inside)[0].flatten(1)

    @property
    def tokens(self) -> int:
        """Tokens in a block."""
        return torch.Size(self.inside).numel()

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        clean: Tensor | None = None,
        collect: dict[str, Any] | None = None,
    ) -> Tensor:
        """All blocks at once, each given the clean ones before it: (B, channels, *size) -> (B, out_channels, *size).

        Args:
            x: the noised state.
            level: (B, T), one for each block, or (B,) for all; about -10 to 10.
            condition: fields named in `fields`.
            clean: the clean state that earlier blocks are read from; `x` if None, which is right where those of its
                blocks that are read are clean.
            collect: gains what the blocks report.
        """
        layout, length = self.layout, self.layout.count * self.tokens
        self._check(x, layout.size)
        if level.shape not in ((len(x),), (len(x), layout.count)):
            raise ValueError(
                f"level: expected shape ({len(x)},), one a sample, or ({len(x)}, {layout.count}), one a block; "
                f"got {tuple(level.shape)}"
            )
        both = [layout.cut(v).flatten(0, 1) for v in (x if clean is None else clean, x)]
        h = torch.cat([self._embed(v).unflatten(0, (len(x), -1)).flatten(1, 2) for v in both], dim=1)
        index = torch.arange(2 * length, device=x.device)
        groups, noised = index // self.tokens % layout.count, index >= length
        positions = self.positions.repeat(1, 2)
        h = h + waves(positions, h.shape[-1]).to(h)
        c, mask = self._vectors(level, condition), skip_causal(layout.count, self.tokens, x.device)
        for block in self.blocks:
            h = block(h, c, groups=groups, modulated=noised, positions=positions, mask=mask, collect=collect)
        made = self.head(h[:, length:], c, groups[:length]).unflatten(1, (layout.count, -1)).flatten(0, 1)
        return layout.join(self._image(made).unflatten(0, (len(x), -1)))

    def read(self, block: Tensor, index: int, cache: KVCache) -> KVCache:
        """The cache with the clean block number `index`, (B, channels, *block), behind those before it."""
        slots = cache.read(len(self.blocks), grows=True)
        self._pass(block, index, None, slots)
        return KVCache.append(slots)

    def predict(
        self, block: Tensor, index: int, level: Tensor, condition: Condition | None, cache: KVCache
    ) -> Tensor:
        """The output for the noised block number `index`, (B, channels, *block), at levels (B,), given those cached."""
        c = self._vectors(level, condition)[:, :1]
        return self._image(self.head(self._pass(block, index, c, cache.read(len(self.blocks))), c))

    def _pass(self, block: Tensor, index: int, c: Tensor | None, slots: list[Any]) -> Tensor:
        self._check(block, self.layout.block)
        positions = self.positions[:, index * self.tokens : (index + 1) * self.tokens]
        h = self._embed(block)
        h = h + waves(positions, h.shape[-1]).to(h)
        for layer, slot in zip(self.blocks, slots, strict=True):
            h = layer(h, c, positions=positions, cache=slot)
        return h

    def _vectors(self, level: Tensor, condition: Condition | None) -> Tensor:
        """One conditioning vector for each block, (B, T, width)."""
        if level.ndim == 1:
            level = level[:, None].expand(-1, self.layout.count)
        c, label = self.conditioning.level(level), self.conditioning.label
        return c if label is None else c + label(condition, len(c))[:, None]

    def _embed(self, blocks: Tensor) -> Tensor:
        return self.stem(to_patches(blocks, self.patch)[0])

    def _image(self, tokens: Tensor) -> Tensor:
        return from_patches(tokens, self.patch, self.inside, self.layout.block)

    def _check(self, x: Tensor, size: Sequence[int]) -> None:
        if tuple(x.shape[1:]) != (self.channels, *size):
            raise ValueError(
                f"x: expected samples of shape {(self.channels, *size)}, got {tuple(x.shape[1:])}"
            )

"""Pictures to vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .attention import heads_for
from .autoencoder import Residual
from .block import Block
from .checks import check_positive
from .rotary import grid_positions, waves
from .unet import group_norm

__all__ = ["Encoder"]

GRID = 2  # places a side that the last map is pooled to, so that the code can say where


class NormedResidual(Residual):
    """A residual block whose norms see the whole picture, unlike those of a codec, which are local."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        norms: Any = [group_norm(width) for _ in range(2)]
        self.norm_in, self.norm_out = norms


class Encoder(Module):
    """An encoder of images (B, channels, H, W) as codes (B, code).

    A residual block a level, strided convolutions between, a mean over 2x2 cells and a linear layer. With `depth` the
    places of the last map read one another before the mean, in transformer blocks: what a code says may then compare
    objects that are far apart. There are no batch statistics: a row's code does not depend on its batch.

    Args:
        channels: of the images.
        code: entries of a code.
        width: channels at the first resolution, doubled at each level.
        levels: resolutions, each half of the one before.
        patch: pixels a side that are folded into channels first, so that the first resolution is that much lower.
        depth: transformer blocks on the last map, 0 or more, of heads of about 32 features.

    Raises:
        ValueError: an argument out of range; images of other channels, or whose sides the patch does not divide.
    """

    def __init__(
        self, channels: int, code: int, width: int = 16, levels: int = 3, patch: int = 1, depth: int = 0
    ) -> None:
        super().__init__()
        check_positive(channels=channels, code=code, width=width, levels=levels, patch=patch)
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
            raise ValueError(f"depth: expected an integer of at least 0, got {depth!r}")
        widths = [width * 2**i for i in range(levels)]
        layers: list[nn.Module] = [] if patch == 1 else [nn.PixelUnshuffle(patch)]
        layers += [nn.Conv2d(patch**2 * channels, width, 3, padding=1), NormedResidual(width)]
        for fine, coarse in pairwise(widths):
            layers += [nn.Conv2d(fine, coarse, 3, stride=2, padding=1), NormedResidual(coarse)]
        self.code, self.channels, self.patch, last = code, channels, patch, widths[-1]
        self.body = nn.Sequential(*layers, group_norm(last), nn.SiLU())
        self.blocks = nn.ModuleList(Block(last, heads_for(last), None) for _ in range(depth))
        self.head = nn.Linear(GRID**2 * last, code)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, code)."""
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(
                f"x: expected images (B, {self.channels}, H, W) with sides in multiples of {self.patch}, got "
                f"{tuple(x.shape)}"
            )
        h = self._read(self.body(x)) if self.blocks else self.body(x)
        code: Tensor = self.head(F.adaptive_avg_pool2d(h, GRID).flatten(1))
        return code

    def _read(self, h: Tensor) -> Tensor:
        """The map (B, width, H, W) after its places have read one another."""
        tokens = h.flatten(2).transpose(1, 2)
        tokens = tokens + waves(grid_positions(h.shape[2:], h.device), tokens.shape[-1]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens, None)
        return F.layer_norm(tokens, tokens.shape[-1:]).transpose(1, 2).unflatten(2, h.shape[2:])

"""Pictures to vectors."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ornstein.core import Module

from .autoencoder import Residual
from .checks import check_positive
from .unet import group_norm

__all__ = ["Encoder"]

GRID = 2  # places a side that the last map is pooled to, so that the code can say where


class Encoder(Module):
    """An encoder of images (B, channels, H, W) as codes (B, code).

    A residual block a level, strided convolutions between, a mean over 2x2 cells and a linear layer. There are no
    batch statistics: a row's code does not depend on its batch.

    Args:
        channels: of the images.
        code: entries of a code.
        width: channels at full resolution, doubled at each level.
        levels: resolutions, each half of the one before.
    """

    def __init__(self, channels: int, code: int, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        check_positive(channels=channels, code=code, width=width, levels=levels)
        widths = [width * 2**i for i in range(levels)]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), Residual(width)]
        for fine, coarse in pairwise(widths):
            layers += [nn.Conv2d(fine, coarse, 3, stride=2, padding=1), Residual(coarse)]
        layers += [group_norm(widths[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(GRID), nn.Flatten()]
        self.code = code
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(GRID**2 * widths[-1], code)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, code)."""
        code: Tensor = self.head(self.body(x))
        return code

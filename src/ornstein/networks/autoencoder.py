"""An encoder and a decoder of images, for codecs that are learned."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_positive
from .unet import group_norm, zeroed

__all__ = ["Autoencoder"]

FACTORS = (1, 2, 4, 8)
GROWTH = 2  # no level is more than this many times wider than the finest


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = group_norm(width), group_norm(width)
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        return x + self.conv_out(F.silu(self.norm_out(self.conv_in(F.silu(self.norm_in(x))))))


class Autoencoder(Module):
    """Images to maps `factor` times smaller, a side, and back: the two halves of latent diffusion's first stage.

    Each halving is a residual block and a strided convolution, each doubling a nearest-neighbour enlargement, a
    convolution and a residual block. There are no batch statistics and no attention: a row's result does not
    depend on its batch, and images may have any size that the factor divides.

    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021 (arXiv 2112.10752),
    at a size for small images.

    Args:
        channels: of the images.
        latent: channels of the map.
        factor: 1, 2, 4 or 8.
        width: channels at the finest level; coarser ones have twice as many.
        moments: whether the encoder gives a mean and a log-variance for every channel of the map.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, channels: int, latent: int = 4, factor: int = 4, width: int = 16, moments: bool = True
    ) -> None:
        super().__init__()
        check_positive(channels=channels, latent=latent, width=width)
        if factor not in FACTORS:
            raise ValueError(f"factor: expected one of {FACTORS}, got {factor!r}")
        self.channels, self.latent, self.factor, self.moments = channels, latent, factor, moments
        widths = [min(2**i, GROWTH) * width for i in range(factor.bit_length())]
        down: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1), Residual(widths[-1])]
        for fine, coarse in pairwise(widths):
            down += [Residual(fine), nn.Conv2d(fine, coarse, 3, stride=2, padding=1)]
        for coarse, fine in pairwise(reversed(widths)):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(coarse, fine, 3, padding=1), Residual(fine)]
        self.encoder = nn.Sequential(*down, Residual(widths[-1]), *_head(widths[-1], (1 + moments) * latent))
        self.decoder = nn.Sequential(*up, *_head(widths[0], channels))


def _head(width: int, channels: int) -> tuple[nn.Module, ...]:
    return group_norm(width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)

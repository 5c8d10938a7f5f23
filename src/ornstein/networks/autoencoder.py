"""An encoder and a decoder of images, for codecs that are learned."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_positive
from .norms import RMSNorm, zeroed

__all__ = ["Autoencoder"]

FACTORS = (1, 2, 4, 8)
GROWTH = 2  # no level is more than this many times wider than the finest


class PlaceNorm(nn.Module):
    """`RMSNorm` over the channels of every place of a map (B, width, H, W): what it reads is one place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        normed: Tensor = self.norm(x.movedim(1, -1))
        return normed.movedim(-1, 1)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = PlaceNorm(width), PlaceNorm(width)
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        return x + self.conv_out(F.silu(self.norm_out(self.conv_in(F.silu(self.norm_in(x))))))


class Autoencoder(Module):
    """Images to maps `factor` times smaller, a side, and back: the two halves of latent diffusion's first stage.

    Squares of `patch` x `patch` pixels become channels, so that no layer works on the full image; each further halving
    is a strided convolution, each doubling a 1x1 convolution and `PixelShuffle` (Shi et al. 2016, 1609.05158), with
    residual blocks at every level. Norms are over the channels of one place. So a row's result does not depend on its
    batch, images may have any size that the factor divides, and both halves are local. A pixel that the decoder makes
    depends on the map at most `reach` places to each side, so a large map decoded in windows is the whole map decoded,
    except near their borders. How far the encoder looks is not said by `reach`.

    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021 (arXiv 2112.10752),
    at a size for small images.

    Args:
        channels: of the images.
        latent: channels of the map.
        factor: 1, 2, 4 or 8.
        width: the encoder's channels at the finest level; coarser ones have twice as many.
        moments: whether the encoder gives a mean and a log-variance for every channel of the map.
        patch: pixels a side that the first layer takes together; a divisor of the factor.
        blocks: residual blocks a level, of the encoder and of the decoder.
        decoder_width: the decoder's channels at the finest level; as many as the encoder's by default.

    Attributes:
        reach: of the decoder, in places of the map.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        channels: int,
        latent: int = 4,
        factor: int = 4,
        width: int = 16,
        moments: bool = True,
        patch: int = 1,
        blocks: tuple[int, int] = (1, 1),
        decoder_width: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(
            channels=channels,
            latent=latent,
            width=width,
            patch=patch,
            blocks=blocks,
            decoder_width=decoder_width,
        )
        if factor not in FACTORS:
            raise ValueError(f"factor: expected one of {FACTORS}, got {factor!r}")
        if factor % patch or patch not in FACTORS:
            raise ValueError(
                f"patch: expected one of {FACTORS} that divides the factor {factor}, got {patch!r}"
            )
        if len(blocks) != 2:
            raise ValueError(f"blocks: expected two numbers, of encoder and decoder, got {blocks!r}")
        self.channels, self.latent, self.factor, self.moments = channels, latent, factor, moments
        levels, pixels = (factor // patch).bit_length(), channels * patch**2
        narrow, wide = _widths(width, levels), _widths(decoder_width or width, levels)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch), _conv(pixels, narrow[0]), *_down(narrow, blocks[0]),
            *_head(narrow[-1], (1 + moments) * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            _conv(latent, wide[-1]), *_up(wide, blocks[1]), *_head(wide[0], pixels), nn.PixelShuffle(patch)
        )
        self.reach = _reach(levels, blocks[1])


def _widths(finest: int, levels: int) -> list[int]:
    return [min(2**i, GROWTH) * finest for i in range(levels)]


def _conv(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride=stride, padding=1)


def _residuals(width: int, blocks: int) -> list[Residual]:
    return [Residual(width) for _ in range(blocks)]


def _down(widths: list[int], blocks: int) -> list[nn.Module]:
    """Residual blocks from the finest level to the coarsest."""
    layers: list[nn.Module] = [*_residuals(widths[0], blocks)]
    for fine, coarse in pairwise(widths):
        layers += [_conv(fine, coarse, stride=2), *_residuals(coarse, blocks)]
    return layers


def _up(widths: list[int], blocks: int) -> list[nn.Module]:
    """Residual blocks from the coarsest level to the finest."""
    layers: list[nn.Module] = [*_residuals(widths[-1], blocks)]
    for coarse, fine in pairwise(reversed(widths)):
        layers += [nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2), *_residuals(fine, blocks)]
    return layers


def _head(width: int, channels: int) -> tuple[nn.Module, ...]:
    return PlaceNorm(width), nn.SiLU(), _conv(width, channels)


def _reach(levels: int, blocks: int) -> int:
    """Places of the latent to each side that an output of the decoder depends on, at most."""
    reach = 1  # of the last convolution, in places of the finest level
    for level in range(levels):
        reach = (-(-reach // 2) if level else reach) + 2 * blocks
    return reach + 1

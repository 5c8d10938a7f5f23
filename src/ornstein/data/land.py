"""Land maps: smooth random fields, cut into kinds of land, each with its texture. The layout is known exactly."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .dataset import Dataset, TensorSplit
from .image import to_bytes

__all__ = ["LAND", "LandMaps", "land", "land_maps", "land_patches"]

LAND = ("water", "forest", "fields", "town")


class LandMaps(NamedTuple):
    """image: (N, 1, side, side) in [-1, 1]; regions: (N, side, side), the kind of land at every pixel."""

    image: Tensor
    regions: Tensor


def land_maps(n: int, side: int = 128, scale: float = 16.0, seed: int = 0) -> LandMaps:
    """Maps of four kinds of land of equal area.

    A Gaussian field with the spectrum exp(-(scale k)^2 / 2) is cut at its quartiles: so kinds are neighbours in the
    order water, forest, fields, town, and regions are about `scale` pixels wide. Water is dark and smooth, forest
    speckled, fields striped with period 4, town a grid of bright blocks with period 4.

    Args:
        n: number of maps.
        side: pixels a side.
        scale: correlation length of the field in pixels.
        seed: of fields and textures.

    Raises:
        ValueError: sizes that are not positive.
    """
    if n < 1 or side < 1 or not scale > 0:
        raise ValueError(f"expected n, side and scale above 0, got {n}, {side} and {scale}")
    generator = torch.Generator().manual_seed(seed)
    field = _smooth(torch.randn(n, side, side, generator=generator), scale)
    cuts = field.flatten(1).quantile(torch.tensor([0.25, 0.5, 0.75]), dim=1).T  # (n, 3)
    regions = (field.unsqueeze(1) > cuts[:, :, None, None]).sum(1)
    textures = _textures(n, side, generator)
    image = textures.gather(1, regions.unsqueeze(1))
    return LandMaps(image.clamp(-1, 1), regions)


def _smooth(white: Tensor, scale: float) -> Tensor:
    side = white.shape[-1]
    k = 2 * math.pi * torch.fft.fftfreq(side)
    power = torch.exp(-0.25 * scale**2 * (k[:, None] ** 2 + k[None] ** 2))
    return torch.fft.ifft2(torch.fft.fft2(white) * power).real


def _textures(n: int, side: int, generator: torch.Generator) -> Tensor:
    """(n, 4, side, side), one layer a kind of land."""
    grain = torch.randn(n, 4, side, side, generator=generator)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    stripes = torch.where(y % 4 < 2, 0.35, -0.15)
    blocks = torch.where((x % 4 < 3) & (y % 4 < 3), 0.9, -0.6)
    base = torch.stack([torch.full_like(stripes, -0.8), torch.full_like(stripes, -0.3), stripes, blocks])
    rough = torch.tensor([0.03, 0.25, 0.05, 0.05])[:, None, None]
    return base + rough * grain


def land_patches(maps: LandMaps, patch: int = 32, stride: int | None = None) -> tuple[Tensor, Tensor]:
    """Squares cut from maps, with the kind of land that most of each shows.

    Args:
        maps: see `land_maps`.
        patch: pixels a side.
        stride: from square to square; `patch` if None, so that none overlap.

    Returns:
        (N, 1, patch, patch) and (N,), row by row within each map.
    """
    step = patch if stride is None else stride
    squares = maps.image[:, 0].unfold(1, patch, step).unfold(2, patch, step)
    kinds = maps.regions.unfold(1, patch, step).unfold(2, patch, step).reshape(-1, patch * patch)
    most = torch.nn.functional.one_hot(kinds, len(LAND)).sum(1).argmax(1)
    return squares.reshape(-1, 1, patch, patch), most


def land(patch: int = 32, maps: int = 200, side: int = 128, seed: int = 0) -> Dataset:
    """Patches (1, patch, patch) in [-1, 1] with field "label", the kind of land that most of each shows.

    Args:
        patch: pixels a side.
        maps: number of maps they are cut from without overlap; a tenth more are held out.
        side: pixels a side of a map.
        seed: of the maps.
    """
    held = max(1, maps // 10)
    x, label = land_patches(land_maps(maps + held, side, seed=seed), patch)
    cut = len(x) * maps // (maps + held)
    train, rest = (TensorSplit(x[rows], {"label": label[rows]}) for rows in (slice(cut), slice(cut, None)))
    return Dataset("land", train, rest, shape=(1, patch, patch), classes=LAND, decode=to_bytes)

"""Scenes as images: signed distances of shapes, anti-aliased, all objects of all scenes at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .layers import covered, inked, layers
from .shapes import DISTANCES, SHAPES, half_sizes
from .world import BACKGROUNDS, COLOURS, MOST, Scenes

__all__ = ["BACKGROUND_RGB", "COLOUR_RGB", "coverage", "distances", "extents", "render"]

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 35), "green": (25, 160, 60), "blue": (40, 85, 235), "yellow": (250, 220, 40),
    "purple": (135, 45, 180), "orange": (250, 135, 20), "cyan": (50, 205, 225), "pink": (250, 135, 190),
}  # fmt: skip
BACKGROUND_RGB: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 14), "grey": (128, 128, 128), "white": (245, 245, 245), "brown": (90, 58, 36),
}  # fmt: skip
ROWS = 256  # images rendered at a time: what fits into a processor's cache
_FORMULAS = tuple(DISTANCES[name] for name in SHAPES)


def render(scenes: Scenes, size: int = 32) -> Tensor:
    """Images (N, 3, size, size) in [-1, 1].

    A pixel's colour is that of what covers it, mixed in the shares of `coverage`. Deterministic: whatever varies stands
    in the scenes.

    Raises:
        ValueError: a size below 8.
    """
    if size < 8:
        raise ValueError(f"size: expected at least 8 pixels, got {size}")
    parts = torch.arange(len(scenes.x)).split(ROWS)
    if not parts or not len(parts[0]):
        return scenes.x.new_empty(0, 3, size, size)
    return torch.cat([_paint(scenes.rows(slice(int(p[0]), int(p[-1]) + 1)), size) for p in parts])


def coverage(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, K, size, size): the share of each pixel that an object would cover if nothing were in front of it."""
    return covered(distances(scenes, size), size) * scenes.present[..., None, None]


def distances(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, K, size, size): signed distances from the pixels' centres to each object's outline, negative inside, in
    sides of the image. Exact within all shapes but the cross, where they are the distances to its two bars' sides (in
    the square where the bars meet the true ones are up to 1.42 times as large). Outside of corners: lower bounds.
    """
    dx, dy = _offsets(scenes, size)
    return _distances(scenes, dx, dy)


def extents(scenes: Scenes) -> Tensor:
    """Boxes (N, K, 4) of whole objects as (left, top, right, bottom), in sides of the image."""
    x, y, r = scenes.x, scenes.y, scenes.radius
    across, down = (half_sizes().to(r)[scenes.shape] * r[..., None]).unbind(-1)
    return torch.stack([x - across, y - down, x + across, y + down], -1)


def _offsets(scenes: Scenes, size: int) -> tuple[Tensor, Tensor]:
    pixels = (torch.arange(size, dtype=scenes.x.dtype) + 0.5) / size
    dx = pixels - scenes.x[..., None]
    dy = pixels - scenes.y[..., None]
    return dx[:, :, None, :], dy[:, :, :, None]


def _distances(scenes: Scenes, dx: Tensor, dy: Tensor) -> Tensor:
    """Distances for offsets (N, K, 1, S) and (N, K, S, 1): each shape's formula on the objects of that shape only."""
    n, k = scenes.shape.shape
    out = dx.new_empty(n * k, dy.shape[2], dx.shape[3])
    flat_x, flat_y, kinds = dx.flatten(0, 1), dy.flatten(0, 1), scenes.shape.flatten()
    radius = scenes.radius.flatten()[:, None, None]
    for number, formula in enumerate(_FORMULAS):
        rows = (kinds == number).nonzero().squeeze(1)
        out[rows] = formula(flat_x[rows], flat_y[rows], radius[rows])
    return out.reshape(n, k, *out.shape[1:])


def _paint(scenes: Scenes, size: int) -> Tensor:
    dx, dy = _offsets(scenes, size)
    distance = _distances(scenes, dx, dy)
    cover = covered(distance, size) * scenes.present[..., None, None]
    background = palette(BACKGROUND_RGB, BACKGROUNDS).to(dx)[scenes.background]
    colours, style = palette(COLOUR_RGB, COLOURS).to(dx), scenes.style[:, None].expand_as(scenes.texture)
    image = background[:, :, None, None].expand(-1, -1, size, size)
    for k in range(MOST):
        if not bool(scenes.present[:, k].any()):
            continue
        r, texture, looks = (v[:, k, None, None] for v in (scenes.radius, scenes.texture, style))
        look = layers(distance[:, k], dx[:, k], dy[:, k], r, texture, looks, size)
        colour = colours[scenes.colour[:, k]] * scenes.tint[:, k, None]
        image = torch.lerp(image, inked(look, colour, background), cover[:, k, None])
    return image * 2 - 1


def palette(table: dict[str, tuple[int, int, int]], names: tuple[str, ...]) -> Tensor:
    """Colours by name as numbers in [0, 1], (names, 3)."""
    return torch.tensor([table[name] for name in names]) / 255

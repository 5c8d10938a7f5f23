"""Scenes as images: signed distances of shapes, anti-aliased, all objects of all scenes at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
STRIPE, STRIPE_DARK = 0.8, 0.62  # period in radii, and how much darker a stripe is
DOT, DOT_RADIUS = 0.72, 0.23  # spacing and radius of dots, in radii
DOT_LIGHT = 0.75  # how far towards white a dot goes
OUTLINE = 0.22  # width in radii
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


def covered(distance: Tensor, size: int) -> Tensor:
    """A straight edge at distance d from the centre covers 1/2 - d of a pixel."""
    return (0.5 - distance * size).clamp_(0, 1)


def _paint(scenes: Scenes, size: int) -> Tensor:
    dx, dy = _offsets(scenes, size)
    distance = _distances(scenes, dx, dy)
    cover = covered(distance, size) * scenes.present[..., None, None]
    background = palette(BACKGROUND_RGB, BACKGROUNDS).to(dx)[scenes.background]
    image = background[:, :, None, None].expand(-1, -1, size, size)
    for k in range(MOST):
        if not bool(scenes.present[:, k].any()):
            break
        paint = _object(scenes, k, dx[:, k], dy[:, k], distance[:, k], background, size)
        image = torch.lerp(image, paint, cover[:, k, None])
    return image * 2 - 1


def _object(
    scenes: Scenes, k: int, dx: Tensor, dy: Tensor, distance: Tensor, background: Tensor, size: int
) -> Tensor:
    """The colours (N, 3, S, S) of slot k's objects."""
    r = scenes.radius[:, k, None, None]
    colour = palette(COLOUR_RGB, COLOURS).to(dx)[scenes.colour[:, k]]
    colour = (colour * scenes.tint[:, k, None]).clamp(max=1)
    paint = colour[:, :, None, None]
    striped, dotted = (scenes.texture[:, k, None, None] == i for i in (1, 2))
    soft = 0.5 * size * r  # so that a pattern's edge takes about a pixel
    wave = torch.cos(2 * math.pi * dy / (STRIPE * r))
    dark = striped * STRIPE_DARK * (0.5 - 0.5 * (wave * soft).clamp(-1, 1))
    paint = paint * (1 - dark)[:, None]
    to_dot = (wrapped(dx, DOT * r) ** 2 + wrapped(dy, DOT * r) ** 2).sqrt() - DOT_RADIUS * r
    light = dotted * DOT_LIGHT * covered(to_dot, size)
    paint = paint + (1 - paint) * light[:, None]
    slope = ((dx + dy) / (2.4 * r)).clamp(-0.5, 0.5)  # lit from the upper left
    shade = torch.where((scenes.style == 2)[:, None, None], 0.8 - 0.65 * slope, 1.0)
    paint = (paint * shade[:, None]).clamp(max=1)
    outlined = (scenes.style == 1)[:, None, None] * covered(-(distance + OUTLINE * r), size)
    ink = (background.mean(1) < 0.4).to(paint)[:, None, None, None]  # white on dark, black on light
    return torch.lerp(paint, ink.expand_as(paint), outlined[:, None])


def wrapped(offset: Tensor, period: Tensor) -> Tensor:
    """Offsets to the nearest point of a lattice."""
    return offset - period * (offset / period).round()


def palette(table: dict[str, tuple[int, int, int]], names: tuple[str, ...]) -> Tensor:
    """Colours by name as numbers in [0, 1], (names, 3)."""
    return torch.tensor([table[name] for name in names]) / 255

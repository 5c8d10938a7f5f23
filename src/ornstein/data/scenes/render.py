"""Scenes as images: signed distances of shapes, anti-aliased, all objects of all scenes at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .world import BACKGROUNDS, COLOURS, MOST, SHAPES, Scenes

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
DOT, DOT_RADIUS, DOT_LIGHT = (
    0.72,
    0.23,
    0.75,
)  # spacing and size in radii, and how far towards white a dot goes
OUTLINE = 0.22  # width in radii
_SQUARE, _TRIANGLE, _DIAMOND = 0.88, 0.72, 1.2  # half side, inner radius, half diagonal, in radii
_ARM, _BAR = 1.0, 0.36  # half length and half width of a cross
_RING, _BAND = 0.7, 0.28  # mean radius and half width of a ring
_HALF_WIDTH = {"circle": 1.0, "square": _SQUARE, "triangle": _TRIANGLE * math.sqrt(3), "diamond": _DIAMOND,
               "cross": _ARM, "ring": _RING + _BAND}  # fmt: skip


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
        return torch.empty(0, 3, size, size)
    return torch.cat([_paint(scenes.rows(slice(int(p[0]), int(p[-1]) + 1)), size) for p in parts])


def coverage(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, K, size, size): the share of each pixel that an object would cover if nothing were in front of it."""
    return _covered(distances(scenes, size), size) * scenes.present[..., None, None]


def distances(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, K, size, size): signed distances from the pixels' centres to each object's outline, negative inside, in
    sides of the image. Exact within the object; outside of corners it is a lower bound.
    """
    dx, dy = _offsets(scenes, size)
    return _distances(scenes, dx, dy)


def extents(scenes: Scenes) -> Tensor:
    """Boxes (N, K, 4) of whole objects as (left, top, right, bottom), in sides of the image."""
    half = torch.tensor([_HALF_WIDTH[name] for name in SHAPES])[scenes.shape]
    triangle = scenes.shape == SHAPES.index("triangle")
    up = torch.where(triangle, 2 * _TRIANGLE - _rise(), half)
    down = torch.where(triangle, _TRIANGLE + _rise(), half)
    r = scenes.radius
    sides = [scenes.x - half * r, scenes.y - up * r, scenes.x + half * r, scenes.y + down * r]
    return torch.stack(sides, -1)


def _rise() -> float:
    """How far below the middle of its box a triangle's centre of mass lies, in radii: its box is centred."""
    return _TRIANGLE / 2


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


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - _SQUARE * r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    y = y - _rise() * r
    slope = math.sqrt(3) / 2
    return torch.maximum(slope * x.abs() - 0.5 * y, y) - _TRIANGLE * r


def _diamond(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x.abs() + y.abs() - _DIAMOND * r) / math.sqrt(2)


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    upright = torch.maximum(x - _BAR * r, y - _ARM * r)
    return torch.minimum(upright, torch.maximum(y - _BAR * r, x - _ARM * r))


def _ring(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return ((x * x + y * y).sqrt() - _RING * r).abs() - _BAND * r


_FORMULAS = (_circle, _square, _triangle, _diamond, _cross, _ring)


def _covered(distance: Tensor, size: int) -> Tensor:
    """A straight edge at distance d from the centre covers 1/2 - d of a pixel."""
    return (0.5 - distance * size).clamp_(0, 1)


def _paint(scenes: Scenes, size: int) -> Tensor:
    dx, dy = _offsets(scenes, size)
    distance = _distances(scenes, dx, dy)
    cover = _covered(distance, size) * scenes.present[..., None, None]
    background = _rgb(BACKGROUND_RGB, BACKGROUNDS)[scenes.background]
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
    colour = (_rgb(COLOUR_RGB, COLOURS)[scenes.colour[:, k]] * scenes.tint[:, k, None]).clamp(max=1)
    paint = colour[:, :, None, None]
    striped, dotted = (scenes.texture[:, k, None, None] == i for i in (1, 2))
    soft = 0.5 * size * r  # so that a pattern's edge takes about a pixel
    wave = torch.cos(2 * math.pi * dy / (STRIPE * r))
    dark = striped * STRIPE_DARK * (0.5 - 0.5 * (wave * soft).clamp(-1, 1))
    paint = paint * (1 - dark)[:, None]
    to_dot = (_wrapped(dx, DOT * r) ** 2 + _wrapped(dy, DOT * r) ** 2).sqrt() - DOT_RADIUS * r
    light = dotted * DOT_LIGHT * _covered(to_dot, size)
    paint = paint + (1 - paint) * light[:, None]
    slope = ((dx + dy) / (2.4 * r)).clamp(-0.5, 0.5)  # lit from the upper left
    shade = torch.where((scenes.style == 2)[:, None, None], 0.8 - 0.65 * slope, 1.0)
    paint = (paint * shade[:, None]).clamp(max=1)
    outlined = (scenes.style == 1)[:, None, None] * _covered(-(distance + OUTLINE * r), size)
    ink = (background.mean(1) < 0.4).to(paint)[:, None, None, None]  # white on dark, black on light
    return torch.lerp(paint, ink.expand_as(paint), outlined[:, None])


def _wrapped(offset: Tensor, period: Tensor) -> Tensor:
    """Offsets to the nearest point of a lattice."""
    return offset - period * (offset / period).round()


def _rgb(table: dict[str, tuple[int, int, int]], names: tuple[str, ...]) -> Tensor:
    return torch.tensor([table[name] for name in names]) / 255

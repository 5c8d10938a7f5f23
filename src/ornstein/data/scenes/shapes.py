"""The shapes of objects: signed distances to their outlines, and how far they reach, all in radii.

A shape's middle is that of its box. Distances are negative inside and lengths are in sides of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CORNERS", "DISTANCES", "ROUND", "SHAPES", "half_sizes", "reaches", "supports"]

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
_SQUARE, _TRIANGLE, _DIAMOND = 0.88, 0.72, 1.2  # half side, inner radius, half diagonal
_ARM, _BAR = 1.0, 0.36  # half length and half width of a cross
_RING, _BAND = 0.7, 0.28  # mean radius and half width of a ring
_RISE = _TRIANGLE / 2  # how far below the middle of its box a triangle's centre of mass lies
ROUND = {"circle": 1.0, "ring": _RING + _BAND}
"""Outer radii of the round shapes."""
CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": tuple((x * _SQUARE, y * _SQUARE) for x in (-1, 1) for y in (-1, 1)),
    "triangle": (
        (0.0, _RISE - 2 * _TRIANGLE),
        *((x * _TRIANGLE * math.sqrt(3), _RISE + _TRIANGLE) for x in (-1, 1)),
    ),
    "diamond": ((0, -_DIAMOND), (0, _DIAMOND), (-_DIAMOND, 0), (_DIAMOND, 0)),
    "cross": tuple((x * a, y * b) for a, b in ((_ARM, _BAR), (_BAR, _ARM)) for x in (-1, 1) for y in (-1, 1)),
}
"""Outer corners (x, y) of the others: those of their convex hulls."""


def supports(angles: Tensor) -> Tensor:
    """(shapes, directions): how far each shape reaches in the direction of each angle, its support function."""
    directions = torch.stack([angles.cos(), angles.sin()])
    return torch.stack(
        [
            torch.full_like(angles, ROUND[name])
            if name in ROUND
            else (angles.new_tensor(CORNERS[name]) @ directions).amax(0)
            for name in SHAPES
        ]
    )


def half_sizes() -> Tensor:
    """(shapes, 2): half the width and half the height of each shape's box."""
    return supports(torch.tensor([0.0, math.pi / 2], dtype=torch.float64))


def reaches() -> Tensor:
    """(shapes,): radius of each shape's circle about the middle of its box that holds all of it."""
    far = [ROUND.get(name) or max(math.hypot(*corner) for corner in CORNERS[name]) for name in SHAPES]
    return torch.tensor(far, dtype=torch.float64)


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - _SQUARE * r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    y = y - _RISE * r
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


DISTANCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "diamond": _diamond, "cross": _cross, "ring": _ring,
}  # fmt: skip
"""Signed distances at offsets (x, y) from the middle of a shape of radius r. Outside of corners they are the distances
to the sides' lines, less than the true ones; so they are in the middle of a cross."""

"""What a texture and a style do to an object's colour, pixel by pixel: for the renderer, and for a reader of images."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .world import STYLES, TEXTURES

__all__ = ["Layers", "covered", "inked", "layers", "painted", "wrapped"]

STRIPE, STRIPE_DARK = 0.8, 0.62  # period in radii, and how much darker a stripe is
DOT, DOT_RADIUS, DOT_LIGHT = (
    0.72,
    0.23,
    0.75,
)  # spacing and size in radii, and how far towards white a dot goes
OUTLINE = 0.22  # width in radii


class Layers(NamedTuple):
    """An object's pixel of colour c over a background b is, with ink i,

        b (1 - cover) + cover (inked i + (1 - inked) min(1, shade (min(1, c) gain + light)))

    Attributes:
        cover: share of the pixel that the object covers.
        inked: share of that which its outline takes.
        gain: what a texture leaves of the colour.
        light: the white that it adds.
        shade: brightness by the light from the upper left.
    """

    cover: Tensor
    inked: Tensor
    gain: Tensor
    light: Tensor
    shade: Tensor


def layers(
    distance: Tensor, dx: Tensor, dy: Tensor, radius: Tensor, texture: Tensor, style: Tensor, size: int
) -> Layers:
    """Of objects at signed distances (..., H, W), for images of `size` pixels a side.

    Args:
        distance: to the outline, negative inside, in sides of the image.
        dx, dy: offsets from the objects' centres, broadcastable to the same, in sides.
        radius, texture, style: of each object, broadcastable to the same.
        size: pixels of the image's side.
    """
    dark, light = _stripes(dy, radius, size), _dots(dx, dy, radius, size)
    striped, dotted = (texture == TEXTURES.index(name) for name in ("striped", "dotted"))
    gain = 1 - striped * dark - dotted * light
    inked = (style == STYLES.index("outlined")) * covered(-(distance + OUTLINE * radius), size)
    slope = ((dx + dy) / (2.4 * radius)).clamp(-0.5, 0.5)  # lit from the upper left
    shade = torch.where(style == STYLES.index("shaded"), 0.8 - 0.65 * slope, 1.0)
    return Layers(covered(distance, size), inked, gain, dotted * light, shade)


def inked(layers: Layers, colour: Tensor, background: Tensor) -> Tensor:
    """What an object of a colour (..., 3) looks like where it covers all, (..., 3, H, W); its outline is white before
    a dark background (..., 3) and black before a light one.
    """
    _, outline, gain, light, shade = (v.unsqueeze(-3) for v in layers)
    paint = ((colour[..., None, None].clamp(max=1) * gain + light) * shade).clamp(max=1)
    ink = (background.mean(-1) < 0.4).to(paint)[..., None, None, None]
    return torch.lerp(paint, ink.expand_as(paint), outline)


def painted(layers: Layers, colour: Tensor, background: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) in [0, 1] of one object before a background, colours (..., 3) in [0, 1]."""
    paint = inked(layers, colour, background)
    return torch.lerp(background[..., None, None].expand_as(paint), paint, layers.cover.unsqueeze(-3))


def covered(distance: Tensor, size: int) -> Tensor:
    """A straight edge at distance d from the centre covers 1/2 - d of a pixel."""
    return (0.5 - distance * size).clamp_(0, 1)


def wrapped(offset: Tensor, period: Tensor) -> Tensor:
    """Offsets to the nearest point of a lattice."""
    return offset - period * (offset / period).round()


def _stripes(dy: Tensor, radius: Tensor, size: int) -> Tensor:
    wave = torch.cos(2 * math.pi * dy / (STRIPE * radius))  # an edge takes about a pixel
    return STRIPE_DARK * (0.5 - 0.5 * (wave * 0.5 * size * radius).clamp(-1, 1))


def _dots(dx: Tensor, dy: Tensor, radius: Tensor, size: int) -> Tensor:
    x, y = wrapped(dx, DOT * radius), wrapped(dy, DOT * radius)
    return DOT_LIGHT * covered((x**2 + y**2).sqrt() - DOT_RADIUS * radius, size)

"""What is known exactly of each pixel of a scene: whose it is, how near, which way its surface faces, its edges."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core import suggest

from .render import coverage, distances, extents
from .world import COLOURS, MOST, SHAPES, Scenes

__all__ = ["CONTROLS", "boxes", "control_map", "depth", "edges", "instances", "layout", "normals"]

BEVEL = 0.08  # how far in from its outline an object rises to its full height, in sides
RISE = 0.5  # of an object's bevel, as a share of the step between two layers


def instances(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, size, size): the slot of the object that shows at each pixel, -1 where the background does.

    An object shows where it covers half of a pixel or more and nothing nearer does.
    """
    seen = coverage(scenes, size) >= 0.5
    order = torch.arange(1, MOST + 1)[:, None, None]
    return (seen * order).amax(1) - 1


def boxes(scenes: Scenes) -> Tensor:
    """(N, K, 4): left, top, right, bottom of whole objects in sides of the image; zeros in empty slots."""
    return extents(scenes) * scenes.present[..., None]


def depth(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, 1, size, size): 0 at the background, up to 1 at the nearest: later slots are nearer, objects bevelled,

    h = (k + 1 - r + r u (2 - u)) / K in slot k, u = how far inside its outline, up to 1 at 0.08 sides, r = 1/2.
    """
    return _height(scenes, distances(scenes, size), instances(scenes, size))


def _height(scenes: Scenes, distance: Tensor, shown: Tensor) -> Tensor:
    slot = shown.clamp(min=0)[:, None]
    inside = (-distance.gather(1, slot) / BEVEL).clamp(0, 1)
    height = (slot + 1 - RISE + RISE * inside * (2 - inside)) / MOST
    return height * (shown >= 0)[:, None]


def normals(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, 3, size, size): unit normals (x right, y down, z towards the viewer) of the surface z = `depth`, lengths in
    sides; from the outlines themselves, not from pixels. (0, 0, 1) at the background.
    """
    slope = _slopes(scenes, size)
    flat = torch.cat([-slope, torch.ones_like(slope[:, :1])], 1)
    return F.normalize(flat, dim=1)


def _slopes(scenes: Scenes, size: int) -> Tensor:
    """(N, 2, S, S): the derivative of the height along x and y at each pixel, by central differences of the exact
    distance at a ten-thousandth of a side, which is exact to rounding wherever the outline is smooth.
    """
    step = 1e-4
    shown = instances(scenes, size)
    double = Scenes(*(v.double() if v.is_floating_point() else v for v in scenes))
    found = []
    for axis in ("x", "y"):
        ends = [double._replace(**{axis: getattr(double, axis) - sign * step}) for sign in (1, -1)]
        ahead, behind = (_height(scenes, distances(end, size), shown) for end in ends)
        found.append((ahead - behind) / (2 * step))
    return torch.cat(found, 1).to(scenes.x.dtype)


def edges(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, 1, size, size): 1 at pixels beside, to the right or below which another object or the background shows."""
    shown = instances(scenes, size)
    found = torch.zeros_like(shown, dtype=torch.bool)
    found[:, :, :-1] |= shown[:, :, :-1] != shown[:, :, 1:]
    found[:, :-1] |= shown[:, :-1] != shown[:, 1:]
    return found[:, None].to(scenes.x.dtype)


def layout(scenes: Scenes, size: int = 32) -> Tensor:
    """(N, shapes + colours, size, size): in the box of each object its shape and its colour as one-hot channels, 0
    elsewhere; the nearer object wins. A picture of boxes with labels.
    """
    box = boxes(scenes)[..., None, None]
    centre = (torch.arange(size, dtype=scenes.x.dtype) + 0.5) / size
    inside = (
        (centre >= box[:, :, 0]) & (centre <= box[:, :, 2])
        & (centre[:, None] >= box[:, :, 1]) & (centre[:, None] <= box[:, :, 3])
    )  # fmt: skip
    shown = (inside * scenes.present[..., None, None] * torch.arange(1, MOST + 1)[:, None, None]).amax(1)
    words = torch.cat([F.one_hot(scenes.shape, len(SHAPES)), F.one_hot(scenes.colour, len(COLOURS))], -1)
    words = F.pad(words, (0, 0, 1, 0)).to(scenes.x.dtype)  # row 0: nothing
    rows = torch.arange(len(shown))[:, None, None]
    return words[rows, shown].movedim(-1, 1)


CONTROLS: dict[str, Callable[[Scenes, int], Tensor]] = {
    "depth": depth, "edges": edges, "layout": layout, "normals": normals,
    "regions": lambda scenes, size: F.one_hot(instances(scenes, size) + 1, MOST + 1).movedim(-1, 1).float(),
}  # fmt: skip
"""Maps that can steer an image: functions of scenes and a size, to (N, C, size, size)."""


def control_map(scenes: Scenes, name: str, size: int = 32) -> Tensor:
    """The map of that name, (N, C, size, size).

    Raises:
        ValueError: no such map, with the nearest.
    """
    if name not in CONTROLS:
        raise ValueError(suggest(name, CONTROLS, "control"))
    return CONTROLS[name](scenes, size)

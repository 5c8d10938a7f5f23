"""What a scene can hold, and how scenes are drawn at random: objects with attributes, places without overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ornstein.core import Keyed, Noise, cat, select, suggest

from .shapes import SHAPES, half_sizes, supports

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "MOST",
    "RADII",
    "SHAPES",
    "SIZES",
    "STYLES",
    "TEXTURES",
    "UNSEEN",
    "Scenes",
    "World",
    "draw_scenes",
    "same_scene",
]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
STYLES = ("flat", "outlined", "shaded")
BACKGROUNDS = ("black", "grey", "white", "brown")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES, "style": STYLES,
    "background": BACKGROUNDS,
}  # fmt: skip
MOST = 4  # objects of a scene
HELD_OUT = 2**20  # added to the seed of data for their held-out split
RADII = ((0.12, 0.14), (0.18, 0.205))  # of small and large objects, in sides of the image
UNSEEN = (  # pairs of colour and shape that a training set may leave out
    ("purple", "circle"), ("orange", "square"), ("cyan", "triangle"),
    ("red", "diamond"), ("green", "cross"), ("yellow", "ring"),
)  # fmt: skip
GAP = 0.03  # least room between two objects, in sides
JITTER = 0.06  # half the range of a colour's brightness around its own
TRIES = 320  # at placing the objects of one scene at random, before they go to the four quarters
TRIED = 8  # of them at a time
_FIRST, _SECOND = torch.triu_indices(MOST, MOST, 1)
_QUARTERS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
_ANGLES = torch.arange(24, dtype=torch.float64) * (math.pi / 12)  # of lines that may part two objects


class Scenes(NamedTuple):
    """N scenes of up to K objects, as tensors. Slots are in drawing order: later ones are nearer.

    Attributes:
        shape, colour, size, texture: (N, K) indices into `SHAPES`, `COLOURS`, `SIZES`, `TEXTURES`.
        x, y: (N, K) centres in [0, 1] from the left and from the top.
        radius: (N, K) in sides of the image.
        tint: (N, K) brightness of the object's colour, about 1.
        group: (N, K) number of the group of like objects that a caption names together, -1 in an empty slot.
        background, style: (N,) indices into `BACKGROUNDS`, `STYLES`.
    """

    shape: Tensor
    colour: Tensor
    size: Tensor
    texture: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    tint: Tensor
    group: Tensor
    background: Tensor
    style: Tensor

    @property
    def present(self) -> Tensor:
        """(N, K), true where a slot holds an object."""
        return self.group >= 0

    @property
    def counts(self) -> Tensor:
        """(N,) number of objects."""
        return self.present.sum(1)

    def rows(self, index: Tensor | slice) -> Scenes:
        """The scenes at `index`."""
        chosen: Scenes = select(self, index)
        return chosen

    @staticmethod
    def join(scenes: Sequence[Scenes]) -> Scenes:
        """One batch of several."""
        joined: Scenes = cat(scenes)
        return joined


@dataclass(frozen=True)
class World:
    """Which scenes there are. The defaults are the whole world.

    Attributes:
        most: objects a scene at most, 1 to 4.
        groups: kinds of objects a scene at most, 1 to 4; objects of a kind are alike and counted by captions.
        shapes, colours, sizes, textures, styles, backgrounds: names that occur.
        combinations: "all" pairs of colour and shape, those "seen" (all but `UNSEEN`), or the "unseen" ones only.
        bias: probability that a kind's colour is the one tied to its shape (the colour of the same number, where it
            occurs); otherwise it is drawn freely. A world with correlated attributes; two kinds may then be alike.
        overlap: objects may cover one another; later ones are in front.

    Raises:
        ValueError: unknown names, numbers out of range, or combinations that leave nothing to draw.
    """

    most: int = MOST
    groups: int = 3
    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = COLOURS
    sizes: tuple[str, ...] = SIZES
    textures: tuple[str, ...] = TEXTURES
    styles: tuple[str, ...] = STYLES
    backgrounds: tuple[str, ...] = BACKGROUNDS
    combinations: str = "all"
    bias: float = 0.0
    overlap: bool = False

    def __post_init__(self) -> None:
        for name in ("most", "groups"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= MOST:
                raise ValueError(f"{name}: expected an integer from 1 to {MOST}, got {value!r}")
        for attribute, known in ATTRIBUTES.items():
            _known(f"{attribute}s", getattr(self, f"{attribute}s"), known)
        if self.combinations not in ("all", "seen", "unseen"):
            raise ValueError(suggest(self.combinations, ("all", "seen", "unseen"), "combinations"))
        if not 0 <= self.bias <= 1:
            raise ValueError(f"bias: expected a probability, got {self.bias!r}")
        if not self.pairs():
            raise ValueError(
                f"combinations: {self.combinations!r} leaves no pair of these colours and shapes"
            )
        if self.bias and not self.tied():
            raise ValueError(
                f"bias: no shape occurs in its tied colour among {self.combinations!r} combinations"
            )

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs (colour, shape) that occur."""
        kept = []
        for shape in self.shapes:
            for colour in self.colours:
                unseen = (colour, shape) in UNSEEN
                if self.combinations == "all" or unseen == (self.combinations == "unseen"):
                    kept.append((COLOURS.index(colour), SHAPES.index(shape)))
        return kept

    def tied(self) -> list[int]:
        """Shapes that occur in the colour of the same number, to which `bias` ties them."""
        return [shape for colour, shape in self.pairs() if colour == shape]

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the settings."""
        return tuple(f.name for f in fields(cls))


def _known(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    for word in given:
        if word not in known:
            raise ValueError(suggest(word, known, name))
    if not given:
        raise ValueError(f"{name}: expected at least one of {', '.join(known)}")


def draw_scenes(n: int | Tensor, seed: int = 0, world: World | None = None) -> Scenes:
    """Scenes drawn at random; scene i of a seed is the same in any batch.

    The number of objects is uniform in 1..most, and they are split into at most `groups` kinds. Objects lie inside the
    image and, unless they may overlap, at least 0.03 sides apart; where no such places are found at random (half of
    all scenes of four objects, nearly all of four large ones), they take the middles of the four quarters.

    Args:
        n: how many, or the numbers (N,) of those that are wanted.
        seed: of the whole sequence.
        world: what occurs; everything by default.
    """
    world = world or World()
    ids = torch.arange(n) if isinstance(n, int) else n
    noise = Keyed(seed, ids).fold("scenes")
    u = noise.fold("attributes").uniform(torch.empty(len(ids), 5, MOST))
    single = noise.fold("scene").uniform(torch.empty(len(ids), 4))
    group = _groups(single[:, 0], single[:, 1], world)
    which = group.clamp(min=0)
    pairs = noise.fold("pairs").uniform(torch.empty(len(ids), len(world.pairs())))
    colour, shape = _pairs(pairs, u[:, 0], world)
    size = among(u[:, 1], world.sizes, SIZES).gather(1, which)  # objects of a kind are alike
    low, high = torch.tensor(RADII).T
    radius = low[size] + (high - low)[size] * u[:, 2]
    shape = shape.gather(1, which)
    x, y, radius = _places(noise.fold("places"), shape, radius, group >= 0, world.overlap)
    tint = 1 + JITTER * (2 * u[:, 4] - 1)
    return Scenes(
        shape, colour.gather(1, which), size,
        among(u[:, 3], world.textures, TEXTURES).gather(1, which),
        x, y, radius, tint, group,
        among(single[:, 2], world.backgrounds, BACKGROUNDS), among(single[:, 3], world.styles, STYLES),
    )  # fmt: skip


def same_scene(scenes: Scenes, **changes: Tensor | int) -> Scenes:
    """The same scenes with some attributes set, e.g. `same_scene(s, background=0)`: how an edit's truth is made."""
    for name in changes:
        if name not in Scenes._fields:
            raise ValueError(suggest(name, Scenes._fields, "attribute"))
    made = {k: torch.as_tensor(v).expand_as(getattr(scenes, k)).clone() for k, v in changes.items()}
    return scenes._replace(**made)


def draws(name: str, width: int, n: int, seed: int, ids: Iterable[int] | None = None) -> Tensor:
    """Uniform numbers (n, width) of a named stream; row i belongs to number i of `ids`, 0, 1, ... by default."""
    rows = torch.arange(n) if ids is None else torch.as_tensor(list(ids))
    return Keyed(seed, rows).fold(name).uniform(torch.empty(n, width))


def among(u: Tensor, names: Sequence[str], known: Sequence[str]) -> Tensor:
    """Uniform numbers as indices of names."""
    table = torch.tensor([known.index(name) for name in names])
    return table[(u * len(names)).long().clamp(max=len(names) - 1)]


def _groups(u_count: Tensor, u_split: Tensor, world: World) -> Tensor:
    """(N, K) group numbers: n objects in all, divided at one of all ways into at most `groups` ordered parts."""
    ways = [_compositions(n, world.groups) for n in range(1, world.most + 1)]
    table = torch.full((world.most, max(map(len, ways)), MOST), -1)
    for most, parts in enumerate(ways):
        for k, part in enumerate(parts):
            table[most, k, : most + 1] = torch.tensor([g for g, size in enumerate(part) for _ in range(size)])
    counts = torch.tensor([len(w) for w in ways])
    n = (u_count * world.most).long().clamp(max=world.most - 1)
    return table[n, (u_split * counts[n]).long().minimum(counts[n] - 1)]


def _compositions(n: int, parts: int) -> list[tuple[int, ...]]:
    """Ordered ways to write n as a sum of at most `parts` positive numbers."""
    if n == 0:
        return [()]
    if parts == 0:
        return []
    return [(first, *rest) for first in range(1, n + 1) for rest in _compositions(n - first, parts - 1)]


def _pairs(u: Tensor, u_bias: Tensor, world: World) -> tuple[Tensor, Tensor]:
    """(N, K) colours and shapes, one pair a group: without bias no two groups have the same one if that can be."""
    pairs = torch.tensor(world.pairs())
    order = u.argsort(1)[:, torch.arange(MOST) % len(pairs)]
    colour, shape = pairs[order].unbind(-1)
    possible = torch.isin(shape, torch.tensor(world.tied(), dtype=torch.long))
    return torch.where((u_bias < world.bias) & possible, shape, colour), shape


def _places(
    noise: Noise, shape: Tensor, radius: Tensor, present: Tensor, overlap: bool
) -> tuple[Tensor, ...]:
    """Centres x, y and radii, each (N, K): centres uniform among all that keep objects in the image and apart; all of a
    scene's are drawn until they do. Where none are found, objects go to the quarters, the largest a little smaller.
    """
    x, y = torch.tensor(_QUARTERS).T[:, None].repeat(1, len(radius), 1)
    fitting = (0.25 - GAP / 2) / half_sizes().to(radius)[shape].amax(-1)
    placed = torch.stack([x, y, torch.minimum(radius, fitting)])
    waiting = torch.arange(len(radius))
    for attempt in range(TRIES // TRIED):
        u = noise[waiting].fold(attempt).uniform(torch.empty(len(waiting), TRIED, 2, MOST))
        r = radius[waiting, None, None]
        tried = r + GAP / 2 + u * (1 - 2 * r - GAP)
        free = _free(tried, shape[waiting], radius[waiting], present[waiting], overlap)
        found, first = free.any(1), free.int().argmax(1)
        placed[:2, waiting[found]] = tried[found, first[found]].movedim(1, 0)
        placed[2, waiting[found]] = radius[waiting[found]]
        waiting = waiting[~found]
        if not len(waiting):
            break
    return tuple(placed)


def _free(tried: Tensor, shape: Tensor, radius: Tensor, present: Tensor, overlap: bool) -> Tensor:
    """Whether places (N, T, 2, K) are in the image and keep objects apart, (N, T)."""
    half = (half_sizes().to(radius)[shape] * radius[..., None]).movedim(-1, -2)[:, None]
    free = ((tried >= half) & (tried <= 1 - half) | ~present[:, None, None]).all((-1, -2))
    if not overlap:
        free &= _circles_apart(tried, radius[:, None], present[:, None])
        row, attempt = free.nonzero(as_tuple=True)
        free[row, attempt] = _outlines_apart(tried[row, attempt], shape[row], radius[row], present[row])
    return free


def _circles_apart(place: Tensor, radius: Tensor, present: Tensor) -> Tensor:
    """Whether all pairs of objects' circles keep their distance: (..., 2, K), (..., K), (..., K) to (...)."""
    dx, dy = (place[..., i, _FIRST] - place[..., i, _SECOND] for i in (0, 1))
    least = radius[..., _FIRST] + radius[..., _SECOND] + GAP
    return ((dx * dx + dy * dy > least * least) | ~(present[..., _FIRST] & present[..., _SECOND])).all(-1)


def _outlines_apart(place: Tensor, shape: Tensor, radius: Tensor, present: Tensor) -> Tensor:
    """Whether a strip of width GAP in one of 24 directions parts each pair: (M, 2, K) and three of (M, K) to (M,)."""
    return outline_gap(place, shape, radius, present) > GAP


def outline_gap(place: Tensor, shape: Tensor, radius: Tensor, present: Tensor) -> Tensor:
    """Width of the widest strip in one of 24 directions that parts the nearest pair, (M,); infinite without a pair."""
    here, there = (supports(_ANGLES + turn).to(radius) for turn in (0, math.pi))
    reach = (
        here[shape[:, _FIRST]] * radius[:, _FIRST, None] + there[shape[:, _SECOND]] * radius[:, _SECOND, None]
    )
    directions = torch.stack([_ANGLES.cos(), _ANGLES.sin()]).to(radius)
    between = (place[..., _SECOND] - place[..., _FIRST]).movedim(-2, -1) @ directions
    both = present[:, _FIRST] & present[:, _SECOND]
    return (between - reach).amax(-1).masked_fill(~both, math.inf).amin(1)

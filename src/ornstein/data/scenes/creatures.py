"""Creatures: characters that are eight numbers each, in pictures where all else varies, for personalisation.

The identity is known exactly, and so is what a picture shows beside it: place, size, pose, accessory, background.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ornstein.core import Keyed, select

from ..checks import check_least
from ..dataset import Dataset, TensorSplit
from ..image import to_bytes
from .language import PLACES, Span, Writer, said_where, true_place
from .layers import covered
from .render import BACKGROUND_RGB, palette
from .shapes import DISTANCES
from .world import BACKGROUNDS, HELD_OUT, SIZES, among, draws

__all__ = [
    "ACCESSORIES",
    "PARTS",
    "TRAITS",
    "CreatureCaption",
    "Creatures",
    "IdentityDistances",
    "Portrait",
    "creature_captions",
    "creature_name",
    "creature_parts",
    "creatures",
    "draw_creatures",
    "draw_identities",
    "identity_distances",
    "read_portrait",
    "render_creatures",
]

TRAITS = ("hue", "aspect", "eyes", "eye size", "ears", "ear size", "stripes", "contrast")
ACCESSORIES = ("nothing", "hat", "scarf", "ball")
PARTS = ("background", "ears", "body", "eyes", "accessory")
REACHES = ((0.24, 0.27), (0.33, 0.36))  # of small and large creatures with all they wear, in sides
TILT = math.pi / 6  # largest, to either side
_BODY = 0.56  # geometric mean of the body's half axes; this and what follows in radii
_RGB = {"eye": (250, 250, 250), "pupil": (15, 15, 20), "hat": (225, 30, 35), "scarf": (250, 220, 40),
        "ball": (40, 85, 235)}  # fmt: skip
_EARS: tuple[str, ...] = ("circle", "triangle", "diamond")
_CONSONANTS, _VOWELS = "bdfgklmnprtv", "aeiou"
_SYLLABLES = tuple(c + v for c in _CONSONANTS for v in _VOWELS)
_WORN = ACCESSORIES[1:]
_REFERENCES = 2**21  # added to the seed of characters and pictures that only measure


class Creatures(NamedTuple):
    """N pictures of creatures.

    Attributes:
        identity: (N, 8) in [0, 1], the numbers `TRAITS`: who it is.
        x, y: (N,) centres in [0, 1], from the left and from the top.
        radius: (N,) of the circle that holds the creature and what it wears, in sides.
        angle: (N,) tilt in radians, clockwise.
        size, accessory, background: (N,) indices into `SIZES`, `ACCESSORIES`, `BACKGROUNDS`.
    """

    identity: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    size: Tensor
    accessory: Tensor
    background: Tensor

    def rows(self, index: Tensor | slice) -> Creatures:
        """The pictures at `index`."""
        chosen: Creatures = select(self, index)
        return chosen


class Portrait(NamedTuple):
    """What a caption says of a picture; None where it says nothing."""

    name: str
    size: str | None = None
    accessory: str | None = None
    place: str | None = None
    background: str | None = None


class CreatureCaption(NamedTuple):
    """A caption, which of its words say what, and what it says."""

    text: str
    spans: tuple[Span, ...]
    said: Portrait


def draw_identities(n: int | Tensor, seed: int = 0) -> Tensor:
    """Characters, (N, 8) uniform in [0, 1]; number i of a seed is always the same.

    Args:
        n: how many, or the numbers (N,) of those that are wanted.
        seed: of the whole sequence.
    """
    ids = torch.arange(n) if isinstance(n, int) else n
    return Keyed(seed, ids).fold("identities").uniform(torch.empty(len(ids), len(TRAITS)))


def draw_creatures(n: int | Tensor, seed: int = 0, identity: Tensor | None = None) -> Creatures:
    """Pictures with all but the identity drawn at random; picture i of a seed is the same in any batch.

    Args:
        n: how many, or the numbers (N,) of those that are wanted.
        seed: of the whole sequence.
        identity: (8,) or (N, 8), who they show; one drawn for each by default.

    Raises:
        ValueError: identities of another shape.
    """
    ids = torch.arange(n) if isinstance(n, int) else n
    who = draw_identities(ids, seed) if identity is None else torch.as_tensor(identity)
    if who.shape not in ((len(TRAITS),), (len(ids), len(TRAITS))):
        raise ValueError(
            f"identity: expected {(len(TRAITS),)} or {(len(ids), len(TRAITS))}, got {tuple(who.shape)}"
        )
    u = Keyed(seed, ids).fold("creatures").uniform(torch.empty(len(ids), 7)).T
    size = among(u[0], SIZES, SIZES)
    low, high = torch.tensor(REACHES)[size].T
    radius = low + (high - low) * u[1]
    x, y = radius + u[2:4] * (1 - 2 * radius)
    return Creatures(
        who.expand(len(ids), -1).to(u.dtype), x, y, radius, TILT * (2 * u[4] - 1), size,
        among(u[5], ACCESSORIES, ACCESSORIES), among(u[6], BACKGROUNDS, BACKGROUNDS),
    )  # fmt: skip


# ------------------------------------------------------------------------------------- pictures


def render_creatures(creatures: Creatures, size: int = 32) -> Tensor:
    """Images (N, 3, size, size) in [-1, 1], anti-aliased.

    Raises:
        ValueError: a size below 8.
    """
    if size < 8:
        raise ValueError(f"size: expected at least 8 pixels, got {size}")
    image = palette(BACKGROUND_RGB, BACKGROUNDS)[creatures.background][..., None, None]
    for _, cover, colour in _layers(creatures, size):
        image = torch.lerp(image, colour, cover[:, None])
    return image * 2 - 1


def creature_parts(creatures: Creatures, size: int = 32) -> Tensor:
    """(N, size, size): which of `PARTS` shows at each pixel, the nearest that covers half of it or more."""
    parts = torch.zeros(len(creatures.x), size, size, dtype=torch.long)
    for part, cover, _ in _layers(creatures, size):
        parts = torch.where(cover >= 0.5, PARTS.index(part), parts)
    return parts


class _Traits(NamedTuple):
    """What the eight numbers mean, each (N, 1, 1), lengths in radii."""

    hue: Tensor  # of 360 degrees; magenta and red are not both there, so that it is no circle
    across: Tensor
    down: Tensor
    eyes: Tensor
    eye: Tensor
    ears: Tensor
    ear: Tensor
    stripes: Tensor
    contrast: Tensor

    @classmethod
    def of(cls, identity: Tensor) -> _Traits:
        u = identity[..., None, None].unbind(1)
        aspect = 0.7 * 2 ** u[1]
        return cls(
            0.8 * u[0], _BODY * aspect.sqrt(), _BODY / aspect.sqrt(), 1 + (3 * u[2]).floor().clamp(max=2),
            0.07 + 0.06 * u[3], (3 * u[4]).floor().clamp(max=2), 0.14 + 0.1 * u[5], 1 + 2 * u[6], 0.25 + 0.5 * u[7],
        )  # fmt: skip


def _layers(creatures: Creatures, size: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """From back to front: a part's name, the share of each pixel it covers (N, S, S), and its colour (N, 3, S, S)."""
    r, traits = creatures.radius[:, None, None], _Traits.of(creatures.identity)
    x, y = _local(creatures, size)
    body, patterned = _coat(traits, x)
    yield "ears", covered(_ears(traits, x, y) * r, size), 0.75 * body
    yield "body", covered(_ellipse(x, y, traits.across, traits.down) * r, size), patterned
    eyes = _eyes(traits, x, y)
    yield "eyes", covered((eyes - traits.eye) * r, size), _flat("eye")
    yield "eyes", covered((eyes - 0.55 * traits.eye) * r, size), _flat("pupil")
    for name, worn in _accessories(traits, x, y).items():
        wears = (creatures.accessory == ACCESSORIES.index(name))[:, None, None]
        yield "accessory", covered(worn * r, size) * wears, _flat(name)


def _local(creatures: Creatures, size: int) -> tuple[Tensor, Tensor]:
    """Coordinates (N, S, S) of the pixels upright with the creature, in its radii from its centre."""
    pixels = (torch.arange(size, dtype=creatures.x.dtype) + 0.5) / size
    dx = (pixels - creatures.x[:, None])[:, None, :]
    dy = (pixels - creatures.y[:, None])[:, :, None]
    cos, sin = (
        f(creatures.angle)[:, None, None] / creatures.radius[:, None, None] for f in (torch.cos, torch.sin)
    )
    return cos * dx + sin * dy, cos * dy - sin * dx


def _coat(traits: _Traits, x: Tensor) -> tuple[Tensor, Tensor]:
    """The body's colour without and with its stripes, (N, 3, 1, 1) and (N, 3, S, S)."""
    thirds = torch.tensor([0.0, 1 / 3, 2 / 3])[:, None, None]
    wheel = (6 * ((traits.hue[:, None] - thirds + 0.5) % 1 - 0.5).abs() - 1).clamp(0, 1)
    colour = 0.95 - 0.8 * wheel
    wave = 0.5 - 0.5 * torch.cos(math.pi * traits.stripes * x / traits.across)
    return colour, colour * (1 - traits.contrast * wave)[:, None]


def _ellipse(x: Tensor, y: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """About the signed distance to an ellipse: (k - 1) k / |grad k^2 / 2|, exact to first order at the outline."""
    k = ((x / across) ** 2 + (y / down) ** 2).sqrt()
    slope = ((x / across**2) ** 2 + (y / down**2) ** 2).sqrt()
    return torch.where(slope > 0, (k - 1) * k / slope.clamp(min=1e-12), -torch.minimum(across, down))


def _ears(traits: _Traits, x: Tensor, y: Tensor) -> Tensor:
    side, up = x.abs() - 0.72 * traits.across, y + 0.8 * traits.down
    kinds = torch.stack([DISTANCES[name](side, up, traits.ear) for name in _EARS])
    return kinds.gather(0, traits.ears.long().expand(1, *x.shape)).squeeze(0)


def _eyes(traits: _Traits, x: Tensor, y: Tensor) -> Tensor:
    """Distances to the middle of the nearest eye: one to three in a row."""
    spacing, outer = 2.35 * traits.eye, (traits.eyes - 1) / 2
    place = (x / spacing + outer).round().clamp(min=0).minimum(traits.eyes - 1) - outer
    return DISTANCES["circle"](x - place * spacing, y + 0.3 * traits.down, torch.zeros_like(x))


def _accessories(traits: _Traits, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    top = y + 0.9 * traits.down
    brim, crown = (_box(x, top + up, a, d) for up, a, d in ((0.0, 0.34, 0.045), (0.15, 0.2, 0.15)))
    ball = DISTANCES["circle"](x - traits.across - 0.1, y - 0.3, torch.tensor(0.17))
    band = _box(x, y - 0.25 * traits.down, 2.0, 0.09)
    scarf = torch.maximum(band, _ellipse(x, y, 1.06 * traits.across, 1.06 * traits.down))
    return {"hat": torch.minimum(brim, crown), "scarf": scarf, "ball": ball}


def _box(x: Tensor, y: Tensor, across: float, down: float) -> Tensor:
    return torch.maximum(x.abs() - across, y.abs() - down)


def _flat(name: str) -> Tensor:
    return palette(_RGB, (name,))[0, :, None, None]


# ---------------------------------------------------------------------------------------- words


def creature_name(number: int) -> str:
    """A name for character `number`: two made-up syllables, another for each number below 3,600."""
    first, second = divmod((number * 1009) % len(_SYLLABLES) ** 2, len(_SYLLABLES))  # 1009 is prime to 3,600
    return _SYLLABLES[first] + _SYLLABLES[second]


def creature_captions(
    creatures: Creatures, names: Sequence[str], seed: int = 0, ids: Iterable[int] | None = None
) -> list[CreatureCaption]:
    """A caption for each picture, true of it: the name always, size, accessory, place and background at times.

    Args:
        creatures: N pictures.
        names: the N names of whom they show.
        seed: of what is said.
        ids: numbers of the pictures, so that one's caption is the same in any batch; 0, 1, ... by default.

    Raises:
        ValueError: not one name a picture.
    """
    n = len(creatures.x)
    if len(names) != n:
        raise ValueError(f"names: expected one for each of {n} pictures, got {len(names)}")
    say = draws("creature captions", 5, n, seed, ids).tolist()
    shown = (creatures.size, creatures.accessory, creatures.background, creatures.x, creatures.y)
    columns = zip(names, *(v.tolist() for v in shown), say, strict=True)
    return [_described(*row) for row in columns]


def _described(
    name: str, size: int, accessory: int, background: int, x: float, y: float, u: list[float]
) -> CreatureCaption:
    worn = ACCESSORIES[accessory]
    said = Portrait(
        name,
        SIZES[size] if u[0] < 0.4 else None,
        worn if worn in _WORN and u[1] < 0.8 else None,
        true_place(x, y, corner=u[3] < 0.5) if u[2] < 0.5 else None,
        BACKGROUNDS[background] if u[4] < 0.5 else None,
    )
    return _portrayed(said)


def _portrayed(said: Portrait) -> CreatureCaption:
    out = Writer()
    out.add("a picture of")
    if said.size:
        out.add(said.size, "size", (0,))
    out.add(said.name, "name", (0,))
    if said.accessory:
        out.add("with a")
        out.add(said.accessory, "accessory", (0,))
    if said.place:
        out.add(said_where(said.place), "place", (0,))
    if said.background:
        out.add("on a")
        out.add(said.background, "background")
        out.add("background")
    return CreatureCaption(out.text, tuple(out.spans), said)


_PORTRAIT = re.compile(
    rf"a picture of (?:(?P<size>{'|'.join(SIZES)}) )?(?P<name>\w+)(?: with a (?P<accessory>{'|'.join(_WORN)}))?"
    rf"(?: (?P<place>{'|'.join(said_where(place) for place in PLACES)}))?"
    rf"(?: on a (?P<background>{'|'.join(BACKGROUNDS)}) background)?"
)


def read_portrait(text: str) -> Portrait:
    """What a creature's caption says.

    Raises:
        ValueError: text that is no such caption.
    """
    found = _PORTRAIT.fullmatch(" ".join(text.lower().strip().rstrip(".").split()))
    if found is None:
        raise ValueError(
            f"caption {text!r}: expected one like 'a picture of small bolu with a hat on the left on a grey "
            "background'"
        )
    said = found.groupdict()
    where = {said_where(place): place for place in PLACES}
    return Portrait(**{**said, "place": where.get(said["place"] or "")})  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- measures


class IdentityDistances(NamedTuple):
    """Mean distances between two pictures of one character (a metric's floor) and of two characters."""

    within: float
    between: float


def identity_distances(
    embed: Callable[[Tensor], Tensor], count: int = 500, size: int = 32, seed: int = 0
) -> IdentityDistances:
    """How far true pictures of one character are apart in an embedding, and those of different ones.

    A generator's consistency is 1 - (d - within) / (between - within), d being its own distance.

    Args:
        embed: from images (N, 3, size, size) in [-1, 1] to (N, D).
        count: characters.
        size: pixels a side.
        seed: of characters and pictures, which are none of `creatures` with the same seed.
    """
    own = seed + _REFERENCES
    who = draw_identities(count, own)
    drawn = (draw_creatures(count, own + i * HELD_OUT, who) for i in (0, 1))
    one, other = (embed(render_creatures(creatures, size)) for creatures in drawn)
    within, between = ((one - b).flatten(1).norm(dim=1).mean() for b in (other, other.roll(1, 0)))
    return IdentityDistances(float(within), float(between))


def creatures(size: int = 32, count: int = 10_000, characters: int = 100, seed: int = 0) -> Dataset:
    """Pictures (3, size, size) in [-1, 1] of characters, with captions that name them; the label is who it is.

    Args:
        size: pixels a side; 32 and 64 are meant.
        count: pictures to train on; a tenth as many are held out, other pictures of the same characters.
        characters: how many there are.
        seed: of characters and pictures.

    Raises:
        ValueError: numbers out of range.
    """
    most = len(_SYLLABLES) ** 2  # names that there are
    check_least(size=(size, 8), count=(count, 1), characters=(characters, 1))
    if characters > most:
        raise ValueError(f"characters: expected at most {most}, got {characters}")
    names = tuple(creature_name(i) for i in range(characters))
    who = draw_identities(characters, seed)
    parts = ((count, seed), (max(1, count // 10), seed + HELD_OUT))
    train, held_out = (_pictures(n, s, size, who, names) for n, s in parts)
    return Dataset("creatures", train, held_out, shape=(3, size, size), classes=names, decode=to_bytes)


def _pictures(count: int, seed: int, size: int, who: Tensor, names: Sequence[str]) -> TensorSplit:
    """Of each character as often as of any other; rendered when they are read."""
    label = torch.arange(count) % len(who)
    drawn = draw_creatures(count, seed, who[label])
    captions = creature_captions(drawn, [names[i] for i in label.tolist()], seed)
    return TensorSplit(
        drawn, {"label": label}, partial(render_creatures, size=size), [c.text for c in captions]
    )

"""Scenes that move: objects at constant velocity, thrown back by the borders and, if asked for, by one another.

Positions and velocities at every frame are known, and so is what a caption says of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ornstein.core import Keyed, select

from ..checks import check_least
from ..dataset import Dataset, TensorSplit
from ..image import to_bytes
from .language import Kind, SceneRow, Span, Writer, noun_phrase
from .render import render
from .shapes import half_sizes, reaches
from .world import HELD_OUT, MOST, Scenes, World, draw_scenes, draws

__all__ = [
    "HEADINGS",
    "MovingCaption",
    "Sequences",
    "draw_sequences",
    "heading",
    "moving_captions",
    "moving_scenes",
    "render_sequences",
    "simulate_scenes",
]

HEADINGS = ("left", "right", "up", "down", "still")
STILL = 0.15  # probability that a kind stands still
SPREAD = math.radians(15)  # of a heading about its axis, to either side
STEADY = 2.0  # how many times further along an axis than across it is a move along it
REST = 0.02  # what moves less far than this, in sides, stands still
EVENTS = 64  # throws a frame at most: a jam of objects loses the rest of the frame
_FIRST, _SECOND = torch.triu_indices(MOST, MOST, 1)


class Sequences(NamedTuple):
    """N sequences of T frames.

    Attributes:
        scenes: the N scenes at frame 0.
        x, y: (N, T, K) centres, in sides from the left and from the top.
        dx, dy: (N, T, K) velocities at the frames, in sides a frame.
    """

    scenes: Scenes
    x: Tensor
    y: Tensor
    dx: Tensor
    dy: Tensor

    def rows(self, index: Tensor | slice) -> Sequences:
        """The sequences at `index`."""
        chosen: Sequences = select(self, index)
        return chosen

    def frame(self, t: int) -> Scenes:
        """The N scenes at frame t: what `instances`, `boxes`, `depth` and the other maps take."""
        return self.scenes._replace(x=self.x[:, t], y=self.y[:, t])


def draw_sequences(
    n: int | Tensor,
    frames: int = 8,
    seed: int = 0,
    world: World | None = None,
    speed: float = 0.04,
    bounce: bool = False,
) -> Sequences:
    """Sequences drawn at random; sequence i of a seed is the same in any batch, and a longer one goes on from it.

    The first frames are `draw_scenes(n, seed, world)`. Objects of a kind set out alike: still at a chance of 0.15, or
    left, right, up or down, within 15 degrees of it, at 0.5 to 1.0 of `speed`.

    Args:
        n: how many, or the numbers (N,) of those that are wanted.
        frames: T.
        seed: of the whole sequence.
        world: what occurs; everything by default.
        speed: the largest, in sides a frame.
        bounce: objects throw one another back, see `simulate_scenes`; otherwise they pass, later ones in front.

    Raises:
        ValueError: a number of frames below 1, or a speed outside of [0, 0.5].
    """
    check_least(frames=(frames, 1))
    if not 0 <= speed <= 0.5:
        raise ValueError(f"speed: expected a number in [0, 0.5] sides a frame, got {speed!r}")
    ids = torch.arange(n) if isinstance(n, int) else n
    scenes = draw_scenes(ids, seed, world)
    u = Keyed(seed, ids).fold("velocities").uniform(torch.empty(len(ids), 4, MOST))
    u = u.gather(2, scenes.group.clamp(min=0)[:, None].expand(-1, 4, -1))  # objects of a kind alike
    angle = (4 * u[:, 0]).floor() * (math.pi / 2) + SPREAD * (2 * u[:, 1] - 1)
    pace = speed * (0.5 + 0.5 * u[:, 2]) * (u[:, 3] >= STILL)
    return simulate_scenes(scenes, pace * angle.cos(), pace * angle.sin(), frames, bounce)


# --------------------------------------------------------------------------------------- motion


class _State(NamedTuple):
    """Places and velocities (N, 2, K) in float64, and the time (N,) that is left of a frame."""

    place: Tensor
    velocity: Tensor
    left: Tensor


class _Bodies(NamedTuple):
    """The border that centres are kept from (N, 2, K), the distances (N, P) at which pairs meet (negative: never)."""

    border: Tensor
    least: Tensor


def simulate_scenes(scenes: Scenes, dx: Tensor, dy: Tensor, frames: int, bounce: bool = False) -> Sequences:
    """The motion of scenes from frame 0 on, exact to rounding: from event to event, in float64.

    An object's box touching a border turns its velocity across the border round. With `bounce`, two objects whose
    circumscribed circles meet exchange their velocities along the line between their centres, as equal masses do:
    momentum (but for the borders') and energy are kept. Circles that overlap from the start count as meeting where they
    draw nearer.

    Args:
        scenes: N scenes.
        dx, dy: (N, K) velocities in sides a frame.
        frames: T.
        bounce: objects throw one another back.
    """
    shape, radius = scenes.shape, scenes.radius.double()
    border = (half_sizes()[shape] * radius[..., None]).movedim(-1, 1)
    least = (reaches()[shape] * radius)[:, _FIRST] + (reaches()[shape] * radius)[:, _SECOND]
    both = scenes.present[:, _FIRST] & scenes.present[:, _SECOND] & bounce
    bodies = _Bodies(border, torch.where(both, least, -1.0))
    place, velocity = (torch.stack(pair, 1).double() for pair in ((scenes.x, scenes.y), (dx, dy)))
    velocity = velocity * scenes.present[:, None]
    states = [_State(place, velocity, torch.zeros(len(place), dtype=torch.float64))]
    while len(states) < frames:
        states.append(_next_frame(states[-1], bodies))
    places, velocities = (torch.stack(v, 1).to(scenes.x.dtype) for v in list(zip(*states, strict=True))[:2])
    return Sequences(scenes, *places.unbind(2), *velocities.unbind(2))


def _next_frame(state: _State, bodies: _Bodies) -> _State:
    state = state._replace(left=torch.ones_like(state.left))
    for _ in range(EVENTS):
        state = _to_next_event(state, bodies)
        if not bool((state.left > 0).any()):
            break
    return state


def _to_next_event(state: _State, bodies: _Bodies) -> _State:
    """On to whatever comes first: a throw by a border, by another object, or the end of the frame."""
    at_border, at_pair = _border_times(state, bodies), _meeting_times(state, bodies)
    step = torch.minimum(at_border.amin((1, 2)), at_pair.amin(1)).minimum(state.left)
    moved = state.place + state.velocity * step[:, None, None]
    goes_on = step < state.left
    turned = (at_border <= step[:, None, None]) & goes_on[:, None, None]
    velocity = torch.where(turned, -state.velocity, state.velocity)
    velocity = _exchanged(moved, velocity, (at_pair <= step[:, None]) & goes_on[:, None])
    return _State(moved, velocity, state.left - step)


def _border_times(state: _State, bodies: _Bodies) -> Tensor:
    """(N, 2, K) until each object meets the border that it moves to."""
    room = torch.where(state.velocity > 0, 1 - bodies.border - state.place, state.place - bodies.border)
    time = room.clamp(min=0) / state.velocity.abs()
    return torch.where(state.velocity == 0, math.inf, time)


def _meeting_times(state: _State, bodies: _Bodies) -> Tensor:
    """(N, P) until two circles that draw nearer meet: the first root of |p + v t| = least; 0 if they overlap."""
    (px, py), (vx, vy) = (_between(v).unbind(1) for v in (state.place, state.velocity))
    nearing, speed = px * vx + py * vy, vx * vx + vy * vy
    room = px * px + py * py - bodies.least * bodies.least
    root = nearing * nearing - speed * room
    time = room.clamp(min=0) / (root.clamp(min=0).sqrt() - nearing)  # stable where the root is near -nearing
    return torch.where((nearing < 0) & (root > 0) & (bodies.least > 0), time, math.inf)


def _between(v: Tensor) -> Tensor:
    """Differences (N, 2, P) of all pairs of objects."""
    return v[..., _SECOND] - v[..., _FIRST]


def _exchanged(place: Tensor, velocity: Tensor, meets: Tensor) -> Tensor:
    """Velocities after those pairs, one after the other, that meet have exchanged what they have along their line."""
    if not bool(meets.any()):
        return velocity
    columns = list(velocity.unbind(-1))
    for pair, (i, j) in enumerate(zip(_FIRST.tolist(), _SECOND.tolist(), strict=True)):
        line = place[..., j] - place[..., i]
        line = line / (line[:, :1] ** 2 + line[:, 1:] ** 2).sqrt().clamp(min=1e-12)
        gap = columns[j] - columns[i]
        nearing = (gap[:, :1] * line[:, :1] + gap[:, 1:] * line[:, 1:]).clamp(max=0)
        push = torch.where(meets[:, pair, None], nearing * line, 0.0)
        columns[i], columns[j] = columns[i] + push, columns[j] - push
    return torch.stack(columns, -1)


# ------------------------------------------------------------------------------------- pictures


def render_sequences(sequences: Sequences, size: int = 32) -> Tensor:
    """Frames (N, T, 3, size, size) in [-1, 1].

    Raises:
        ValueError: a size below 8.
    """
    frames = [render(sequences.frame(t), size) for t in range(sequences.x.shape[1])]
    return torch.stack(frames, 1)


# ---------------------------------------------------------------------------------------- words


class MovingCaption(NamedTuple):
    """A caption, which of its words speak of which objects, and what it says: kinds, and one of `HEADINGS` for each or
    None where it only says that they move.
    """

    text: str
    spans: tuple[Span, ...]
    kinds: tuple[Kind, ...]
    headings: tuple[str | None, ...]


def heading(dx: float, dy: float) -> str | None:
    """The direction of a move by (dx, dy) sides, x to the right and y down: along an axis at least twice as far as
    across it; "still" below 0.02 sides; otherwise None.
    """
    if math.hypot(dx, dy) < REST:
        return "still"
    along, across = (dx, dy) if abs(dx) > abs(dy) else (dy, dx)
    if abs(along) < STEADY * abs(across):
        return None
    return HEADINGS[2 * (along is dy) + (along > 0)]


def moving_captions(
    sequences: Sequences, seed: int = 0, ids: Iterable[int] | None = None
) -> list[MovingCaption]:
    """A caption for each sequence, true of it, e.g. "a red circle moves left and two blue squares stand still".

    The heading is that of the way from the first frame to the last; it is said where all of a kind have the same.
    "Still" is said of what is so in every frame: of a thing that comes back it is only said that it moves.

    Args:
        sequences: N sequences.
        seed: of the phrasings.
        ids: numbers of the sequences, so that one's caption is the same in any batch; 0, 1, ... by default.
    """
    u = draws("moving captions", 5 * MOST, len(sequences.x), seed, ids).tolist()
    steps = torch.stack([sequences.x - sequences.x[:, :1], sequences.y - sequences.y[:, :1]], -1)
    ways, still = steps[:, -1].tolist(), (steps == 0).all(-1).all(1).tolist()
    return [
        _told(*told) for told in zip(SceneRow.of(sequences.scenes), ways, still, map(iter, u), strict=True)
    ]


def _told(row: SceneRow, ways: list[list[float]], still: list[bool], draw: Iterator[float]) -> MovingCaption:
    out, kinds, headings = Writer(), [], []
    slots = row.kinds()
    for k, objects in enumerate(slots):
        if k:
            out.add("and" if k == len(slots) - 1 else ",")
        kinds.append(noun_phrase(out, row, objects, draw))
        found = {_heading(ways[i], still[i]) for i in objects}
        headings.append(found.pop() if len(found) == 1 else None)
        out.add(_verb(headings[-1], len(objects) > 1), "heading", objects)
    return MovingCaption(out.text, tuple(out.spans), tuple(kinds), tuple(headings))


def _heading(moved: list[float], still: bool) -> str | None:
    """Of a way (dx, dy) that is said: what came back to where it was has none, for it did move."""
    way = heading(*moved)
    return way if still or way != "still" else None


def _verb(way: str | None, several: bool) -> str:
    if way == "still":
        return "stand still" if several else "stands still"
    return ("move" if several else "moves") + (f" {way}" if way else "")


# ------------------------------------------------------------------------------------- data set


def moving_scenes(
    size: int = 32,
    frames: int = 8,
    count: int = 10_000,
    seed: int = 0,
    most: int = 2,
    combinations: str = "seen",
    speed: float = 0.04,
    bounce: bool = False,
) -> Dataset:
    """Sequences (frames, 3, size, size) in [-1, 1] of moving objects, with captions.

    Args:
        size: pixels a side.
        frames: T.
        count: sequences to train on; a tenth as many are held out.
        seed: of the sequences.
        most, combinations: as in `World`.
        speed, bounce: as in `draw_sequences`.

    Raises:
        ValueError: numbers out of range or unknown names.
    """
    check_least(size=(size, 8), count=(count, 1))
    world = World(most=most, combinations=combinations)
    parts = ((count, seed), (max(1, count // 10), seed + HELD_OUT))
    train, held_out = (
        _split(draw_sequences(n, frames, own, world, speed, bounce), own, size) for n, own in parts
    )
    return Dataset("moving-scenes", train, held_out, shape=(frames, 3, size, size), decode=film_strips)


def _split(drawn: Sequences, seed: int, size: int) -> TensorSplit:
    """Rendered when they are read."""
    texts = [caption.text for caption in moving_captions(drawn, seed)]
    return TensorSplit(drawn, transform=partial(render_sequences, size=size), texts=texts)


def film_strips(x: Any) -> NDArray[np.uint8]:
    """Sequences (B, T, 3, S, S) in [-1, 1] as pictures (B, S, T S, 3) of their frames side by side."""
    return to_bytes(x.movedim(1, 3).flatten(3))

from __future__ import annotations

import math

import pytest
import torch

from ornstein import data
from ornstein.data.scenes import (
    HEADINGS,
    Scenes,
    Sequences,
    World,
    draw_scenes,
    draw_sequences,
    extents,
    heading,
    moving_captions,
    render,
    render_sequences,
    simulate_scenes,
)
from ornstein.data.scenes.shapes import half_sizes, reaches


def doubled(scenes: Scenes) -> Scenes:
    return Scenes(*(v.double() if v.is_floating_point() else v for v in scenes))


def equal(one: Sequences, other: Sequences) -> bool:
    flat = ([*s.scenes, *s[1:]] for s in (one, other))
    return all(torch.equal(a, b) for a, b in zip(*flat, strict=True))


def folded(place: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """A straight way mirrored at both borders."""
    width = high - low
    return low + width - ((place - low) % (2 * width) - width).abs()


def test_objects_go_straight_and_are_mirrored_by_the_borders():
    moving = draw_sequences(200, 40, 1, speed=0.3)
    moving = simulate_scenes(doubled(moving.scenes), moving.dx[:, 0].double(), moving.dy[:, 0].double(), 40)
    half = half_sizes()[moving.scenes.shape] * moving.scenes.radius[..., None]
    time = torch.arange(40)[:, None]
    for place, pace, start, room in (
        (moving.x, moving.dx, moving.scenes.x, half[..., 0]), (moving.y, moving.dy, moving.scenes.y, half[..., 1]),
    ):  # fmt: skip
        straight = start[:, None] + pace[:, :1] * time
        wanted = folded(straight, room[:, None], 1 - room[:, None])
        here = moving.scenes.present[:, None].expand_as(place)
        torch.testing.assert_close(place[here], wanted[here], atol=1e-9, rtol=0)
        torch.testing.assert_close(pace.abs()[here], pace[:, :1].abs().expand_as(pace)[here])


@pytest.mark.parametrize("bounce", [False, True])
def test_a_sequence_is_the_same_in_any_batch_and_goes_on(bounce):
    whole = draw_sequences(50, 6, 5, speed=0.1, bounce=bounce)
    order = torch.tensor([49, 3, 20])
    assert equal(draw_sequences(order, 6, 5, speed=0.1, bounce=bounce), whole.rows(order))
    longer = draw_sequences(50, 9, 5, speed=0.1, bounce=bounce)
    assert torch.equal(longer.x[:, :6], whole.x) and torch.equal(longer.dy[:, :6], whole.dy)
    assert torch.equal(whole.x[:, 0], draw_scenes(50, 5).x)


@pytest.mark.parametrize("bounce", [False, True])
def test_objects_stay_in_the_image(bounce):
    moving = draw_sequences(100, 12, 2, speed=0.2, bounce=bounce)
    for t in range(12):
        box = extents(moving.frame(t))[moving.scenes.present]
        assert float(box.min()) > -1e-6 and float(box.max()) < 1 + 1e-6


def two(places: list[tuple[float, float]]) -> Scenes:
    scenes = doubled(draw_scenes(1, 0, World(most=1, shapes=("circle",), textures=("plain",))))
    x, y = (
        torch.tensor([[*(p[axis] for p in places), *[0.5] * (4 - len(places))]]).double() for axis in (0, 1)
    )
    group = torch.tensor([[*range(len(places)), *[-1] * (4 - len(places))]])
    return scenes._replace(x=x, y=y, group=group, radius=torch.full((1, 4), 0.1).double())


def test_two_equal_circles_that_meet_head_on_exchange_their_velocities():
    still = torch.zeros(1, 4, dtype=torch.float64)
    dx = still.clone()
    dx[0, 0] = 0.1
    moving = simulate_scenes(two([(0.3, 0.5), (0.7, 0.5)]), dx, still, 5, bounce=True)
    # 0.2 are left between them: they meet after two frames
    torch.testing.assert_close(moving.x[0, :, 0], torch.tensor([0.3, 0.4, 0.5, 0.5, 0.5]).double())
    torch.testing.assert_close(moving.x[0, :, 1], torch.tensor([0.7, 0.7, 0.7, 0.8, 0.9]).double())
    passing = simulate_scenes(two([(0.3, 0.5), (0.7, 0.5)]), dx, still, 4)
    torch.testing.assert_close(passing.x[0, :, 0], torch.tensor([0.3, 0.4, 0.5, 0.6]).double())


def test_a_glancing_throw_keeps_momentum_energy_and_the_part_across():
    dx, dy = torch.zeros(2, 1, 4, dtype=torch.float64)
    dx[0, 0] = 0.2
    moving = simulate_scenes(two([(0.3, 0.45), (0.6, 0.55)]), dx, dy, 3, bounce=True)
    v = torch.stack([moving.dx, moving.dy], -1)[0, :, :2]
    assert not torch.allclose(v[-1], v[0])
    torch.testing.assert_close(v[-1].sum(0), v[0].sum(0))
    torch.testing.assert_close(v[-1].square().sum(), v[0].square().sum())
    sine = 0.1 / 0.2  # of the angle at which they meet: offset over the sum of radii
    torch.testing.assert_close(v[-1, 1].norm(), torch.tensor(0.2 * math.sqrt(1 - sine**2)).double())
    assert float((v[-1, 0] * v[-1, 1]).sum()) == pytest.approx(
        0, abs=1e-12
    )  # equal masses part at right angles


def test_throws_keep_energy_and_circles_apart():
    world = World(shapes=("circle", "ring"), sizes=("small",))
    moving = draw_sequences(80, 10, 3, world, speed=0.25, bounce=True)
    moving = simulate_scenes(
        doubled(moving.scenes), moving.dx[:, 0].double(), moving.dy[:, 0].double(), 10, True
    )
    energy = (moving.dx**2 + moving.dy**2).sum(2)
    torch.testing.assert_close(energy, energy[:, :1].expand_as(energy))
    radius = reaches()[moving.scenes.shape] * moving.scenes.radius
    i, j = torch.triu_indices(4, 4, 1)
    apart = torch.hypot(moving.x[..., i] - moving.x[..., j], moving.y[..., i] - moving.y[..., j])
    both = (moving.scenes.present[:, i] & moving.scenes.present[:, j])[:, None].expand_as(apart)
    assert float((apart - (radius[:, i] + radius[:, j])[:, None])[both].min()) > -1e-9
    free = simulate_scenes(moving.scenes, moving.dx[:, 0], moving.dy[:, 0], 10)
    assert float((free.x - moving.x).abs().amax((1, 2)).gt(1e-6).double().mean()) > 0.3  # many did meet


def test_velocities_are_as_drawn():
    moving = draw_sequences(3000, 1, 8, speed=0.08)
    pace = torch.hypot(moving.dx, moving.dy)[:, 0, 0]
    still = pace == 0
    assert float(still.float().mean()) == pytest.approx(0.15, abs=0.025)
    assert float(pace[~still].min()) >= 0.04 and float(pace.max()) <= 0.08 + 1e-6
    angle = torch.atan2(moving.dy, moving.dx)[:, 0, 0][~still] / (math.pi / 2)
    counts = torch.bincount(angle.round().long() % 4)
    assert float((angle - angle.round()).abs().max()) <= 1 / 6 + 1e-5
    assert float(counts.max() / counts.min()) < 1.2
    alike = moving.scenes.group[:, 0] == moving.scenes.group[:, 1]
    assert torch.equal(moving.dx[alike][:, 0, 0], moving.dx[alike][:, 0, 1])
    assert bool((moving.dx[:, 0][~moving.scenes.present] == 0).all())


def test_frames_are_renders_of_the_scenes_at_their_places():
    moving = draw_sequences(6, 4, 2)
    frames = render_sequences(moving, 16)
    assert frames.shape == (6, 4, 3, 16, 16)
    for t in range(4):
        there = moving.scenes._replace(x=moving.x[:, t], y=moving.y[:, t])
        assert torch.equal(frames[:, t], render(there, 16))
    assert not torch.equal(frames[:, 0], frames[:, 3])


def test_captions_say_where_objects_went():
    moving = draw_sequences(800, 8, 4)
    said = moving_captions(moving, 4)
    order = [7, 799, 0]
    assert moving_captions(moving.rows(torch.tensor(order)), 4, ids=order) == [said[i] for i in order]
    told = set()
    for i, caption in enumerate(said):
        spans = [s for s in caption.spans if s.what == "heading"]
        assert len(spans) == len(caption.kinds) == len(caption.headings)
        for span, kind, way in zip(spans, caption.kinds, caption.headings, strict=True):
            words = caption.text[span.start : span.stop].split()
            several = len(span.objects) > 1
            assert kind.number == len(span.objects)
            start = {"still": "stand"}.get(way or "", "move") + ("" if several else "s")
            assert words == [start, *([way] if way else [])], caption.text
            for k in span.objects:
                dx, dy = (float(v[i, -1, k] - v[i, 0, k]) for v in (moving.x, moving.y))
                true = {"left": dx < -2 * abs(dy), "right": dx > 2 * abs(dy), "up": dy < -2 * abs(dx),
                        "down": dy > 2 * abs(dx), "still": math.hypot(dx, dy) < 0.02}  # fmt: skip
                assert way is None or true[way], caption.text
            told.add(way)
    assert told == {*HEADINGS, None}
    ways = [way for caption in said for way in caption.headings]
    assert ways.count(None) < 0.4 * len(ways)


@pytest.mark.parametrize("bounce", [False, True])
def test_only_what_never_moves_is_said_to_stand_still(bounce):
    moving = draw_sequences(1500, 4, 4, World(most=2), bounce=bounce)
    away = torch.hypot(moving.x - moving.x[:, :1], moving.y - moving.y[:, :1]).amax(1)
    back = torch.hypot(moving.x[:, -1] - moving.x[:, 0], moving.y[:, -1] - moving.y[:, 0]) < 0.02
    returned = 0
    for i, caption in enumerate(moving_captions(moving, 4)):
        spans = [s for s in caption.spans if s.what == "heading"]
        for span, way in zip(spans, caption.headings, strict=True):
            moved = [bool(away[i, k] > 0) for k in span.objects]
            assert (way == "still") == (not any(moved)), caption.text
            if all(moved) and bool(back[i, list(span.objects)].all()):
                assert caption.text[span.start : span.stop] in ("moves", "move")
                returned += 1
    assert returned > 5


@pytest.mark.parametrize(
    ("move", "word"),
    [((-0.2, 0.05), "left"), ((0.2, -0.05), "right"), ((0.0, -0.3), "up"), ((0.01, 0.3), "down"),
     ((0.01, -0.01), "still"), ((0.2, 0.15), None), ((0.1, 0.1), None)],
)  # fmt: skip
def test_headings(move, word):
    assert heading(*move) == word


def test_the_set_holds_rendered_sequences_with_texts():
    loaded = data.load("moving-scenes", size=16, frames=3, count=20, seed=2, speed=0.1, bounce=True)
    assert loaded.shape == (3, 3, 16, 16) and (len(loaded.train), len(loaded.held_out)) == (20, 2)
    drawn = draw_sequences(20, 3, 2, World(most=2, combinations="seen"), 0.1, True)
    assert torch.equal(loaded.train.batch(torch.tensor([4, 19]))["x_0"], render_sequences(drawn, 16)[[4, 19]])
    assert loaded.train.texts == [caption.text for caption in moving_captions(drawn, 2)]
    strips = loaded.decode(loaded.train.x_0[:2])
    assert strips.shape == (2, 16, 48, 3)
    assert (strips[1, :, 16:32] == data.image.to_bytes(loaded.train.x_0[1, 1:2])[0]).all()


@pytest.mark.parametrize(
    ("options", "named"), [({"frames": 0}, "frames"), ({"speed": 0.9}, "speed"), ({"speed": -0.1}, "speed"),
                           ({"count": 0}, "count"), ({"most": 7}, "most")],
)  # fmt: skip
def test_what_cannot_be_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        data.load("moving-scenes", **{"count": 3, **options})

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ornstein.data.scenes import (
    BACKGROUND_RGB,
    BACKGROUNDS,
    COLOUR_RGB,
    COLOURS,
    SHAPES,
    Scenes,
    World,
    coverage,
    distances,
    draw_scenes,
    extents,
    render,
    same_scene,
)
from ornstein.data.scenes.shapes import CORNERS, DISTANCES, ROUND

AREAS = {
    "circle": math.pi, "square": 4 * 0.88**2, "triangle": 3 * math.sqrt(3) * 0.72**2, "diamond": 2 * 1.2**2,
    "cross": 8 * 0.36 - 4 * 0.36**2, "ring": math.pi * (0.98**2 - 0.42**2),
}  # fmt: skip
_WORDS = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS}


def scene(x: float = 0.5, y: float = 0.5, radius: float = 0.2, **attributes: str | int) -> Scenes:
    """One object, plain, flat, red on black unless it is said."""
    said = {"shape": 0, "colour": 0, "size": 1, "texture": 0, "background": 0, "style": 0}
    for name, value in attributes.items():
        said[name] = _WORDS[name].index(value) if isinstance(value, str) else value
    slots = {name: torch.tensor([[said[name], 0, 0, 0]]) for name in ("shape", "colour", "size", "texture")}
    number = {"x": x, "y": y, "radius": radius, "tint": 1.0}
    placed = {name: torch.full((1, 4), value) for name, value in number.items()}
    whole = {name: torch.tensor([said[name]]) for name in ("background", "style")}
    return Scenes(**slots, **placed, group=torch.tensor([[0, -1, -1, -1]]), **whole)


def doubled(scenes: Scenes) -> Scenes:
    return Scenes(*(v.double() if v.is_floating_point() else v for v in scenes))


def colour_of(table: dict[str, tuple[int, int, int]], name: str) -> Tensor:
    return torch.tensor(table[name]) / 127.5 - 1


def segments(shape: str) -> tuple[Tensor, Tensor]:
    """Ends of the outline's straight pieces, (P, 2) each, at radius 1."""
    if shape == "cross":
        a, b = 1.0, 0.36
        corners = torch.tensor([(b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b),
                                (-b, -b), (-b, -a)])  # fmt: skip
    else:
        corners = torch.tensor(CORNERS[shape], dtype=torch.float32)
        corners = corners[torch.atan2(corners[:, 1], corners[:, 0]).argsort()]
    return corners.double(), corners.roll(-1, 0).double()


def to_outline(points: Tensor, shape: str) -> Tensor:
    """Distances (P,) of points (P, 2) to the outline of a shape of radius 1, piece by piece."""
    if shape in ROUND:
        radii = {"circle": (1.0,), "ring": (0.42, 0.98)}[shape]
        return torch.stack([(points.norm(dim=1) - r).abs() for r in radii]).amin(0)
    start, stop = segments(shape)
    along = stop - start
    share = (((points[:, None] - start) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    return (points[:, None] - start - share[..., None] * along).norm(dim=-1).amin(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_inside_are_those_to_the_outline(shape):
    line = torch.linspace(-1.5, 1.5, 121, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    found = DISTANCES[shape](points[:, 0], points[:, 1], torch.tensor(1.0, dtype=torch.float64))
    true = to_outline(points, shape)
    assert bool((found.abs() <= true + 1e-7).all())  # never more than the true one
    exact = found < 0
    if shape == "cross":
        exact &= points.abs().amax(1) >= 0.36  # but where its bars meet
    torch.testing.assert_close(-found[exact], true[exact], atol=1e-6, rtol=0)
    inside = torch.where(found < 0, 1.0, 0.0).mean() * 9
    assert float(inside) == pytest.approx(AREAS[shape], rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_grow_by_one_for_each_step_away(shape):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(4000, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    points.requires_grad_()
    found = DISTANCES[shape](points[:, 0], points[:, 1], torch.tensor(1.0, dtype=torch.float64))
    (slope,) = torch.autograd.grad(found.sum(), points)
    torch.testing.assert_close(slope.norm(dim=1), torch.ones(4000, dtype=torch.float64))


def test_distances_of_scenes_are_the_formulas_at_the_pixels():
    scenes = draw_scenes(40, 2, World(overlap=True))
    found = distances(scenes, 20)
    centres = (torch.arange(20) + 0.5) / 20
    for i, k in ((0, 0), (7, 3), (39, 1)):
        dx, dy = centres - scenes.x[i, k], centres[:, None] - scenes.y[i, k]
        formula = DISTANCES[SHAPES[int(scenes.shape[i, k])]]
        wanted = formula(dx.expand(20, 20), dy.expand(20, 20), scenes.radius[i, k])
        torch.testing.assert_close(found[i, k], wanted)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_adds_up_to_the_area(shape, size):
    """To anti-aliasing's error, of second order in the pixel's size but at corners."""
    for x, y, radius in ((0.5, 0.5, 0.19), (0.47, 0.53, 0.2), (0.413, 0.58, 0.13)):
        area = float(coverage(scene(x, y, radius, shape=shape), size)[0, 0].sum()) / size**2
        outer = radius if shape != "ring" else 0.56 * radius  # a ring is thin
        assert area == pytest.approx(AREAS[shape] * radius**2, rel=0.5 / (size * outer) ** 1.5 + 0.005)


def test_sizes_show_the_same_picture():
    scenes = draw_scenes(60, 5, World(textures=("plain",), styles=("flat", "shaded")))
    for small, large, mean in ((16, 32, 0.007), (32, 64, 0.0025)):
        halved = torch.nn.functional.avg_pool2d(render(scenes, large), large // small)
        gap = (halved - render(scenes, small)).abs()
        assert float(gap.mean()) < mean and float(gap.amax(1).flatten(1).quantile(0.99, 1).max()) < 0.5
    patterned = draw_scenes(60, 5, World(textures=("striped", "dotted"), styles=("outlined",)))
    halved = torch.nn.functional.avg_pool2d(render(patterned, 64), 2)
    assert float((halved - render(patterned, 32)).abs().mean()) < 0.012


def test_empty_slots_cover_nothing():
    scenes = draw_scenes(50, 1)
    cover = coverage(scenes)
    assert torch.equal(cover.amax((2, 3)) > 0, scenes.present)
    moved = same_scene(scenes, colour=0)._replace(x=torch.where(scenes.present, scenes.x, 0.3))
    kept = scenes._replace(colour=torch.where(scenes.present, scenes.colour, 0))
    assert torch.equal(render(moved._replace(colour=kept.colour)), render(kept))


def test_a_picture_is_the_same_in_any_batch():
    scenes = draw_scenes(300, 7)  # more than are rendered at a time
    whole = render(scenes, 16)
    order = torch.tensor([299, 3, 255, 256, 3])
    assert torch.equal(render(scenes.rows(order), 16), whole[order])
    assert render(scenes.rows(slice(0, 0)), 16).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="at least 8"):
        render(scenes, 7)


def test_later_objects_are_in_front():
    two = scene(0.5, 0.5, 0.2, shape="square", colour="red")
    front = COLOURS.index("blue")
    two = two._replace(
        group=torch.tensor([[0, 1, -1, -1]]), colour=torch.tensor([[0, front, 0, 0]]),
        x=torch.tensor([[0.45, 0.6, 0.5, 0.5]]), radius=torch.tensor([[0.2, 0.15, 0.2, 0.2]]),
    )  # fmt: skip
    image = render(two, 32)[0]
    both = (coverage(two, 32)[0, :2] == 1).all(0)
    assert int(both.sum()) > 10
    torch.testing.assert_close(
        image[:, both], colour_of(COLOUR_RGB, "blue")[:, None].expand(-1, int(both.sum()))
    )
    torch.testing.assert_close(image[:, 16, 10], colour_of(COLOUR_RGB, "red"))


def test_a_step_of_whole_pixels_moves_the_picture():
    world = World(most=2, sizes=("small",))
    scenes = doubled(draw_scenes(40, 9, world))
    scenes = scenes._replace(x=0.3 + 0.4 * scenes.x, y=0.3 + 0.4 * scenes.y)
    moved = scenes._replace(x=scenes.x + 3 / 32, y=scenes.y - 2 / 32)
    one, other = render(scenes, 32), render(moved, 32)
    torch.testing.assert_close(other[:, :, 2:-4, 5:-2], one[:, :, 4:-2, 2:-5], atol=1e-6, rtol=0)


def test_extents_are_the_box_of_what_is_covered():
    """To a pixel, and half of one more at the tip of a triangle."""
    scenes = draw_scenes(200, 3)
    size = 64
    seen = coverage(scenes, size) > 0
    box = extents(scenes) * size
    for axis, (low, high) in ((2, (0, 2)), (3, (1, 3))):
        line = seen.any(axis).float()  # over rows: columns, and the other way round
        first = line.argmax(-1)
        last = size - 1 - line.flip(-1).argmax(-1)
        gap = torch.stack([first - box[..., low], last + 1 - box[..., high]])[:, scenes.present]
        assert float(gap.abs().mean()) < 0.6
        assert float(gap.abs().max()) <= 1.5


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_plain_flat_objects_have_their_colour(colour, background):
    image = render(scene(radius=0.2, colour=colour, background=background), 32)[0]
    torch.testing.assert_close(image[:, 16, 16], colour_of(COLOUR_RGB, colour))
    torch.testing.assert_close(image[:, 0, 0], colour_of(BACKGROUND_RGB, background))
    tinted = scene(radius=0.2, colour=colour)._replace(tint=torch.full((1, 4), 0.95))
    torch.testing.assert_close((render(tinted, 32)[0, :, 16, 16] + 1) / 2, 0.95 * (image[:, 16, 16] + 1) / 2)


@pytest.mark.parametrize(
    ("background", "ink"), [("black", 1.0), ("brown", 1.0), ("grey", -1.0), ("white", -1.0)]
)
def test_outlines_are_ink_just_inside_of_the_outline(background, ink):
    image = render(scene(radius=0.25, style=1, background=background), 64)[0]
    distance = distances(scene(radius=0.25), 64)[0, 0] / 0.25
    inked, inside = (distance < -0.07) & (distance > -0.15), distance < -0.29
    assert bool((image[:, inked] == ink).all()) and int(inked.sum()) > 50
    torch.testing.assert_close(
        image[:, inside], colour_of(COLOUR_RGB, "red")[:, None].expand(-1, int(inside.sum()))
    )


def test_shading_darkens_from_the_upper_left():
    shaded, flat = ((render(scene(radius=0.25, style=style), 64)[0] + 1) / 2 for style in (2, 0))
    inside = distances(scene(radius=0.25), 64)[0, 0] < -0.01
    pixels = (torch.arange(64) + 0.5) / 64 - 0.5
    slope = ((pixels + pixels[:, None]) / (2.4 * 0.25)).clamp(-0.5, 0.5)
    wanted = (flat * (0.8 - 0.65 * slope)).clamp(max=1)
    torch.testing.assert_close(shaded[:, inside], wanted[:, inside])
    assert float(shaded[0, 24, 24]) > float(flat[0, 24, 24]) > float(shaded[0, 40, 40])


def test_stripes_lie_across_with_their_period():
    striped, plain = ((render(scene(radius=0.25, texture=t), 64)[0] + 1) / 2 for t in (1, 0))
    share = (striped / plain)[0, :, 32]  # down through the middle
    inside = distances(scene(radius=0.25), 64)[0, 0, :, 32] < -0.02
    dy = (torch.arange(64) + 0.5) / 64 - 0.5
    wave = torch.cos(2 * math.pi * dy / (0.8 * 0.25))
    light, dark = inside & (wave > 0.3), inside & (wave < -0.3)
    torch.testing.assert_close(share[light], torch.ones(int(light.sum())))
    torch.testing.assert_close(share[dark], torch.full((int(dark.sum()),), 1 - 0.62))
    along = striped[:, 32, 20:44]
    torch.testing.assert_close(along, along[:, :1].expand(-1, 24))


def test_dots_are_light_and_on_a_lattice_about_the_centre():
    dotted, plain = ((render(scene(radius=0.25, texture=t), 64)[0] + 1) / 2 for t in (2, 0))
    inside = distances(scene(radius=0.25), 64)[0, 0] < -0.02
    pixels = (torch.arange(64) + 0.5) / 64 - 0.5
    near = [(pixels - k * 0.72 * 0.25)[None].abs() for k in (-1, 0, 1)]
    offset = torch.stack(near).amin(0)
    gap = torch.hypot(offset, offset.T) - 0.23 * 0.25
    dot, between = inside & (gap < -0.5 / 64), inside & (gap > 0.5 / 64)
    torch.testing.assert_close(dotted[:, dot], plain[:, dot] + 0.75 * (1 - plain[:, dot]))
    torch.testing.assert_close(dotted[:, between], plain[:, between])
    assert int(dot.sum()) > 20


def test_an_empty_slot_hides_none_behind_it() -> None:
    scenes = draw_scenes(8, 0, World(most=2, groups=2))
    two = scenes.rows(scenes.counts == 2)
    second = two._replace(group=torch.cat([torch.full_like(two.group[:, :1], -1), two.group[:, 1:]], 1))
    first = Scenes(*(v[:, 1:].clone() if v.ndim == 2 else v for v in two))
    moved = Scenes(*(torch.cat([v, v[:, :1]], 1) if v.ndim == 2 else v for v in first))
    moved = moved._replace(group=torch.where(torch.arange(4) == 0, 0, -1).expand_as(moved.group))
    assert torch.equal(render(second), render(moved))

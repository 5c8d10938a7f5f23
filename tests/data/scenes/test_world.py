from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare

from ornstein.data.scenes import (
    COLOURS,
    MOST,
    SHAPES,
    UNSEEN,
    Scenes,
    World,
    draw_scenes,
    extents,
    same_scene,
)
from ornstein.data.scenes.shapes import CORNERS, ROUND, half_sizes, reaches, supports

ORDINARY = 1e-3  # a chi-square test of a fixed seed fails below this


def equal(one: Scenes, other: Scenes) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def one_a_group(scenes: Scenes, values: torch.Tensor) -> torch.Tensor:
    """Of each group one value, groups of all scenes in a row."""
    earlier = torch.tril(torch.ones(MOST, MOST, dtype=torch.bool), -1)
    repeated = ((scenes.group[:, :, None] == scenes.group[:, None]) & earlier).any(2)
    return values[scenes.present & ~repeated]


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return draw_scenes(4000, 11)


@pytest.mark.parametrize("world", [World(), World(overlap=True), World(combinations="seen", bias=0.5)])
def test_scene_i_of_a_seed_is_bit_equal_alone_in_any_batch_and_order(world):
    whole = draw_scenes(60, 3, world)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert equal(draw_scenes(order, 3, world), whole.rows(order))
    for i in (0, 7, 59):
        assert equal(draw_scenes(torch.tensor([i]), 3, world), whole.rows(slice(i, i + 1)))
    assert equal(Scenes.join([whole.rows(slice(0, 9)), whole.rows(slice(9, None))]), whole)
    assert not torch.equal(draw_scenes(60, 4, world).x, whole.x)


def test_objects_lie_in_the_image(drawn):
    for scenes in (drawn, draw_scenes(1000, 0, World(overlap=True)), draw_scenes(1000, 0, World(most=1))):
        box = extents(scenes)[scenes.present]
        assert float(box.min()) >= 0 and float(box.max()) <= 1


def outline(shape: str, per_side: int = 12) -> torch.Tensor:
    """Points (P, 2) on the hull of a shape of radius 1, no two neighbours further than 0.22 apart."""
    if shape in ROUND:
        angle = torch.arange(48) * (2 * math.pi / 48)
        return ROUND[shape] * torch.stack([angle.cos(), angle.sin()], 1)
    corners = torch.tensor(CORNERS[shape], dtype=torch.float32)
    corners = corners[torch.atan2(corners[:, 1], corners[:, 0]).argsort()]
    share = torch.arange(per_side)[:, None, None] / per_side
    return (corners + share * (corners.roll(-1, 0) - corners)).flatten(0, 1)


def test_objects_keep_their_distance_unless_they_may_overlap(drawn):
    points = [outline(name) for name in SHAPES]
    for i in (drawn.counts > 1).nonzero().flatten()[:400].tolist():
        hulls = []
        for k in range(int(drawn.counts[i])):
            centre = torch.stack([drawn.x[i, k], drawn.y[i, k]])
            hulls.append(centre + drawn.radius[i, k] * points[int(drawn.shape[i, k])])
        for one, other in combinations(hulls, 2):
            assert float(torch.cdist(one, other).min()) > 0.03 - 1e-6
    near = draw_scenes(500, 0, World(overlap=True, most=2, groups=1))
    near = near.rows(near.counts == 2)
    apart = torch.hypot(near.x[:, 0] - near.x[:, 1], near.y[:, 0] - near.y[:, 1])
    assert float((apart < 0.1).float().mean()) > 0.03  # they do overlap there


def test_scenes_that_are_too_full_are_set_out_in_quarters():
    full = draw_scenes(600, 5, World(sizes=("large",), shapes=("triangle", "diamond")))
    full = full.rows(full.counts == 4)
    quarters = (full.x[:, 0] == 0.25) & (full.y[:, 3] == 0.75)
    assert float(quarters.float().mean()) > 0.9
    assert float(full.radius.min()) >= 0.18 and float(full.radius.max()) <= 0.205  # still large
    widest = full.radius[quarters] * half_sizes().float()[full.shape[quarters]].amax(-1)
    assert float(widest.max()) <= 0.25 - 0.015 + 1e-6


def test_the_number_of_objects_is_uniform(drawn):
    assert chisquare(torch.bincount(drawn.counts)[1:]).pvalue > ORDINARY
    few = draw_scenes(3000, 1, World(most=3))
    assert chisquare(torch.bincount(few.counts)[1:]).pvalue > ORDINARY


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_splits_into_kinds_are_uniform_among_all_ways(groups):
    scenes = draw_scenes(3000, 2, World(groups=groups))
    four = scenes.group[scenes.counts == 4]
    assert int(four.max()) + 1 == groups
    _, counts = four.unique(dim=0, return_counts=True)
    assert len(counts) == sum(math.comb(3, parts - 1) for parts in range(1, groups + 1))
    assert len(counts) == 1 or chisquare(counts).pvalue > ORDINARY
    assert bool((four.diff() >= 0).all()) and bool((four.diff() <= 1).all()) and bool((four[:, 0] == 0).all())


def test_attributes_are_uniform_and_objects_of_a_kind_alike(drawn):
    for name, count in (("shape", 6), ("colour", 8), ("size", 2), ("texture", 3)):
        values = getattr(drawn, name)
        counts = torch.bincount(one_a_group(drawn, values), minlength=count)
        assert chisquare(counts).pvalue > ORDINARY, name
        alike = (values[:, :, None] == values[:, None]) | (drawn.group[:, :, None] != drawn.group[:, None])
        assert bool((alike | ~drawn.present[:, :, None]).all()), name
    for name, count in (("background", 4), ("style", 3)):
        assert chisquare(torch.bincount(getattr(drawn, name), minlength=count)).pvalue > ORDINARY, name
    low, high = torch.tensor([0.12, 0.18])[drawn.size], torch.tensor([0.14, 0.205])[drawn.size]
    inside = (drawn.radius >= low - 1e-6) & (drawn.radius <= high + 1e-6)
    assert bool((inside | ~drawn.present).all())
    assert 0.94 <= float(drawn.tint.min()) < 0.941 and 1.059 < float(drawn.tint.max()) <= 1.06


def test_the_only_object_lies_anywhere():
    alone = draw_scenes(3000, 8, World(most=1, shapes=("circle",), sizes=("small",)))
    for centre in (alone.x[:, 0], alone.y[:, 0]):
        share = (centre - alone.radius[:, 0] - 0.015) / (1 - 2 * alone.radius[:, 0] - 0.03)
        assert chisquare(torch.histc(share, 10, 0, 1)).pvalue > ORDINARY
    assert abs(float(torch.corrcoef(torch.stack([alone.x[:, 0], alone.y[:, 0]]))[0, 1])) < 0.06


@pytest.mark.parametrize("bias", [0.0, 0.3, 0.9, 1.0])
def test_a_bias_gives_the_tied_colour_at_its_rate(bias):
    scenes = draw_scenes(4000, 21, World(bias=bias))
    tied = one_a_group(scenes, scenes.colour == scenes.shape).double()
    expected = bias + (1 - bias) / len(COLOURS)
    assert abs(float(tied.mean()) - expected) <= 4 * math.sqrt(expected * (1 - expected) / len(tied))


def test_other_draws_do_not_depend_on_the_bias():
    plain, biased = (draw_scenes(300, 4, World(bias=bias)) for bias in (0.0, 0.7))
    assert equal(plain._replace(colour=biased.colour), biased) and not torch.equal(
        plain.colour, biased.colour
    )


def pairs_of(scenes: Scenes) -> set[tuple[str, str]]:
    found = torch.stack([scenes.colour, scenes.shape], -1)[scenes.present].unique(dim=0).tolist()
    return {(COLOURS[c], SHAPES[s]) for c, s in found}


def test_combinations_are_held_out():
    every = {(c, s) for c in COLOURS for s in SHAPES}
    assert pairs_of(draw_scenes(2000, 0)) == every
    assert pairs_of(draw_scenes(2000, 0, World(combinations="seen"))) == every - set(UNSEEN)
    assert pairs_of(draw_scenes(500, 0, World(combinations="unseen"))) == set(UNSEEN)
    tied = {(COLOURS[i], SHAPES[i]) for i in range(len(SHAPES))}
    assert not tied & set(UNSEEN)
    assert pairs_of(draw_scenes(500, 0, World(combinations="seen", bias=1.0))) == tied


def test_kinds_of_a_scene_differ_in_colour_or_shape(drawn):
    pair = drawn.colour * len(SHAPES) + drawn.shape
    same = (pair[:, :, None] == pair[:, None]) & (drawn.group[:, :, None] != drawn.group[:, None])
    both = drawn.present[:, :, None] & drawn.present[:, None]
    assert not bool((same & both).any())
    two = draw_scenes(300, 0, World(shapes=("ring",), colours=("red", "pink"), groups=2))
    two = two.rows(two.group.amax(1) == 1)
    assert bool((two.colour[:, 0] != two.colour.gather(1, two.group.argmax(1)[:, None])[:, 0]).all())


def test_a_world_has_what_it_is_asked_for():
    world = World(most=2, groups=1, shapes=("ring", "cross"), colours=("pink",), sizes=("small",),
                  textures=("dotted",), styles=("shaded",), backgrounds=("white",))  # fmt: skip
    scenes = draw_scenes(200, 0, world)
    assert pairs_of(scenes) == {("pink", "ring"), ("pink", "cross")}
    assert int(scenes.counts.max()) == 2 and int(scenes.group.max()) == 0
    assert (
        int(scenes.size.max()) == 0 and bool((scenes.texture == 2).all()) and bool((scenes.style == 2).all())
    )
    assert bool((scenes.background == 2).all())
    assert World.options() == ("most", "groups", "shapes", "colours", "sizes", "textures", "styles", "backgrounds",
                               "combinations", "bias", "overlap")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"most": 5}, "most"), ({"most": 2.0}, "most"), ({"groups": 0}, "groups"),
        ({"shapes": ("blob",)}, "shapes"), ({"colours": ()}, "colours"), ({"backgrounds": ("blak",)}, "black"),
        ({"combinations": "some"}, "combinations"), ({"bias": 1.5}, "bias"),
        ({"shapes": ("circle",), "colours": ("red",), "combinations": "unseen"}, "leaves no pair"),
        ({"bias": 0.5, "combinations": "unseen"}, "tied"),
    ],
)  # fmt: skip
def test_a_world_that_cannot_be_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        World(**options)


def test_an_edit_changes_what_it_names_and_nothing_else(drawn):
    edited = same_scene(drawn, background=2, shape=torch.full_like(drawn.shape, 4))
    assert equal(edited._replace(background=drawn.background, shape=drawn.shape), drawn)
    assert bool((edited.background == 2).all()) and bool((edited.shape == 4).all())
    with pytest.raises(ValueError, match="colour"):
        same_scene(drawn, color=1)


def test_shapes_reach_as_far_as_their_outlines():
    angles = torch.linspace(0, 2 * math.pi, 97)
    directions = torch.stack([angles.cos(), angles.sin()])
    for name, reach, half, support in zip(SHAPES, reaches(), half_sizes(), supports(angles), strict=True):
        points = outline(name, 60)
        torch.testing.assert_close(points.norm(dim=1).max(), reach.float())
        torch.testing.assert_close(points.abs().amax(0), half.float(), atol=1e-6, rtol=0)
        torch.testing.assert_close((points @ directions).amax(0), support, atol=3e-3, rtol=0)

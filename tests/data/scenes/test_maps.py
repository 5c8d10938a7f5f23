from __future__ import annotations

import pytest
import torch

from ornstein.data.scenes import (
    COLOURS,
    CONTROLS,
    MOST,
    SHAPES,
    Scenes,
    World,
    boxes,
    control_map,
    coverage,
    depth,
    distances,
    draw_scenes,
    edges,
    extents,
    instances,
    layout,
    normals,
)

OVERLAPPING = World(overlap=True)


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return draw_scenes(150, 6, OVERLAPPING)


def test_the_nearest_object_that_covers_half_a_pixel_shows(drawn):
    shown, cover = instances(drawn, 32), coverage(drawn, 32)
    for k in range(MOST):
        wanted = (cover[:, k] >= 0.5) & ~(cover[:, k + 1 :] >= 0.5).any(1)
        assert torch.equal(shown == k, wanted)
    assert torch.equal(shown == -1, (cover < 0.5).all(1))
    assert not bool(
        ((shown >= 0) & ~drawn.present.gather(1, shown.clamp(min=0).flatten(1)).view_as(shown)).any()
    )


def test_masks_have_the_area_that_is_covered():
    apart = draw_scenes(150, 6)
    shown, cover = instances(apart, 64), coverage(apart, 64)
    pixels = torch.stack([(shown == k).sum((1, 2)) for k in range(MOST)], 1)
    gap = (pixels - cover.sum((2, 3)))[apart.present]
    assert float(gap.abs().max()) < 60  # half a pixel all along a cross
    assert abs(float(gap.sum())) < 0.01 * float(cover.sum())


def test_boxes_are_the_extents_of_objects_that_there_are(drawn):
    found = boxes(drawn)
    assert torch.equal(found[drawn.present], extents(drawn)[drawn.present])
    assert bool((found[~drawn.present] == 0).all())


def test_depth_follows_its_formula_and_grows_with_the_slot(drawn):
    found, shown, distance = depth(drawn, 32)[:, 0], instances(drawn, 32), distances(drawn, 32)
    assert bool((found[shown == -1] == 0).all())
    for k in range(MOST):
        here = shown == k
        u = (-distance[:, k][here] / 0.08).clamp(0, 1)
        torch.testing.assert_close(found[here], (k + 1 - 0.5 + 0.5 * u * (2 - u)) / MOST)
        if bool(here.any()):
            assert (k + 0.5) / MOST <= float(found[here].min()) and float(found[here].max()) <= (k + 1) / MOST


def test_normals_are_those_of_the_depth_where_it_is_smooth():
    scenes = draw_scenes(60, 9, World(overlap=True))
    double = Scenes(*(v.double() if v.is_floating_point() else v for v in scenes))
    found, shown = normals(double, 32), instances(double, 32)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(60, 32, 32, dtype=torch.float64))
    assert bool((found[:, 2] > 0).all())
    away = found.movedim(1, -1)[shown == -1]
    torch.testing.assert_close(away, torch.tensor([0.0, 0.0, 1.0]).double().expand_as(away))
    x, y = double.x.clone().requires_grad_(), double.y.clone().requires_grad_()
    moving = double._replace(x=x, y=y)
    right, places = 0, torch.nonzero(shown >= 0)[::211].tolist()
    for i, row, column in places:
        k = int(shown[i, row, column])
        height = depth(moving.rows(slice(i, i + 1)), 32)[0, 0, row, column]
        slope = [-g[i, k] for g in torch.autograd.grad(height, (x, y))]  # pixels move against the object
        wanted = torch.tensor([-slope[0], -slope[1], 1.0]).double()
        wanted = wanted / wanted.norm()
        right += bool(torch.allclose(found[i, :, row, column], wanted, atol=1e-5))
    assert right >= 0.97 * len(places) and len(places) > 20  # the rest lie within 1e-4 of a crease


def test_normals_lean_outwards_on_a_bevel():
    scenes = draw_scenes(40, 1, World(most=1, shapes=("circle",), sizes=("large",)))
    found, distance = normals(scenes, 64), distances(scenes, 64)[:, 0]
    pixels = (torch.arange(64) + 0.5) / 64
    dx, dy = pixels - scenes.x[:, :1], pixels - scenes.y[:, :1]
    outwards = found[:, 0] * dx[:, None, :] + found[:, 1] * dy[:, :, None]
    bevel, top = (distance < 0) & (distance > -0.075), (distance < -0.081)
    assert bool((outwards[bevel] > 0).all())
    torch.testing.assert_close(found[:, 2][top], torch.ones(int(top.sum())))


def test_edges_are_where_something_else_begins(drawn):
    found, shown = edges(drawn, 16)[:, 0], instances(drawn, 16)
    for i, row, column in ((0, 3, 4), (5, 8, 8), (149, 15, 15)):
        here = shown[i, row, column]
        beside = [shown[i, row, column + 1]] if column < 15 else []
        below = [shown[i, row + 1, column]] if row < 15 else []
        assert bool(found[i, row, column]) == any(bool(v != here) for v in beside + below)
    padded = torch.nn.functional.pad(shown[:, None].float(), (0, 1, 0, 1), mode="replicate")[:, 0].long()
    wanted = (padded[:, :-1, 1:] != shown) | (padded[:, 1:, :-1] != shown)
    assert torch.equal(found > 0, wanted) and bool(wanted.any())


def test_layout_names_the_nearest_box_at_each_pixel(drawn):
    found, box = layout(drawn, 24), boxes(drawn)
    assert found.shape == (150, len(SHAPES) + len(COLOURS), 24, 24)
    centre = (torch.arange(24) + 0.5) / 24
    wanted = torch.zeros_like(found)
    for i in range(150):
        for k in range(int(drawn.counts[i])):
            left, top, right, bottom = box[i, k]
            rows, columns = (centre >= top) & (centre <= bottom), (centre >= left) & (centre <= right)
            inside = rows[:, None] & columns
            wanted[i, :, inside] = 0
            wanted[i, int(drawn.shape[i, k]), inside] = 1
            wanted[i, len(SHAPES) + int(drawn.colour[i, k]), inside] = 1
    assert torch.equal(found, wanted)


def test_maps_are_the_same_in_any_batch_and_found_by_name(drawn):
    order = torch.tensor([149, 3, 3])
    for name in CONTROLS:
        whole = control_map(drawn, name, 16)
        assert torch.equal(control_map(drawn.rows(order), name, 16), whole[order]), name
        assert whole.ndim == 4 and whole.is_floating_point()
    assert torch.equal(control_map(drawn, "regions", 16).argmax(1) - 1, instances(drawn, 16))
    with pytest.raises(ValueError, match="depth"):
        control_map(drawn, "depht")

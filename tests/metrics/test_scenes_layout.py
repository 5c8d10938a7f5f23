"""Boxes in closed form."""

from __future__ import annotations

import pytest
import torch

from ornstein.data.scenes.parse import Parsed
from ornstein.data.scenes.world import Scenes, World, draw_scenes
from ornstein.metrics.scenes_layout import box_iou, layout_iou, permuted_layout, position_recall

SQUARES = World(shapes=("square",), most=2, groups=1)


def moved(scenes: Scenes, across: float) -> Scenes:
    return scenes._replace(x=scenes.x + across)


def test_boxes_in_closed_form() -> None:
    unit = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    for shift in (0.0, 0.25, 0.5, 1.0, 2.0):
        other = unit + torch.tensor([shift, 0, shift, 0])
        overlap = max(0.0, 1 - shift)
        assert box_iou(unit[None], other[None]).item() == pytest.approx(overlap / (2 - overlap))
    assert box_iou(unit[None], 0.5 * unit[None]).item() == 0.25
    assert box_iou(unit[None], torch.zeros(1, 4)).item() == 0
    boxes = torch.rand(5, 3, 4, dtype=torch.float64).sort(-1).values[..., [0, 1, 2, 3]]
    torch.testing.assert_close(box_iou(boxes, boxes).diagonal(dim1=1, dim2=2), torch.ones(5, 3).double())


def test_a_shifted_layout() -> None:
    """A box of side a moved by d has IoU (a - d) / (a + d) with itself, if no other one is nearer."""
    scenes = draw_scenes(40, 1, World(shapes=("square",), most=1))
    side = 2 * 0.88 * scenes.radius[:, 0].double()
    for shift in (0.0, 0.05, 0.1):
        found = layout_iou(scenes, moved(scenes, shift))
        torch.testing.assert_close(found, (side - shift) / (side + shift), rtol=0, atol=1e-5)
    assert (layout_iou(scenes, moved(scenes, 1.0)) == 0).all()


def test_matching_is_by_the_sum() -> None:
    """Two like objects: each keeps its own box although both are nearer to one of them."""
    row = draw_scenes(200, 2, SQUARES)
    row = row.rows((row.counts == 2).nonzero()[:1, 0])
    both = row._replace(
        x=torch.tensor([[0.3, 0.5, 0, 0]]), y=torch.full((1, 4), 0.5), radius=torch.full((1, 4), 0.2)
    )
    later = moved(both, 0.1)
    side = 2 * 0.88 * 0.2
    assert layout_iou(both, later).item() == pytest.approx((side - 0.1) / (side + 0.1), abs=1e-6)


def test_labels_and_what_is_missing() -> None:
    scenes = draw_scenes(60, 3, World(most=2, groups=1))
    other = scenes._replace(colour=(scenes.colour + 1) % 8)
    assert (layout_iou(scenes, other) == 0).all() and (
        layout_iou(scenes, other, labelled=False) > 0.999
    ).all()
    assert (position_recall(scenes, other) == 0).all()
    assert (position_recall(scenes, other, labelled=False) == 1).all()
    gone = scenes._replace(group=torch.where(torch.arange(4) == 0, scenes.group, -1))
    torch.testing.assert_close(position_recall(scenes, gone), 1 / scenes.counts.double())
    unreadable = Parsed(scenes, scenes.present.float(), torch.zeros(60) > 0)
    assert (layout_iou(scenes, unreadable) == 0).all()
    empty = scenes._replace(group=torch.full_like(scenes.group, -1))
    assert layout_iou(empty, scenes).isnan().all()


def test_positions_within_a_radius() -> None:
    scenes = draw_scenes(50, 4, World(most=1))
    middle = scenes._replace(x=torch.full_like(scenes.x, 0.5))
    assert (position_recall(middle, moved(middle, 0.0625), radius=0.0625) == 1).all()  # within is at most
    assert (position_recall(middle, moved(middle, 0.0626), radius=0.0625) == 0).all()
    for shift, want in ((0.05, 1), (0.079, 1), (0.081, 0)):
        assert (position_recall(scenes, moved(scenes, shift)) == want).all()
    assert (position_recall(scenes, moved(scenes, 0.15), radius=0.2) == 1).all()


def test_order_does_not_matter_and_chance_is_low() -> None:
    scenes = draw_scenes(80, 5)
    flipped = Scenes(*(v.flip(1) if v.ndim == 2 else v for v in scenes))
    torch.testing.assert_close(layout_iou(scenes, flipped), torch.ones(80).double())
    null = permuted_layout(layout_iou, scenes, scenes, rounds=2)
    assert float(null.mean()) < 0.05
    repeated = Scenes.join([scenes.rows(slice(0, 5))] * 4)  # several pictures of each of five layouts
    flipped = Scenes(*(v.flip(1) if v.ndim == 2 else v for v in repeated))
    layouts = Scenes.join([repeated, flipped])
    assert float(permuted_layout(layout_iou, layouts, layouts, rounds=8).max()) < 0.5
    with pytest.raises(ValueError, match="2 samples, 1 different"):
        permuted_layout(layout_iou, layouts.rows(torch.tensor([0, 20])), layouts.rows(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="two samples or more"):
        permuted_layout(layout_iou, scenes.rows(slice(0, 1)), scenes.rows(slice(0, 1)))
    with pytest.raises(ValueError, match="80 images and 3 layouts"):
        layout_iou(scenes.rows(slice(0, 3)), scenes)

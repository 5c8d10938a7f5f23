"""Errors that are put in are counted."""

from __future__ import annotations

import pytest
import torch

from ornstein.data.scenes import ATTRIBUTES, Parsed, Scenes, World, draw_scenes
from ornstein.metrics.scenes_reading import reading_error


def read_as(scenes: Scenes, readable: bool = True) -> Parsed:
    return Parsed(scenes, scenes.present.float(), torch.full((len(scenes.x),), readable))


def test_without_error() -> None:
    truth = draw_scenes(50, 1)
    flipped = Scenes(*(v.flip(1) if v.ndim == 2 else v for v in truth))  # slots in another order
    for found in (truth, flipped):
        error = reading_error(truth, read_as(found))
        assert (
            error.exact.all()
            and error.missed == error.extra == 0
            and error.objects == int(truth.counts.sum())
        )
        assert (error.offset == 0).all() and error.exact_rate.value == 1 and error.unreadable_rate.value == 0
        for name in ATTRIBUTES:
            table = error.confusion[name]
            whole = name in ("style", "background")
            assert table.sum() == table.diagonal().sum() == (50 if whole else error.objects)


def test_a_wrong_attribute_is_in_its_place_of_the_table() -> None:
    truth = draw_scenes(50, 1)
    colour = torch.where(truth.colour == 2, 5, truth.colour)
    error = reading_error(truth, read_as(truth._replace(colour=colour)))
    blue = int(((truth.colour == 2) & truth.present).sum())
    assert error.confusion["colour"][2, 5] == blue > 0 and error.confusion["colour"][2].sum() == blue
    assert error.accuracy("colour").value == pytest.approx(1 - blue / error.objects)
    assert torch.equal(error.exact, ~((truth.colour == 2) & truth.present).any(1))


def test_missed_extra_moved_and_refused() -> None:
    truth = draw_scenes(50, 1)
    fewer = truth._replace(group=torch.where(torch.arange(4) == 0, -1, truth.group))
    assert (reading_error(truth, read_as(fewer)).missed, reading_error(truth, read_as(fewer)).extra) == (
        50,
        0,
    )
    assert (reading_error(fewer, read_as(truth)).missed, reading_error(fewer, read_as(truth)).extra) == (
        0,
        50,
    )
    assert not reading_error(truth, read_as(fewer)).exact.any()
    near = reading_error(truth, read_as(truth._replace(x=truth.x + 0.03)))
    assert near.exact.all() and near.offset.allclose(torch.tensor(0.03), atol=1e-6)
    half = truth._replace(x=torch.full_like(truth.x, 0.5)).rows(truth.counts == 1)
    for shift, missed in ((0.0625, 0), (0.0626, len(half.x))):  # near is at most so far
        error = reading_error(half, read_as(half._replace(x=half.x + shift)), near=0.0625)
        assert error.missed == error.extra == missed
    far = reading_error(truth, read_as(truth._replace(x=truth.x + 3)))
    assert far.missed == far.extra == far.objects and len(far.offset) == 0
    refused = reading_error(truth, read_as(truth, readable=False))
    assert not refused.exact.any() and refused.unreadable_rate.value == 1
    with pytest.raises(ValueError, match="one image a scene"):
        reading_error(truth, read_as(truth.rows(slice(0, 3))))


def test_a_far_object_takes_no_near_ones_partner() -> None:
    scenes = draw_scenes(200, 4, World(most=2, groups=1))
    truth = scenes.rows(scenes.counts == 2).rows(slice(0, 1))
    truth = truth._replace(x=torch.tensor([[0.2, 0.4, 0.0, 0.0]]), y=torch.full((1, 4), 0.5))
    found = truth._replace(x=torch.tensor([[0.26, 0.1, 0.0, 0.0]]))
    error = reading_error(truth, read_as(found))
    assert (error.missed, error.extra) == (1, 1)

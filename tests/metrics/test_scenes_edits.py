"""Edits whose right answer is a render, and edits that go wrong in known ways."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.data.scenes.render import coverage, render
from ornstein.data.scenes.world import BACKGROUNDS, Scenes, World, draw_scenes, same_scene
from ornstein.metrics.scenes_edits import edit_score, edited_mask, hypervolume, permuted_edits

SIZE = 32


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Scenes of two objects or more, on black."""
    drawn = draw_scenes(60, 1, World(backgrounds=("black",), styles=("flat",), textures=("plain",)))
    return drawn.rows((drawn.counts >= 2).nonzero()[:24, 0])


def recoloured(scenes: Scenes) -> Scenes:
    """The first object has the next colour."""
    return same_scene(scenes, colour=(scenes.colour + (torch.arange(4) == 0)) % 8)


def removed(scenes: Scenes) -> Scenes:
    """The last object is gone."""
    last = torch.arange(4) == scenes.counts[:, None] - 1
    return same_scene(scenes, group=torch.where(last, -1, scenes.group))


@pytest.mark.parametrize("edit", [recoloured, removed])
def test_the_right_answer_is_a_success(scenes: Scenes, edit) -> None:
    source, target = render(scenes, SIZE), edit(scenes)
    score = edit_score(source, scenes, target, render(target, SIZE))
    assert (
        float(score.success.mean()) > 0.95 and float(score.others.mean()) > 0.97
    )  # up to the parser's own error
    assert (score.outside_error == 0).all() and (score.preservation == 1).all()
    assert (score.outside_psnr > 120).all() and (score.target_psnr > 120).all()
    if edit is removed:
        assert score.shape_iou.isnan().all()
    else:
        assert float(score.shape_iou.mean()) > 0.95


@pytest.mark.parametrize("edit", [recoloured, removed])
def test_doing_nothing_is_no_success_and_preserves_all(scenes: Scenes, edit) -> None:
    source = render(scenes, SIZE)
    score = edit_score(source, scenes, edit(scenes), source)
    assert float(score.success.mean()) < 0.05
    assert (score.outside_error == 0).all() and float(score.others.mean()) > 0.97


def test_a_touched_rest_is_seen(scenes: Scenes) -> None:
    target = recoloured(scenes)
    all_changed = same_scene(scenes, colour=(scenes.colour + 1) % 8)
    score = edit_score(render(scenes, SIZE), scenes, target, render(all_changed, SIZE))
    assert float(score.success.mean()) > 0.95 and float(score.others.mean()) < 0.05
    assert (score.outside_error > 0).float().mean() > 0.9


def test_differences_outside_in_closed_form(scenes: Scenes) -> None:
    source, target = render(scenes, SIZE), recoloured(scenes)
    score = edit_score(source, scenes, target, source + 0.1)
    torch.testing.assert_close(score.outside_error, torch.full((24,), 0.05).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        score.outside_psnr, torch.full((24,), 10 * math.log10(4 / 0.01)).double(), rtol=0, atol=1e-4
    )


def test_masks(scenes: Scenes) -> None:
    mask = edited_mask(scenes, recoloured(scenes), SIZE)
    touched = coverage(scenes, SIZE)[:, 0] > 0
    assert (mask & touched).sum() == touched.sum() < mask.sum()
    rows, columns = (touched.any(axis).float() for axis in (2, 1))
    for axis, line in ((2, rows), (1, columns)):  # two pixels further either way, where there is room
        first, grown = line.argmax(1), mask.any(axis).float().argmax(1)
        assert torch.equal(grown, (first - 2).clamp(min=0))
    assert not edited_mask(scenes, scenes, SIZE).any()
    other = same_scene(scenes, background=BACKGROUNDS.index("white"))
    assert edited_mask(scenes, other, SIZE).all()
    score = edit_score(render(scenes, SIZE), scenes, other, render(other, SIZE))
    assert score.outside_error.isnan().all() and float(score.success.mean()) > 0.95


def test_the_null_level_is_that_of_other_edits(scenes: Scenes) -> None:
    target = recoloured(scenes)
    null = permuted_edits(render(scenes, SIZE), scenes, target, render(target, SIZE))
    assert float(null.success.mean()) < 0.2


def test_hypervolume() -> None:
    points = torch.tensor([[0.5, 0.5]])
    assert hypervolume(points).item() == 0.25
    stairs = torch.tensor([[0.2, 0.9], [0.6, 0.5], [0.9, 0.1], [0.5, 0.4]])  # the last is dominated
    assert hypervolume(stairs).item() == pytest.approx(0.2 * 0.9 + 0.4 * 0.5 + 0.3 * 0.1)
    assert hypervolume(stairs[[2, 0, 3, 1]]).item() == pytest.approx(hypervolume(stairs).item())
    line = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert hypervolume(torch.stack([line, 1 - line], 1)).item() == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ValueError, match="points"):
        hypervolume(torch.tensor([[0.5, 1.5]]))


def test_wrong_calls(scenes: Scenes) -> None:
    source = render(scenes, SIZE)
    with pytest.raises(ValueError, match="as many images and scenes"):
        edit_score(source, scenes, scenes, source[:3])

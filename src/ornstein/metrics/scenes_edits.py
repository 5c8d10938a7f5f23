"""Did an edit of a scene do what was asked, and leave the rest as it was?"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.scenes.maps import boxes
from ..data.scenes.parse import Parsed, parse
from ..data.scenes.render import coverage, render
from ..data.scenes.world import Scenes
from .estimate import Estimate
from .restoration import RANGE, psnr
from .scenes import mean_estimate
from .scenes_layout import box_iou

__all__ = ["EditScore", "edit_score", "edited_mask", "hypervolume", "permuted_edits"]

SAME = 0.5  # least IoU of boxes of one object before and after
DILATED = 2 / 32  # by which masks grow, in sides
_LOOKS = ("shape", "colour", "size", "texture")


@dataclass(frozen=True)
class EditScore:
    """Scores (N,) of each edit; NaN where they mean nothing.

    Attributes:
        success: every object that the edit changes is found, at its place (IoU of boxes at least 1/2), as asked for;
            those it removes are gone; a new style or background is there. An unreadable image is no success.
        others: share of the objects that the edit does not touch that are found unchanged; NaN where there are none.
        outside_psnr: peak signal-to-noise ratio in decibels, against the source, of the pixels out of the mask; NaN
            for an empty outside, as where the background changes.
        outside_error: mean absolute difference there, over the range 2 of pixels, in [0, 1].
        shape_iou: IoU of the pixels of edited objects as asked for and as found; NaN where all are removed.
        target_psnr: against the rendered target: how near an edit came that has one right answer.
    """

    success: Tensor
    others: Tensor
    outside_psnr: Tensor
    outside_error: Tensor
    shape_iou: Tensor
    target_psnr: Tensor

    @property
    def preservation(self) -> Tensor:
        """(N,) 1 - outside_error."""
        return 1 - self.outside_error

    def estimates(self, resamples: int = 500, seed: int = 0) -> dict[str, Estimate]:
        """Means over the edits where each score means something, with their 95 % intervals."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {name: v[~v.isnan()] for name, v in values.items()}
        return {name: mean_estimate(v, resamples, seed) for name, v in kept.items() if len(v)}


def edit_score(source: Tensor, before: Scenes, target: Scenes, images: Tensor) -> EditScore:
    """How well edits were made.

    Args:
        source: images (N, 3, S, S) that were edited, in [-1, 1].
        before: their scenes.
        target: the scenes asked for, slot by slot the same objects (`same_scene` makes them); a removed object's group
            is -1 there.
        images: what the edits gave, of the same shape.

    Raises:
        ValueError: shapes that differ, or not one scene an image.
    """
    if source.shape != images.shape or not len(source) == len(before.x) == len(target.x):
        raise ValueError(
            f"expected as many images and scenes of one size, got images {tuple(source.shape)} and "
            f"{tuple(images.shape)}, scenes {len(before.x)} and {len(target.x)}"
        )
    read, changed = parse(images), _changed(before, target)
    masks = edited_mask(before, target, source.shape[-1])
    outside_psnr, outside_error = _outside(source, images, masks)
    partner = _partners(target, read)
    same = _unaltered(target, read.scenes, partner)
    styled = (target.style == read.scenes.style) | (target.counts == 0)  # nothing shows no style
    whole = (target.background == read.scenes.background) & styled
    edited, gone = changed & target.present, changed & ~target.present & before.present
    done = (same | ~edited).all(1) & ~(_occupied(before, target, read) & gone).any(1)
    rest = target.present & ~changed
    return EditScore(
        (done & whole & read.readable).double(), (same & rest).sum(1).double() / rest.sum(1),
        outside_psnr, outside_error, _shape_iou(target, edited, read, partner, source.shape[-1]),
        psnr(images.double(), render(target, source.shape[-1]).double()),
    )  # fmt: skip


def permuted_edits(source: Tensor, before: Scenes, target: Scenes, images: Tensor) -> EditScore:
    """The null level of success: the same sources and results, and the targets of the edits of other samples put on
    these scenes' objects, so that it tells how often an edit that was not asked for counts as made.
    """
    order = torch.arange(len(source)).roll(1)
    looks = {}
    for name in (*_LOOKS, "radius"):
        here, there = getattr(before, name), getattr(target, name)[order]
        looks[name] = torch.where(_changed(before, target) & target.present, there, here)
    return edit_score(source, before, target._replace(**looks), images)


def edited_mask(before: Scenes, target: Scenes, size: int) -> Tensor:
    """(N, size, size): pixels that changed objects cover before or after, grown by a sixteenth of a side; all of them
    where the background or the style changes.
    """
    changed = _changed(before, target)
    cover = [coverage(s, size) * changed[..., None, None] for s in (before, target)]
    mask = (torch.maximum(*cover) > 0).any(1)
    reach = max(1, round(DILATED * size))
    grown = F.max_pool2d(mask[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0
    whole = (before.background != target.background) | (before.style != target.style)
    return grown | whole[:, None, None]


def hypervolume(points: Tensor) -> Tensor:
    """Area of what points (S, 2) of two scores in [0, 1] dominate: all that is no better in both than one of them.

    Success and preservation at several strengths of an edit, as one number: methods are to be compared by their
    curves, not by one point.

    Raises:
        ValueError: not (S, 2), or values out of [0, 1].
    """
    if points.ndim != 2 or points.shape[1] != 2 or (points < 0).any() or (points > 1).any():
        raise ValueError(f"points: expected (S, 2) in [0, 1], got {tuple(points.shape)}")
    first, order = points[:, 0].sort(descending=True)
    second = points[order, 1].cummax(0).values
    widths = first - torch.cat([first[1:], first.new_zeros(1)])
    return (widths * second).sum()


def _changed(before: Scenes, target: Scenes) -> Tensor:
    """(N, K) objects that differ in anything of their own."""
    both = before.present & target.present
    differ = before.present != target.present
    for name in (*_LOOKS, "x", "y", "radius", "tint"):
        differ = differ | both & (getattr(before, name) != getattr(target, name))
    return differ


def _outside(source: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    rest = (images - source).double() * ~mask[:, None]
    pixels = (~mask).sum((1, 2)) * source.shape[1]
    squared, absolute = rest.square().sum((1, 2, 3)) / pixels, rest.abs().sum((1, 2, 3)) / pixels
    return 10 * (RANGE**2 / squared.clamp(min=1e-12)).log10(), absolute / RANGE


def _partners(target: Scenes, read: Parsed) -> Tensor:
    """(N, K) the slot of the object found where each one of the target should be, -1 for none."""
    overlap = box_iou(boxes(target), boxes(read.scenes))
    overlap = overlap * (target.present[:, :, None] & (read.scenes.present & read.readable[:, None])[:, None])
    best, index = overlap.max(2)
    return index.masked_fill(best < SAME, -1)


def _unaltered(target: Scenes, found: Scenes, partner: Tensor) -> Tensor:
    """(N, K) whether the object is there with the attributes of the target."""
    same = partner >= 0
    for name in _LOOKS:
        same = same & (getattr(found, name).gather(1, partner.clamp(min=0)) == getattr(target, name))
    return same


def _occupied(before: Scenes, target: Scenes, read: Parsed) -> Tensor:
    """(N, K) whether something is found where an object was, other than what the target has there."""
    was = box_iou(boxes(before), boxes(read.scenes))
    asked = box_iou(boxes(target), boxes(read.scenes)).amax(1, keepdim=True)
    return ((was >= SAME) & (was > asked) & read.scenes.present[:, None]).any(2)


def _shape_iou(target: Scenes, edited: Tensor, read: Parsed, partner: Tensor, size: int) -> Tensor:
    asked = coverage(target, size) >= 0.5
    found = (coverage(read.scenes, size) >= 0.5)[torch.arange(len(partner))[:, None], partner.clamp(min=0)]
    found = found & (partner >= 0)[..., None, None]
    both, either = (asked & found).sum((2, 3)).double(), (asked | found).sum((2, 3)).double()
    return (both / either.clamp(min=1) * edited).sum(1) / edited.sum(1)

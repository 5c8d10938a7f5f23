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
from .scenes import exchanges, mean_estimate, mean_score, on_cpu, reading
from .scenes_layout import box_iou

__all__ = ["EditScore", "edit_score", "edited_mask", "hypervolume", "permuted_edits"]

SAME = 0.5  # least IoU of boxes of one object before and after
DILATED = 2 / 32  # by which masks grow, in sides
NOISE: dict[tuple[str, ...], float] = {("x", "y"): 0.015, ("radius",): 0.015, ("tint",): 0.08}
"""Changes that are not judged, in sides and in shares of brightness: up to twice the parser's error on noisy pictures.
(The largest of place and radius at 16 pixels with noise of 0.1, 0.007; of tint the 99th of 100 at 32 pixels, 0.04.)
"""
_LOOKS = ("shape", "colour", "size", "texture")


@dataclass(frozen=True)
class EditScore:
    """Scores (N,) of each edit, on the CPU; NaN where they mean nothing.

    Attributes:
        success: every object that the edit changes is found, at its place (IoU of boxes at least 1/2), with the
            attributes asked for, and nearer to the place, radius and tint asked for than to those that it had, where
            the edit changes these by more than `NOISE`; those it removes are gone, those it moves have left their old
            place; style and background are those of the target. An unreadable image is no success. NaN where the
            picture as it was would be one: nothing that can be judged is asked for.
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
    source, before, target, images = _checked(source, before, target, images)
    return _scored(source, before, target, images, parse(images))


def permuted_edits(
    source: Tensor, before: Scenes, target: Scenes, images: Tensor, rounds: int = 8, seed: int = 0
) -> EditScore:
    """The null level: the same sources and results, judged by edits that other samples ask for.

    In each round every sample takes another one's edit: whatever it changes there (an object's looks or place, its
    being there at all, the style, the background) is set in this sample's scene, in the same slots, to the same
    values. A pair counts if it can be so (the scene has these objects) and asks for something else: neither the source
    nor the sample's own target must fulfil it. What a picture gets then it did not get for following its own edit: a
    method whose result does not depend on the edit asked for, such as one that makes any edit at random, or erases
    all, has about the same success here as by `edit_score`, and the right answers have 0 up to the parser's error.

    Args:
        source: images (N, 3, S, S) that were edited.
        before: their scenes.
        target: the scenes asked for, by edits of one kind or of several.
        images: what the edits gave.
        rounds: over which the scores are averaged.
        seed: of the choice of other samples.

    Returns:
        Means over the rounds in which a sample's pair counts; NaN where none does.

    Raises:
        ValueError: as `edit_score`; fewer than two samples, or fewer than one round; no pair counts, as where all
            samples ask for the same background.
    """
    source, before, target, images = _checked(source, before, target, images)
    read, scores = parse(images), []
    for order in exchanges(range(len(source)), rounds, seed):
        instead, counts = _instead(before, target, order)
        score = _scored(source, before, instead, images, read)
        counts = counts & ~_made(before, instead, reading(target)) & ~score.success.isnan()
        scores.append(EditScore(*(getattr(score, f.name).where(counts, torch.nan) for f in fields(score))))
    null = mean_score(scores)
    if null.success.isnan().all():
        raise ValueError(
            f"a null level: none of {len(source)} edits asks for something else in another sample's scene; pass "
            "edits that differ"
        )
    return null


def edited_mask(before: Scenes, target: Scenes, size: int) -> Tensor:
    """(N, size, size): pixels that changed objects cover before or after, grown by a sixteenth of a side; all of them
    where the background or the style changes. On the scenes' device.
    """
    device = before.x.device
    before, target = on_cpu((before, target))
    changed = _changed(before, target)
    cover = [coverage(s, size) * changed[..., None, None] for s in (before, target)]
    mask = (torch.maximum(*cover) > 0).any(1)
    reach = max(1, round(DILATED * size))
    grown = F.max_pool2d(mask[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0
    whole = (before.background != target.background) | (before.style != target.style)
    return (grown | whole[:, None, None]).to(device)


def hypervolume(points: Tensor) -> Tensor:
    """Area of what points (S, 2) of two scores in [0, 1] dominate: all that is no better in both than one of them.

    Success and preservation at several strengths of an edit, as one number: methods are to be compared by their
    curves, not by one point.

    Raises:
        ValueError: not (S, 2), or values out of [0, 1].
    """
    if points.ndim != 2 or points.shape[1] != 2 or not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"points: expected (S, 2) in [0, 1], got {tuple(points.shape)}")
    first, order = points[:, 0].sort(descending=True)
    second = points[order, 1].cummax(0).values
    widths = first - torch.cat([first[1:], first.new_zeros(1)])
    return (widths * second).sum()


def _checked(
    source: Tensor, before: Scenes, target: Scenes, images: Tensor
) -> tuple[Tensor, Scenes, Scenes, Tensor]:
    if source.shape != images.shape or not len(source) == len(before.x) == len(target.x):
        raise ValueError(
            f"expected as many images and scenes of one size, got images {tuple(source.shape)} and "
            f"{tuple(images.shape)}, scenes {len(before.x)} and {len(target.x)}"
        )
    given: tuple[Tensor, Scenes, Scenes, Tensor] = on_cpu((source, before, target, images))
    return given


def _scored(source: Tensor, before: Scenes, target: Scenes, images: Tensor, read: Parsed) -> EditScore:
    """What was read in the images beside what the edits ask for."""
    size, changed = source.shape[-1], _changed(before, target)
    partner = _partners(target, read)
    rest = target.present & ~changed
    kept = _unaltered(target, read.scenes, partner) & rest
    success = _made(before, target, read).double()
    return EditScore(
        success.masked_fill(_made(before, target, reading(before)), torch.nan),
        kept.sum(1).double() / rest.sum(1),
        *_outside(source, images, edited_mask(before, target, size)),
        _shape_iou(target, changed & target.present, read, partner, size),
        psnr(images.double(), render(target, size).double()),
    )


def _made(before: Scenes, target: Scenes, read: Parsed) -> Tensor:
    """(N,) whether what was read is what the edit asks for, of all that it changes."""
    changed, partner = _changed(before, target), _partners(target, read)
    there = _unaltered(target, read.scenes, partner) & _nearer(before, target, read.scenes, partner)
    moved = box_iou(boxes(before), boxes(target)).diagonal(dim1=1, dim2=2) < SAME  # or gone
    old = _occupied(before, target, read) & changed & before.present & moved
    same = (before.style == target.style) | (target.counts == 0)  # a picture without objects shows no style
    styled = torch.where(read.scenes.counts > 0, target.style == read.scenes.style, same)
    whole = (target.background == read.scenes.background) & styled
    return (there | ~(changed & target.present)).all(1) & ~old.any(1) & whole & read.readable


def _instead(before: Scenes, target: Scenes, order: Tensor) -> tuple[Scenes, Tensor]:
    """What the edits of the samples at `order` ask for in these scenes, and (N,) whether their objects are there."""
    there, asked = before.rows(order), target.rows(order)
    changed = _changed(there, asked)
    values = {}
    for name in Scenes._fields:
        was, new = getattr(there, name), getattr(asked, name)
        differs = was != new
        if new.ndim == 2:
            differs = changed & (differs | ~there.present)  # all of an object that was added
        values[name] = torch.where(differs, new, getattr(before, name))
    return before._replace(**values), (~changed | (there.present == before.present)).all(1)


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
    own = best == overlap.amax(1).gather(1, index)  # it is no other one's
    return index.masked_fill((best < SAME) | ~own, -1)


def _unaltered(target: Scenes, found: Scenes, partner: Tensor) -> Tensor:
    """(N, K) whether the object is there with the attributes of the target."""
    same = partner >= 0
    for name in _LOOKS:
        same = same & (getattr(found, name).gather(1, partner.clamp(min=0)) == getattr(target, name))
    return same


def _nearer(before: Scenes, target: Scenes, found: Scenes, partner: Tensor) -> Tensor:
    """(N, K) whether the object found is nearer to what it should be than to what it was, in all that changes so much
    that the parser can tell.
    """
    nearer = torch.ones_like(partner, dtype=torch.bool)
    for names, noise in NOISE.items():
        was, asked = (torch.stack([getattr(s, name) for name in names]) for s in (before, target))
        seen = torch.stack([getattr(found, name).gather(1, partner.clamp(min=0)) for name in names])
        change, left, made = (
            torch.linalg.vector_norm(v, dim=0) for v in (asked - was, seen - asked, seen - was)
        )
        nearer = nearer & ((left < made) | (change <= noise) | ~before.present)
    return nearer


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

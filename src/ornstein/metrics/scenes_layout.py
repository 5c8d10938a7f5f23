"""Are objects where a layout asks for them?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..data.scenes.maps import boxes
from ..data.scenes.parse import Parsed
from ..data.scenes.world import Scenes
from .scenes import exchanges, on_cpu, reading

__all__ = ["box_iou", "layout_iou", "permuted_layout", "position_recall"]

Found = Tensor | Parsed | Scenes


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (..., A, B) of boxes (..., A, 4) and (..., B, 4), as (left, top, right, bottom); 0 for
    boxes without area.
    """
    a, b = first[..., :, None, :], second[..., None, :, :]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    both = sides.prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-12)


def layout_iou(asked: Scenes, found: Found, labelled: bool = True) -> Tensor:
    """Mean IoU (N,) of the boxes asked for with those found, matched so that it is largest; unmatched ones count as 0.

    Args:
        asked: layouts, as scenes; NaN for one without objects.
        found: images (N, 3, S, S) in [-1, 1], or what was read in them. Unreadable images have 0.
        labelled: only objects of the same colour and shape may match.

    Raises:
        ValueError: not one image a layout.
    """
    asked, read = _checked(asked, found)
    values = box_iou(boxes(asked), boxes(read.scenes))
    if labelled:
        values = values * _alike(asked, read.scenes)
    return _matched_mean(values, asked, read)


def position_recall(asked: Scenes, found: Found, radius: float = 0.08, labelled: bool = True) -> Tensor:
    """Share (N,) of the objects asked for that have one of their own with a centre within `radius` sides of theirs.

    Args:
        asked: layouts, as scenes; NaN for one without objects.
        found: images (N, 3, S, S) in [-1, 1], or what was read in them. Unreadable images have 0.
        radius: in sides.
        labelled: only objects of the same colour and shape count.

    Raises:
        ValueError: not one image a layout.
    """
    asked, read = _checked(asked, found)
    seen = read.scenes
    squared = sum((a[:, :, None] - b[:, None]) ** 2 for a, b in ((asked.x, seen.x), (asked.y, seen.y)))
    near = (squared <= radius**2) & (_alike(asked, seen) | (not labelled))
    return _matched_mean(near.double(), asked, read)


def permuted_layout(
    measure: Callable[[Scenes, Parsed], Tensor], asked: Scenes, found: Found, rounds: int = 8, seed: int = 0
) -> Tensor:
    """The null level (N,) of a measure such as `layout_iou`: the same images under the layouts of random other samples
    whose layout is not their own, averaged over so many draws.

    Raises:
        ValueError: not one image a layout, fewer than two layouts that differ, or fewer than one round.
    """
    asked, read = _checked(asked, found)
    levels = [measure(asked.rows(order), read) for order in exchanges(_layouts(asked), rounds, seed)]
    return torch.stack(levels).nanmean(0)


def _layouts(asked: Scenes) -> list[tuple[Any, ...]]:
    """What each layout consists of, whatever the order of its objects."""
    columns = [getattr(asked, name).tolist() for name in ("group", "shape", "colour", "x", "y", "radius")]
    rows = (zip(*row, strict=True) for row in zip(*columns, strict=True))
    return [tuple(sorted(slot[1:] for slot in row if slot[0] >= 0)) for row in rows]


def _checked(asked: Scenes, found: Found) -> tuple[Scenes, Parsed]:
    read = reading(found)
    if len(asked.x) != len(read.readable):
        raise ValueError(
            f"expected one image a layout, got {len(read.readable)} images and {len(asked.x)} layouts"
        )
    return on_cpu(asked), read


def _alike(asked: Scenes, seen: Scenes) -> Tensor:
    same = [getattr(asked, k)[:, :, None] == getattr(seen, k)[:, None] for k in ("colour", "shape")]
    return same[0] & same[1]


def _matched_mean(values: Tensor, asked: Scenes, read: Parsed) -> Tensor:
    """Sum of the best assignment over the number asked for, (N,)."""
    there = read.scenes.present & read.readable[:, None]
    possible = asked.present[:, :, None] & there[:, None]
    tables = (values * possible).double().numpy()
    total = [float(table[linear_sum_assignment(table, maximize=True)].sum()) for table in tables]
    return torch.tensor(total, dtype=torch.float64) / asked.counts

"""How often the parser of scenes is wrong, on images whose scenes are known: the noise of all that rests on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..data.scenes.parse import Parsed
from ..data.scenes.world import ATTRIBUTES, Scenes
from .estimate import Estimate, wilson
from .scenes import on_cpu, reading

__all__ = ["ReadingError", "reading_error"]

NEAR = 0.08  # distance in sides within which an object read is the one that is there
_OF_OBJECTS = ("shape", "colour", "size", "texture")


@dataclass(frozen=True)
class ReadingError:
    """What was read beside what is there.

    Attributes:
        confusion: by name of attribute, the table (truth, read) of how often each value was read as which, over the
            objects found; of style and background over images.
        objects: how many objects there are.
        missed: those of which none was read near by.
        extra: objects read where there is none.
        exact: (N,) whether number, places and all attributes are right and the image was readable.
        readable: (N,) whether the parser took the image for a scene.
        offset: (M,) distances of centres, in sides, of the M objects found.
    """

    confusion: dict[str, Tensor]
    objects: int
    missed: int
    extra: int
    exact: Tensor
    readable: Tensor
    offset: Tensor

    def accuracy(self, name: str) -> Estimate:
        """Share of right readings of an attribute, with Wilson's interval."""
        table = self.confusion[name]
        return wilson(int(table.diagonal().sum()), int(table.sum()))

    @property
    def exact_rate(self) -> Estimate:
        """Share of images that are read without any error."""
        return wilson(int(self.exact.sum()), len(self.exact))

    @property
    def unreadable_rate(self) -> Estimate:
        """Share of images that the parser refuses."""
        return wilson(int((~self.readable).sum()), len(self.readable))


def reading_error(truth: Scenes, found: Tensor | Parsed, near: float = NEAR) -> ReadingError:
    """Compare what the parser reads with what is there.

    Args:
        truth: N scenes.
        found: their images (N, 3, S, S) in [-1, 1], however degraded, or what was read in them.
        near: distance in sides within which two centres are one object's.

    Raises:
        ValueError: not one image a scene.
    """
    truth, read = on_cpu(truth), reading(found)
    if len(truth.x) != len(read.readable):
        raise ValueError(f"expected one image a scene, got {len(read.readable)} and {len(truth.x)}")
    image, own, theirs, distance = _pairs(truth, read.scenes, near)
    tables, right = {}, torch.ones_like(image, dtype=torch.bool)
    for name in _OF_OBJECTS:
        values = getattr(truth, name)[image, own], getattr(read.scenes, name)[image, theirs]
        tables[name] = _table(*values, len(ATTRIBUTES[name]))
        right &= values[0] == values[1]
    whole = torch.ones_like(read.readable)
    for name in ("style", "background"):
        values = getattr(truth, name), getattr(read.scenes, name)
        tables[name] = _table(*values, len(ATTRIBUTES[name]))
        whole &= values[0] == values[1]
    rightly = torch.bincount(image[right], minlength=len(whole))
    exact = whole & read.readable & (rightly == truth.counts) & (rightly == read.scenes.counts)
    there, seen = int(truth.counts.sum()), int(read.scenes.counts.sum())
    return ReadingError(tables, there, there - len(image), seen - len(image), exact, read.readable, distance)


def _pairs(truth: Scenes, found: Scenes, near: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, slot there, slot read and distance of each pair of objects taken for one another."""
    squared = sum((getattr(truth, k)[:, :, None] - getattr(found, k)[:, None]) ** 2 for k in "xy")
    possible = truth.present[:, :, None] & found.present[:, None]
    distance = torch.sqrt(torch.as_tensor(squared)).masked_fill(~possible, 10.0)
    cost = distance.masked_fill(distance > near, 10.0)  # a far one is worth no near pair
    rows = [linear_sum_assignment(table) for table in cost.double().numpy()]
    own, theirs = (torch.tensor([r[side].tolist() for r in rows]).flatten() for side in (0, 1))
    image = torch.arange(len(rows)).repeat_interleave(truth.x.shape[1])
    apart = distance[image, own, theirs]
    kept = apart <= near
    return image[kept], own[kept], theirs[kept], apart[kept]


def _table(truth: Tensor, read: Tensor, number: int) -> Tensor:
    return torch.bincount(truth * number + read, minlength=number**2).reshape(number, number)

"""Scenes that differ from others in one binding: which colour is whose, what is left of what."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Keyed

from ..dataset import Split
from .language import captions
from .render import render
from .world import COLOURS, SHAPES, TEXTURES, Scenes, World

__all__ = ["TwinSplit", "twins"]

CHOICES = torch.tensor([0, 0, 1, 2, 2, 3, 4])  # colours, textures, all but size and place, mirrored twice
_BOUND = ("colour", "texture", "shape")  # attributes that two groups may exchange


def twins(scenes: Scenes, seed: int = 0, world: World | None = None) -> Scenes:
    """For each scene one of the same words as far as that is possible, which are bound otherwise. By chance

        two groups exchange their colours, their textures, or all that they are but size and place;
        the picture is mirrored, left to right or top to bottom.

    The only group of a scene changes its colour, its texture or its shape to another one. Pairs of colour and shape
    that the world leaves out are left out here too: such scenes are mirrored.

    Args:
        scenes: N scenes.
        seed: of the choices; scene i of a seed is treated the same in any batch.
        world: whose pairs of colour and shape may occur; all by default.
    """
    n = len(scenes.x)
    u = Keyed(seed, n).fold("twins").uniform(torch.empty(n, 4))
    choice = CHOICES[(u[:, 0] * len(CHOICES)).long()]
    changed = _rebound(scenes, choice, u[:, 1:])
    known = torch.zeros(len(COLOURS), len(SHAPES), dtype=torch.bool)
    known[tuple(torch.tensor((world or World()).pairs()).T)] = True
    fine = (known[changed.colour, changed.shape] | ~scenes.present).all(1)
    mirrored_x = (choice == 3) | ~fine
    kept = {k: torch.where(fine[:, None], getattr(changed, k), getattr(scenes, k)) for k in _BOUND}
    x = torch.where(mirrored_x[:, None], 1 - scenes.x, scenes.x)
    y = torch.where(((choice == 4) & fine)[:, None], 1 - scenes.y, scenes.y)
    return scenes._replace(**kept, x=x, y=y)


def _rebound(scenes: Scenes, choice: Tensor, u: Tensor) -> Scenes:
    """Attributes exchanged between two groups, or, where there is but one, changed."""
    groups = scenes.group.amax(1) + 1
    first = (u[:, 0] * groups).long()
    second = (first + 1 + (u[:, 1] * (groups - 1)).long()) % groups
    is_first, is_second = (scenes.group == g[:, None] for g in (first, second))
    made = {}
    for name, values, chosen in zip(_BOUND, (COLOURS, TEXTURES, SHAPES), ((0, 2), (1, 2), (2,)), strict=True):
        given = getattr(scenes, name)
        theirs = [given.gather(1, is_group.long().argmax(1)[:, None]) for is_group in (is_first, is_second)]
        swapped = torch.where(is_first, theirs[1], torch.where(is_second, theirs[0], given))
        other = (given + 1 + (u[:, 2:] * (len(values) - 1)).long()) % len(values)
        alone = (groups == 1)[:, None] & (torch.tensor(chosen[0]) == choice)[:, None]
        both = (groups > 1)[:, None] & torch.isin(choice, torch.tensor(chosen))[:, None]
        made[name] = torch.where(alone, other, torch.where(both, swapped, given))
    return scenes._replace(**made)


class TwinSplit(Split):
    """Scenes with their twins, which `objectives.TextImageMatching` reads: the field "twin_image", and `twin_texts`,
    which training tokenises into a field "twin_text" as it does `texts`.

    Args:
        split: a `SceneSplit`.
        seed: of the twins.
    """

    def __init__(self, split: Any, seed: int = 0) -> None:
        self.split, self.fields, self.seed = split, split.fields, seed

    def __len__(self) -> int:
        return len(self.split)

    @functools.cached_property
    def twins(self) -> Scenes:
        """The N twins, drawn when first asked for."""
        return twins(self.split.scenes, self.seed, self.split.world)

    @property
    def texts(self) -> list[str]:
        """The captions' words."""
        found: list[str] = self.split.texts
        return found

    @functools.cached_property
    def twin_texts(self) -> list[str]:
        """What the captions would say of the twins, in the same phrasings."""
        return [caption.text for caption in captions(self.twins, self.split.seed)]

    def _states(self, indices: Tensor) -> Tensor:
        images: Tensor = self.split.batch(indices)["x_0"]
        return images

    def batch(self, indices: Tensor) -> dict[str, Any]:
        """The images at `indices` (B,), and the twins'."""
        record = self.split.batch(indices)
        shown = render(self.twins.rows(torch.as_tensor(indices)), self.split.size)
        return {**record, "fields": {**record["fields"], "twin_image": shown}}

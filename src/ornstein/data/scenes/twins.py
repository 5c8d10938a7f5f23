"""Scenes that differ from others in one binding: which colour is whose, what is left of what."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Keyed, select

from ..dataset import Split
from .language import captions
from .render import render
from .world import COLOURS, SHAPES, TEXTURES, Scenes, World

__all__ = ["TwinSplit", "twins"]

KINDS = 5  # of twins
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
    n, most = scenes.group.shape
    u = Keyed(seed, n).fold("twins").uniform(torch.empty(n, 4))
    choice = (u[:, 0] * KINDS).long().clamp(max=KINDS - 1)
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
    """Scenes with their twins: what `objectives.TextImageMatching` reads, the fields "text", "twin_text" (ids) and
    "twin_image".

    Args:
        split: a `SceneSplit`.
        tokenise: texts -> ids (N, L), such as a `TextEncoder`'s.
        seed: of the twins.
    """

    def __init__(self, split: Any, tokenise: Any, seed: int = 0) -> None:
        self.split, self.twins = split, twins(split.scenes, seed, split.world)
        said = [c.text for c in captions(self.twins, split.seed)]
        self.fields = {"text": tokenise(split.texts), "twin_text": tokenise(said)}

    def __len__(self) -> int:
        return len(self.split)

    def _states(self, indices: Tensor) -> Tensor:
        images: Tensor = self.split.batch(indices)["x_0"]
        return images

    def batch(self, indices: Tensor) -> dict[str, Any]:
        """The images at `indices` (B,), with both texts and the twins' images."""
        ids = select(self.fields, indices)
        image = render(self.twins.rows(indices), self.split.size)
        return {"x_0": self._states(indices), "fields": {**ids, "twin_image": image}}

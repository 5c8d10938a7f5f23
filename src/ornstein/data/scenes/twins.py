"""Scenes that differ from others in one binding: which colour is whose, what is left of what."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..dataset import Split
from .language import Caption, SceneRow, captions, prompt_holds
from .render import extents, render
from .world import COLOURS, GAP, SHAPES, TEXTURES, Scenes, World, draws, outline_gap

__all__ = ["TwinSplit", "twins"]

CHOICES = torch.tensor([0, 0, 1, 2, 2, 3, 4])  # colours, textures, all but size and place, mirrored twice
_BOUND = ("colour", "texture", "shape")  # attributes that two groups may exchange


def twins(
    scenes: Scenes, seed: int = 0, world: World | None = None, ids: Iterable[int] | None = None
) -> Scenes:
    """For each scene one of the same words as far as that is possible, which are bound otherwise. By chance

        two groups exchange their colours, their textures, or all that they are but size and place;
        the picture is mirrored, left to right or top to bottom.

    The only group of a scene changes its colour, its texture or its shape to another one. A scene is mirrored left to
    right instead where this would give a texture, or a pair of colour and shape, that the world leaves out, bring an
    object out of the picture, or, unless the world lets objects overlap, bring two nearer than 0.03 sides.

    Args:
        scenes: N scenes.
        seed: of the choices.
        world: what occurs; everything by default.
        ids: numbers of the scenes, so that one's twin is the same in any batch; 0, 1, ... by default.
    """
    world = world or World()
    u = draws("twins", 4, len(scenes.x), seed, ids)
    choice = CHOICES[(u[:, 0] * len(CHOICES)).long()]
    mirrored = [torch.where((choice == k)[:, None], 1 - v, v) for k, v in ((3, scenes.x), (4, scenes.y))]
    made = _rebound(scenes, choice, u[:, 1:])._replace(x=mirrored[0], y=mirrored[1])
    fine = _occurs(made, world) & _fits(made, scenes, world.overlap)
    return _either(fine, made, scenes._replace(x=1 - scenes.x))


def _either(chosen: Tensor, scenes: Scenes, others: Scenes) -> Scenes:
    """Those of N scenes that are chosen, (N,), and of the others the rest."""
    return Scenes.join([scenes, others]).rows(torch.arange(len(chosen)) + len(chosen) * ~chosen)


def _occurs(scenes: Scenes, world: World) -> Tensor:
    """Whether a world has all pairs of colour and shape and all textures of a scene, (N,)."""
    known = torch.zeros(len(COLOURS), len(SHAPES), dtype=torch.bool)
    known[tuple(torch.tensor(world.pairs()).T)] = True
    textures = torch.tensor([name in world.textures for name in TEXTURES])
    return (known[scenes.colour, scenes.shape] & textures[scenes.texture] | ~scenes.present).all(1)


def _fits(changed: Scenes, scenes: Scenes, overlap: bool) -> Tensor:
    """Whether objects that have changed lie in the picture and keep the distance that they had, (N,)."""
    box = extents(changed)
    inside = ((box >= 0) & (box <= 1) | ~scenes.present[..., None]).all((1, 2))
    if overlap:
        return inside
    gap, was = (
        outline_gap(torch.stack([s.x, s.y], 1), s.shape, s.radius, s.present) for s in (changed, scenes)
    )
    return inside & (gap >= was.clamp(max=GAP) - 1e-6)  # those in the four quarters are GAP apart to rounding


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

    Where the two texts differ, either is false of the other's picture. A scene is its own twin where they would differ
    and one were true of both, as "a red ring and a blue ring" and "a blue ring and a red ring" are.

    Args:
        split: a `SceneSplit`, whose seed is that of the twins.
    """

    def __init__(self, split: Any) -> None:
        self.split, self.fields = split, split.fields

    def __len__(self) -> int:
        return len(self.split)

    @functools.cached_property
    def twins(self) -> Scenes:
        """The N twins, drawn when first asked for."""
        own, seed = self.split.scenes, self.split.seed
        made = twins(own, seed, self.split.world)
        said, rows = (self.split.captions, captions(made, seed)), map(SceneRow.of, (own, made))
        kept = torch.tensor([_apart(*pair) for pair in zip(*said, *rows, strict=True)])
        return _either(kept, made, own)

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
        images: Tensor = self.split._states(indices)
        return images

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """The maps of the scenes at `indices` (B,), and the twins' images."""
        shown = render(self.twins.rows(indices), self.split.size)
        return {**self.split.conditions(indices), "twin_image": shown}


def _apart(said: Caption, other: Caption, row: SceneRow, twin: SceneRow) -> bool:
    """Whether two captions are the same, or either is false of the other's scene."""
    return said.text == other.text or not (prompt_holds(other.asked, row) or prompt_holds(said.asked, twin))

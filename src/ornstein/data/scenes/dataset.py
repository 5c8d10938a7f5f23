"""Scenes as a data set: images rendered when they are read, with captions and exact maps."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..checks import check_least
from ..dataset import Dataset, Split
from ..image import to_bytes
from .language import Caption, captions
from .maps import control_map
from .render import render
from .twins import TwinSplit
from .world import BACKGROUNDS, COLOURS, MOST, SHAPES, SIZES, STYLES, TEXTURES, Scenes, World, draw_scenes
from .world import HELD_OUT as HELD_OUT_SEED

__all__ = ["SceneSplit", "scenes"]

ROWS = 1024  # maps made at a time


class SceneSplit(Split):
    """Scenes drawn by a seed: sample i is the same in any batch, and rendered each time it is read.

    Args:
        count: N.
        seed: of the scenes and their captions.
        size: pixels a side.
        world: what occurs.
        control: name of a map that comes as the field "image", see `CONTROLS`, or None.

    Attributes:
        scenes: the N scene graphs.
        captions: their captions, with spans.
        texts: the captions' words.
    """

    def __init__(self, count: int, seed: int, size: int, world: World, control: str | None = None) -> None:
        self.count, self.seed, self.size, self.world, self.control = count, seed, size, world, control
        self.fields = _Controls(self)  # type: ignore[assignment]

    def __len__(self) -> int:
        return self.count

    @functools.cached_property
    def scenes(self) -> Scenes:
        """The N scene graphs, drawn when first asked for."""
        return draw_scenes(self.count, self.seed, self.world)

    @functools.cached_property
    def captions(self) -> list[Caption]:
        """A caption for each, with spans."""
        return captions(self.scenes, self.seed)

    @functools.cached_property
    def texts(self) -> list[str]:
        """The captions' words."""
        return [caption.text for caption in self.captions]

    def _states(self, indices: Tensor) -> Tensor:
        return render(self.scenes.rows(indices), self.size)

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """The maps of the scenes at `indices` (B,)."""
        if self.control is None:
            return {}
        return {"image": control_map(self.scenes.rows(indices), self.control, self.size)}


class _Controls(Mapping[str, Tensor]):
    """The field "image" of all samples, computed when read, so many at a time."""

    def __init__(self, split: SceneSplit) -> None:
        self.split = split

    def __getitem__(self, name: str) -> Tensor:
        if name not in list(self):
            raise KeyError(name)
        parts = torch.arange(len(self.split)).split(ROWS)
        return torch.cat([self.split.conditions(rows)[name] for rows in parts])

    def __iter__(self) -> Iterator[str]:
        return iter(() if self.split.control is None else ("image",))

    def __len__(self) -> int:
        return int(self.split.control is not None)  # list(self) asks for it


def scenes(
    size: int = 32,
    count: int = 50_000,
    seed: int = 0,
    most: int = MOST,
    groups: int = 3,
    shapes: tuple[str, ...] = SHAPES,
    colours: tuple[str, ...] = COLOURS,
    sizes: tuple[str, ...] = SIZES,
    textures: tuple[str, ...] = TEXTURES,
    styles: tuple[str, ...] = STYLES,
    backgrounds: tuple[str, ...] = BACKGROUNDS,
    combinations: str = "seen",
    bias: float = 0.0,
    overlap: bool = False,
    control: str | None = None,
    twins: bool = False,
) -> Dataset:
    """Pictures of one to four simple objects (3, size, size) in [-1, 1], with captions.

    Everything in them is known: `data.train.scenes` holds the scene graphs, `.captions` the captions with spans,
    `data.scenes` the functions that render, map and read them.

    Args:
        size: pixels a side; 16, 32 and 64 are meant.
        count: scenes to train on; a twenty-fifth as many, at most 2,000, are held out.
        seed: of the scenes.
        most, groups, shapes, colours, sizes, textures, styles, backgrounds, bias, overlap: as in `World`.
        combinations: "seen" leaves the pairs `UNSEEN` of colour and shape out, "unseen" has them only, "all" both.
        control: "depth", "edges", "layout", "normals" or "regions": a map that comes as the field "image".
        twins: whether each scene comes with one of the same words bound otherwise, see `TwinSplit`.

    Raises:
        ValueError: numbers out of range or unknown names.
    """
    check_least(size=(size, 8), count=(count, 1))
    world = World(
        most, groups, tuple(shapes), tuple(colours), tuple(sizes), tuple(textures), tuple(styles),
        tuple(backgrounds), combinations, bias, overlap,
    )  # fmt: skip
    if control is not None:
        control_map(draw_scenes(1), control, 8)
    parts = ((count, seed), (min(2000, max(1, count // 25)), seed + HELD_OUT_SEED))
    splits: list[Split] = [SceneSplit(n, s, size, world, control) for n, s in parts]
    train, held_out = map(TwinSplit, splits) if twins else splits
    return Dataset("scenes", train, held_out, shape=(3, size, size), decode=to_bytes)

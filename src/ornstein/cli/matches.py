"""Whether texts and images of held-out data find each other, and what is told apart of scenes whose twins have the same
words bound otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.data.scenes import Scenes, SceneSplit, TwinSplit
from ornstein.metrics import Estimate, retrieval, told_apart

__all__ = ["AMONG", "compared"]

AMONG = 256  # texts or images of which one is to be found


def compared(pair: Any, data: Any, count: int) -> dict[str, tuple[Estimate, Estimate | None]]:
    """Measures of a pair of towers: of held-out data, and the same of as many training data. Of scenes also of such
    whose pairs of colour and shape are in no training scene, where the data leave some out.

    Args:
        pair: a `networks.TextImage`.
        data: images with texts.
        count: how many are compared, at most.

    Raises:
        ValueError: the data have no texts.
    """
    if data.held_out.texts is None:
        raise ValueError(f"data: {data.name!r} have no texts to compare images with")
    count = min(count, len(data.held_out))
    held_out, train = (_measures(pair, _twinned(s, count), count) for s in (data.held_out, data.train))
    found = {f"held-out {data.name}: {k}": (v, train.get(k)) for k, v in held_out.items()}
    inner = _scenes_of(data.held_out)
    if inner is None or inner.world.combinations != "seen":
        return found
    world = replace(inner.world, combinations="unseen")
    unseen = _measures(pair, TwinSplit(SceneSplit(count, inner.seed, inner.size, world)), count)
    return {**found, **{f"held-out pairs of colour and shape: {k}": (v, None) for k, v in unseen.items()}}


def _scenes_of(split: Any) -> SceneSplit | None:
    inner = split.split if isinstance(split, TwinSplit) else split
    return inner if isinstance(inner, SceneSplit) else None


def _twinned(split: Any, count: int) -> Any:
    """Of scenes the first ones with their twins; other data as they are."""
    inner = _scenes_of(split)
    return split if inner is None else TwinSplit(SceneSplit(count, inner.seed, inner.size, inner.world))


def _measures(pair: Any, split: Any, count: int) -> dict[str, Estimate]:
    """Of the first samples of a split."""
    record, texts = split.batch(torch.arange(min(count, len(split)))), list(split.texts[:count])
    x, ids = record["x_0"], pair.text.tokenise(texts)
    among = min(AMONG, len(x))
    whole = len(x) // among * among  # in a smaller block a text is found more easily
    ways = retrieval(pair, x[:whole], ids[:whole], among)
    found = {f"{way}, of {among}": share for way, share in ways.items()}
    if not isinstance(split, TwinSplit):
        return found
    twin, other = record["fields"]["twin_image"], pair.text.tokenise(split.twin_texts)
    for what, rows in _changes(split.split.scenes, split.twins).items():
        apart = rows & (ids != other).any(1)  # the others' captions do not say the difference
        if apart.any():
            won = told_apart(pair, x[apart], ids[apart], twin[apart], other[apart])
            found |= {f"{what}: {kind} told apart": share for kind, share in won.items()}
    return found


def _changes(scenes: Scenes, twins: Scenes) -> dict[str, Tensor]:
    """What the twins differ in, and of which scenes: (N,) each."""
    moved = ((scenes.x != twins.x) | (scenes.y != twins.y)).any(1)
    several = scenes.group.amax(1) > 0
    return {
        "things exchanged, two or more kinds": ~moved & several,
        "one kind, one word changed": ~moved & ~several,
        "mirrored, a relation or place said": moved,
    }

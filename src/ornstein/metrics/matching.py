"""Does a text find its image, and an image its text?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate, wilson

__all__ = ["retrieval", "told_apart"]

_BATCH = 256


def _vectors(function: Any, given: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(part) for part in given.split(_BATCH)])


def retrieval(pair: Any, x: Tensor, ids: Tensor, among: int = 256) -> dict[str, Estimate]:
    """Share of images whose own text fits them best of so many, and of texts whose own image does, with Wilson's
    interval. A text that stands more than once is found in any of its places.

    Args:
        pair: a `networks.TextImage`.
        x: images (N, C, H, W).
        ids: their texts (N, L).
        among: how many are compared at a time; the last block may be smaller.

    Returns:
        "image to text" and "text to image".
    """
    of_images, of_texts = _vectors(pair.of_images, x), _vectors(pair.of_texts, ids)
    hits = torch.zeros(2, dtype=torch.long)
    for rows in torch.arange(len(x)).split(among):
        similarity = of_images[rows] @ of_texts[rows].T
        same = (ids[rows][:, None] == ids[rows]).all(-1)
        for way, best in enumerate((similarity.argmax(1), similarity.argmax(0))):
            hits[way] += same.cpu().gather(1, best[:, None].cpu()).sum()
    names = ("image to text", "text to image")
    return {name: wilson(int(found), len(x)) for name, found in zip(names, hits, strict=True)}


def told_apart(pair: Any, x: Tensor, ids: Tensor, other_x: Tensor, other_ids: Tensor) -> dict[str, Estimate]:
    """Share of images that fit their own text better than the other one, and of texts that fit their own image better
    than the other one: 1/2 by chance, which a bag of words is left to where the others bind the same words otherwise,
    as `data.scenes.twins`. What fits both equally is not told apart: an encoder that gives the two texts the very same
    vector has 0 of "texts".

    Args:
        pair: a `networks.TextImage`.
        x: images (N, C, H, W).
        ids: their texts (N, L).
        other_x: for each another image.
        other_ids: the texts of those.

    Returns:
        "texts" and "images": what is told apart.
    """
    f, g = _vectors(pair.of_images, x), _vectors(pair.of_texts, ids)
    other_f, other_g = _vectors(pair.of_images, other_x), _vectors(pair.of_texts, other_ids)
    own = (f * g).sum(1)
    wins = {"texts": own > (f * other_g).sum(1), "images": own > (other_f * g).sum(1)}
    return {name: wilson(int(won.sum()), len(x)) for name, won in wins.items()}

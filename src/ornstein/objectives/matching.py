"""Texts and images that belong together, told from those that do not."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core import Condition, Losses, Noise, Objective

from .batch import condition_of

__all__ = ["TextImageMatching", "symmetric_info_nce"]


def symmetric_info_nce(similarity: Tensor, same: Tensor | None = None) -> Tensor:
    """The mean of -log softmax_j(s_ij)_i and -log softmax_i(s_ij)_j over the pairs (i, i), in nats: log N where all s
    are equal, 0 where the diagonal stands out (Radford et al. 2021, 2103.00020, figure 3).

    Args:
        similarity: s, (N, N), images by texts.
        same: (N, N), true for pairs that are as true as those of the diagonal, which are no counterexamples: they are
            left out of both sums.
    """
    if same is not None:
        own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        similarity = similarity.masked_fill(same & ~own, -torch.inf)
    target = torch.arange(len(similarity), device=similarity.device)
    return 0.5 * (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target))


class TextImageMatching(Objective):
    """`symmetric_info_nce` of a batch of images and their texts. It sees the batch by nature, so it stands in
    `Losses.batch`; the samples have no loss of their own.

    Data may have twins: the fields `twin_image` (N, C, H, W) and `twin_text` (N, L) of ids hold for each sample another
    that differs in one binding (which colour is whose, what is left of what). They join the batch, so that a bag of
    words cannot win (Yuksekgonul et al. 2022, 2210.01936, who do so with texts). Pairs with the same text are no
    counterexamples to each other.
    """

    fields = frozenset({"twin_image", "twin_text"})

    def __init__(self) -> None:
        super().__init__()  # a constructor of its own: it takes nothing

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The loss of one batch; `model` has a `pair`."""
        if not hasattr(model, "pair"):
            raise TypeError(f"TextImageMatching trains a denoisers.Matcher(pair), got {type(model).__name__}")
        images, condition = batch["x_0"], condition_of(batch) or Condition()
        if "text" not in condition:
            raise ValueError("data: have no texts, which TextImageMatching compares images with")
        ids = condition["text"]
        if "twin_text" in condition:
            images = torch.cat([images, condition["twin_image"]])
            ids = torch.cat([ids, condition["twin_text"]])
        same = (ids[:, None] == ids).all(-1)
        loss = symmetric_info_nce(model.pair(images, ids), same)
        return Losses(torch.zeros(len(batch["x_0"]), device=loss.device), {}, {"matching": loss})

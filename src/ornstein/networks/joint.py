"""One network for an image and its label together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_level, check_positive
from .embedding import LevelEmbedding, TokenEmbedding
from .norms import group_norm, zeroed
from .unet import UNet

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["JointUNet"]


class JointUNet(Module):
    """A U-Net with two heads, for states {"image": (B, channels, ...), "label": (B,)}.

    Image and label have levels of their own. The label's id and both levels enter the conditioning
    vector; the image comes out of the U-Net as ever, and the label's logits are read off that vector and
    the middle features averaged over positions. Both heads start at zero. Since an absent label is one
    more label id, conditioning on a label is holding that leaf at its value and a high level.

    Args:
        channels: channels of the images.
        classes: number K of classes; label K means "masked".
        options: those of `UNet` (dims, width, multipliers, blocks, attention, ...).
    """

    def __init__(self, channels: int, classes: int, **options: Any) -> None:
        super().__init__()
        check_positive(classes=classes)
        self.unet = UNet(channels, **options)
        width, features = self.unet.conditioning.width, self.unet.features
        self.label = TokenEmbedding(classes + 1, width)
        self.level = LevelEmbedding(width)
        self.norm = group_norm(features)
        self.inner = nn.Linear(features + width, width)
        self.logits = zeroed(nn.Linear(width, classes))

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.unet.fields

    @property
    def labels(self) -> int | None:
        """Number of labels that a condition may hold (not those of the state)."""
        return self.unet.labels

    def forward(
        self, x: dict[str, Tensor], level: dict[str, Tensor], condition: Condition | None = None
    ) -> dict[str, Tensor]:
        """{"image": as it came, "label": logits (B, classes)}.

        Args:
            x: images, and labels as ids (B,) in 0..classes or as soft rows (B, classes + 1).
            level: {"image": (B,), "label": (B,)}, about -10 to 10.
            condition: fields named in `fields`.
        """
        for leaf in ("image", "label"):
            check_level(level[leaf], len(x["image"]), f"level[{leaf!r}]")
        c = self.unet.conditioning(level["image"], condition)
        c = c + self.label(x["label"]) + self.level(level["label"])
        image, middle = self.unet.trunk(x["image"], c)
        pooled = self.norm(middle).flatten(2).mean(2)
        hidden = F.silu(self.inner(torch.cat([pooled, c], dim=1)))
        return {"image": image, "label": self.logits(hidden)}

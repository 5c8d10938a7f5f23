"""A small convolutional classifier, for guidance by gradients and for metrics in its features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_positive
from .unet import group_norm

__all__ = ["Classifier"]

COARSEST = 4


class Classifier(Module):
    """Logits of `classes` for images (B, channels, size, size).

    Two 3x3 convolutions with group norm and SiLU a resolution; the resolution is halved and the width
    doubled until at most 4x4 positions are left, which a linear layer reads. There are no batch
    statistics, so a row's logits do not depend on its batch.

    Args:
        channels: channels of the images.
        classes: number of classes.
        width: channels at full resolution.
        size: height and width of the images in pixels.
        dropout: share of the features dropped in training.

    Raises:
        ValueError: an argument out of range, or images of another size.
    """

    def __init__(
        self, channels: int, classes: int, width: int = 32, size: int = 8, dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_positive(channels=channels, classes=classes, width=width, size=size)
        self.shape = (channels, size, size)
        layers: list[nn.Module] = []
        while True:
            layers += [nn.Conv2d(channels, width, 3, padding=1), group_norm(width), nn.SiLU()]
            if size <= COARSEST:
                break
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), group_norm(2 * width), nn.SiLU()]
            channels, width, size = 2 * width, 2 * width, (size + 1) // 2
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.neck = nn.Linear(width * size * size, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations, (B, F)."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x: expected (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return F.silu(self.neck(self.body(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))

"""An encoder and a decoder between data and one short vector: the code of a variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from ornstein.core import Module

from .checks import check_positive

__all__ = ["CodeAutoencoder"]


class CodeAutoencoder(Module):
    """Data of one shape to the mean and log-variance of a code (B, 2 latent), and codes back to data.

    Both halves are linear layers with SiLU between them; without hidden layers both are linear, for which the best
    code is known (probabilistic principal components). `spaces.AutoencoderCodec` makes a codec of it.

    Args:
        shape: event shape of the data.
        latent: numbers in the code.
        hidden: widths of the layers from the data to the code, and backwards from the code to the data.
    """

    moments = True

    def __init__(self, shape: Any, latent: int = 16, hidden: Sequence[int] = (256,)) -> None:
        super().__init__()
        check_positive(latent=latent, hidden=list(hidden) or 1)
        self.shape, self.latent = tuple(shape), latent
        size = math.prod(self.shape)
        down, up = [size, *hidden], [latent, *reversed(hidden)]
        self.encoder = nn.Sequential(nn.Flatten(), *_layers(down), nn.Linear(down[-1], 2 * latent))
        self.decoder = nn.Sequential(*_layers(up), nn.Linear(up[-1], size), nn.Unflatten(1, self.shape))


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]

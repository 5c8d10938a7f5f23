"""Alignment of a network's features with those of a frozen encoder of clean data."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ornstein.core import Losses, Noise

from .denoising import Seen
from .places import places
from .regularised import Term

__all__ = ["RepresentationAlignment"]


class RepresentationAlignment(Term):
    """-weight times the mean cosine, position by position, of a projection of features h of the noisy state and of a
    frozen encoder's features of the clean data (REPA, Yu et al. 2024, 2410.06940),

        -cos(P h(x_t, t), encoder(x_0)),        P = W_2 silu(W_1 .)

    Maps (B, C, ...) and tokens (B, L, C) are compared position by position, which takes equal numbers of positions; an
    encoder that gives vectors (B, C) is compared with the mean of h over positions. P is trained with the objective.

    Args:
        encoder: encoder(x_0) -> features; frozen.
        layer: which module of the model's network h is read from: see `networks.taps.tap_names`.
        features: (of h, of the encoder).
        weight: >= 0; 0.5 in the paper.
        tokens: whether h is (B, L, C); else (B, C, ...). The same is asked of the encoder.

    Raises:
        ValueError: a negative weight; in use, an unknown layer or numbers of positions or of channels that differ.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layer: str,
        features: tuple[int, int],
        weight: float = 0.5,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.encoder, self.references, self.layer, self.layers = encoder, (encoder,), layer, (layer,)
        self.weight, self.tokens = float(weight), tokens
        self.features = inner, outer = features
        self.projection = nn.Sequential(nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, outer))

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """Sample by sample."""
        with torch.no_grad():
            wanted = places(self.encoder(seen.x_0), self.features[1], "the encoder", self.tokens)
        found = places(seen.features[self.layer], self.features[0], f"layer {self.layer!r}", self.tokens)
        if wanted.shape[1] == 1:
            found = found.mean(1, keepdim=True)
        if found.shape[1] != wanted.shape[1]:
            raise ValueError(
                f"layer {self.layer!r} has {found.shape[1]} positions, the encoder {wanted.shape[1]}; choose "
                "another layer, or an encoder that gives one vector"
            )
        cosine = F.cosine_similarity(self.projection(found), wanted, dim=2)
        return Losses(-self.weight * cosine.mean(1), {}, {})

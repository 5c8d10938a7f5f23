"""Text features with unit variance in every direction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from .text import TextEncoder

__all__ = ["Whitened"]

TEXTS = 2048  # as many tell the covariance well enough: some ten tokens each
RIDGE = 1e-4  # least variance that is brought to 1, as a share of the mean variance


class Whitened(TextEncoder):
    """A text encoder whose tokens are white over given texts:

        w(h) = (C + ridge tr(C) / D)^(-1/2) (h - m),        m, C mean and covariance of the tokens h of those texts

    A frozen encoder tells some words apart by much larger distances than others, which says how easily its own task
    told them apart, not what they mean: `scenes-text` puts colours some six times as far apart as shapes. A network
    that reads such tokens learns the large directions long before the small ones; after whitening all begin alike.
    Padding stays zero. `pool` takes white tokens back to h first, so that the pooled vector is the encoder's.

    Args:
        encoder: whose tokeniser and network these are; `fit` finds m and C, which are 0 and 1 at first.

    Raises:
        ValueError: an encoder that is white already.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, encoder: TextEncoder) -> None:
        if isinstance(encoder, Whitened):
            raise ValueError("encoder: is white already; give the encoder that it was made of")
        super().__init__(encoder.tokeniser, encoder.network)
        example = _example(encoder)
        self.register_buffer("mean", example.new_zeros(self.features))
        self.register_buffer("matrix", torch.eye(self.features).to(example))

    @classmethod
    def fit(cls, encoder: TextEncoder, texts: Sequence[str]) -> Whitened:
        """White over these texts, or over as many of them, evenly spread, as tell the covariance.

        Raises:
            ValueError: no texts, or an encoder that is white already.
        """
        if not len(texts):
            raise ValueError("texts: expected at least one, got none")
        made, count = cls(encoder), min(len(texts), TEXTS)
        with torch.no_grad():
            ids = encoder.tokenise([texts[i * len(texts) // count] for i in range(count)])
            found = encoder(ids.to(made.mean.device))
        tokens = found["tokens"][found["mask"]].double()
        values, axes = torch.linalg.eigh(tokens.T.cov(correction=0))
        scale = (values.clamp(min=0) + RIDGE * values.mean().clamp(min=1e-12)).rsqrt()
        made.mean.copy_(tokens.mean(0))
        made.matrix.copy_((axes * scale) @ axes.T)
        return made

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """White tokens (B, L, D); zeros where the mask is false."""
        return self._white(super().encode(embeddings, mask), mask)

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The encoder's vector (B, P) of white tokens."""
        back = torch.linalg.inv(self.matrix.double()).to(tokens)
        return super().pool((tokens @ back + self.mean) * mask[..., None], mask)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """{"tokens": (B, L, D), "mask": (B, L), "pooled": (B, P)} of ids (B, L)."""
        mask = self.mask(ids)
        tokens = super().encode(self.embed(ids), mask)
        pooled = super().pool(tokens, mask)  # what `pool` finds, without the way there and back
        return {"tokens": self._white(tokens, mask), "mask": mask, "pooled": pooled}

    def _white(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return (tokens - self.mean) @ self.matrix * mask[..., None]


def _example(encoder: TextEncoder) -> Tensor:
    """One of the encoder's numbers: their precision and device."""
    return next(chain(encoder.parameters(), encoder.buffers()), torch.empty(0))

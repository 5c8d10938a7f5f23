"""Training data of a cascade's second stage: each sample beside what the first stage makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ornstein.core import Condition, Losses, Noise, Objective

from .batch import condition_of
from .denoising import Denoising

__all__ = ["Refinement"]


class Refinement(Objective):
    """The loss of an image given its own reconstruction, decode(z) with z ~ q(z | x) drawn anew for every step
    (DiffuseVAE, Pandey et al. 2022, 2201.00308).

    Codes of new images come from a prior instead: the mismatch that a prior fitted to the codes repairs.

    Args:
        codec: a trained `spaces.AutoencoderCodec` of kind "kl"; frozen, and not saved with the model.
        objective: the loss; `Denoising()` if None.
        field: the condition field that is told the reconstruction: "anchor" of `processes.Shifted`, or the one that
            `networks.Concatenated` reads.
    """

    def __init__(self, codec: Any, objective: Objective | None = None, field: str = "anchor") -> None:
        super().__init__()
        self.codec, self.field = codec, field
        self.objective = Denoising() if objective is None else objective
        self.supplies = frozenset({field})

    @property
    def references(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """The codec, and those of the objective."""
        return self.codec, *self.objective.references

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        with torch.no_grad():
            shown = self.codec.reconstructed(self.codec.law(batch["x_0"]).sample(noise.fold("code")))
        given = (condition_of(batch) or Condition()).replace(**{self.field: shown})
        losses: Losses = self.objective(model, {**batch, "condition": given}, noise)
        return losses

"""Samples as their own condition: what autoencoding by denoising trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ornstein.core import Condition, Losses, Noise, Objective

from .batch import condition_of

__all__ = ["OwnCondition"]


class OwnCondition(Objective):
    """An objective under which the model is also told the clean sample, in a condition field of this name.

    It is told the clean sample and never the noisy one: an encoder behind the field then learns what of x_0 the noise
    hides. Drop nothing in the objective unless the model is to work without the field as well.

    Args:
        objective: such as `Denoising(drop=0.0)`.
        field: of the condition.
    """

    def __init__(self, objective: Objective, field: str = "image") -> None:
        super().__init__()
        self.objective, self.field = objective, field
        self.supplies = frozenset({field})

    @property
    def references(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """Those of the objective."""
        return self.objective.references

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        condition = condition_of(batch) or Condition()
        losses: Losses = self.objective(
            model, {**batch, "condition": condition.replace(**{self.field: batch["x_0"]})}, noise
        )
        return losses

"""What a model is trained on: a loss for every sample, and what by nature sees the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .noise import Noise
from .spec import Module

__all__ = ["Losses", "Objective"]


class Losses(NamedTuple):
    """sample: (B,) what is minimised in the mean; named: parts of it, (B,) each, for the log; batch: scalars."""

    sample: Tensor
    named: dict[str, Tensor]
    batch: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The number to differentiate: mean over samples plus the batch's terms."""
        total = self.sample.mean()
        for term in self.batch.values():
            total = total + term
        return total


class Objective(Module):
    """objective(model, batch, noise) -> Losses.

    A batch is a record: `x_0` (a tree), `condition` (or None), and where they exist `time` (to evaluate the
    loss at, in place of drawn times), `level` (the time at which each item itself sits) and `weight` (B,).

    Attributes:
        references: frozen or averaged networks, neither optimised nor saved.
        fields: names of what it reads from the data beside the model's own fields.
        supplies: names of condition fields that it makes in every batch.
        estimates: "velocity" where what it trains is no posterior mean, see `Denoiser`.
    """

    references: Sequence[nn.Module] = ()
    fields: frozenset[str] = frozenset()
    supplies: frozenset[str] = frozenset()
    estimates: str = "posterior"

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        raise NotImplementedError

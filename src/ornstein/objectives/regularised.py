"""How an objective takes further terms, and terms that look at what the loss of the data has seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ornstein.core import Losses, Noise, Objective
from ornstein.networks.taps import tapped

from .denoising import Denoising, Seen

__all__ = ["Regularised", "Term"]


class Term(Objective):
    """A term of `Regularised` on the very states, times and posteriors of the data's loss: no further network call.

    A subclass gives `of`, its weight included. Called alone it draws its own: states as of `Denoising(drop=0)`.

    Attributes:
        layers: names of modules of `model.network` whose outputs it finds in `seen.features`.
    """

    layers: Sequence[str] = ()

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The term of one batch, alone."""
        return self.of(model, _seen(Denoising(drop=0.0), model, batch, noise, self.layers), noise)

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """The term, of what was seen."""
        raise NotImplementedError


class Regularised(Objective):
    """An objective plus terms that see the batch: losses.batch gains what each term adds.

    A `Term` shares the data's network call where the objective is `Denoising` or one of its kind.

    Args:
        objective: the loss of the data.
        terms: {name: term}, where term(model, batch, noise) -> Losses, its weight included.

    Raises:
        ValueError: no terms.
    """

    def __init__(self, objective: Objective, terms: dict[str, Objective]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("terms: expected at least one, as {name: term}")
        self.objective, self.terms = objective, nn.ModuleDict(terms)

    @property
    def references(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """Those of the objective and of all terms."""
        parts: list[Any] = [self.objective, *self.terms.values()]
        return tuple(reference for part in parts for reference in part.references)

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        sharing = {k: v for k, v in self.terms.items() if isinstance(v, Term)}
        if not isinstance(self.objective, Denoising):
            losses, found = self.objective(model, batch, noise), {}
        else:
            layers = [name for term in sharing.values() for name in term.layers]
            seen = _seen(self.objective, model, batch, noise, layers)
            losses = self.objective.judged(model, seen, batch.get("weight"))
            found = {k: term.of(model, seen, noise.fold(k)) for k, term in sharing.items()}
        for name, term in self.terms.items():
            if name not in found:
                found[name] = term(model, batch, noise.fold(name))
        added = {name: found[name].total for name in self.terms}
        return losses._replace(batch={**losses.batch, **added})


def _seen(
    objective: Denoising, model: Any, batch: dict[str, Any], noise: Noise, layers: Sequence[str]
) -> Seen:
    """What the objective sees, with the outputs of these layers."""
    if not layers:
        return objective.seen(model, batch, noise)
    with ExitStack() as stack:
        try:
            features = stack.enter_context(tapped(model.network, dict.fromkeys(layers)))
        except ValueError as error:
            raise ValueError(f"layer: {error}") from error
        return objective.seen(model, batch, noise)._replace(features=features)


def nothing_per_sample(seen: Seen) -> torch.Tensor:
    """(B,) zeros, for a term that only the batch has."""
    return torch.zeros(len(seen.t), dtype=seen.posterior.mean.dtype, device=seen.t.device)

"""Several modalities learned by one network: denoising, and the likelihood of every head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Noise, Posterior, Tree, align, sum_event

from .batch import condition_of
from .denoising import Denoising, Seen

__all__ = ["Heads"]


class Heads(Denoising):
    """denoising + sum_i weight_i E_t[-log p(x_i | z_t)]: the bound of MT-Diffusion (Chen et al. 2024, 2407.17571).

    A categorical head's term is its cross-entropy, a Gaussian one's |x_i - mean_i|^2 / dim. The modalities x_i are
    the batch's fields of the heads' names, which the model is not shown: it sees z_t, at the very time and noise of the
    denoising loss. Under `Aggregated` they are encoded and added to the chain. Rows in which a modality is absent say
    nothing of its head, and nothing is added to theirs. Without heads this is `Denoising`.

    Args:
        weights: {head: weight}, at least 0.
        **options: those of `Denoising`.

    Raises:
        ValueError: a negative weight; when called, a head that the model has not, or a batch without its field.
    """

    def __init__(self, weights: dict[str, float], **options: Any) -> None:
        super().__init__(**options)
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"weights[{name!r}]: expected a number of at least 0, got {weight}")
        self.weights, self.heads = dict(weights), frozenset(weights)
        self.fields = Denoising.fields | self.heads

    def seen(self, model: Any, batch: dict[str, Any], noise: Noise) -> Seen:
        """The batch noised, what it is made of added to the chain."""
        given = condition_of(batch) or Condition()
        lacking = sorted(self.heads - set(given))
        if lacking:
            raise ValueError(f"batch: lacks the field {lacking[0]!r}, which a head is to be compared with")
        aggregate = getattr(model, "aggregate", None)
        if aggregate is not None:
            given = given.replace(**{model.process.anchor_field: self._added(aggregate, given)})
        return super().seen(model, {**batch, "condition": given or None}, noise)

    def _added(self, aggregate: Any, given: Condition) -> Tensor:
        """What the modalities are encoded as; 0 in rows that lack one of them."""
        y: Tensor = aggregate(given)
        whole = [given.present[k] for k in getattr(aggregate, "encoders", self.heads)]
        return torch.where(align(torch.stack(whole).all(0), y), y, 0.0) if whole else y

    def undropped(self, model: Any) -> frozenset[str]:
        """The modalities as well: the model is not told them, so whether they are there is what the data say."""
        return super().undropped(model) | self.heads

    def predicted(
        self, model: Any, x_t: Tree, t: Any, condition: Condition | None, noise: Noise
    ) -> Posterior:
        """What the model says of the states alone: neither the modalities nor their encoding are told."""
        told = condition and condition.without(*self.heads, getattr(model.process, "anchor_field", ""))
        return super().predicted(model, x_t, t, told or None, noise)

    def errors(self, model: Any, process: Any, seen: Seen) -> dict[str, Tensor]:
        """Those of the state, and every head's."""
        heads = seen.posterior.heads or {}
        missing = sorted(self.heads - set(heads))
        if missing:
            raise ValueError(f"weights: the model has no head {missing[0]!r}; it has {sorted(heads)}")
        own = {k: w * _surprise(model, k, heads[k], seen.condition) for k, w in self.weights.items()}
        return {**super().errors(model, process, seen), **own}


def _surprise(model: Any, name: str, output: Tensor, condition: Any) -> Tensor:
    """-log p of the modality, (B,), 0 where it is absent; of a Gaussian head without what is no matter of the mean."""
    target: Tensor = condition[name]
    if model.likelihoods[name] == "categorical":
        own = -output.gather(1, target.unsqueeze(1)).squeeze(1)
    else:
        own = sum_event((output - target) ** 2) / target[0].numel()
    return torch.where(condition.present[name], own, 0.0)

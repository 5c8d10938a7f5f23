"""Several modalities learned by one network: denoising, and the likelihood of every head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ornstein.core import Condition, Noise, Posterior, Tree, sum_event

from .denoising import Denoising, Seen

__all__ = ["Heads"]


class Heads(Denoising):
    """denoising + sum_i weight_i E_t[-log p(x_i | z_t)]: the bound of MT-Diffusion (Chen et al. 2024, 2407.17571).

    A categorical head's term is its cross-entropy, a Gaussian one's |x_i - mean_i|^2 / dim. The modalities x_i are
    the batch's fields of the heads' names, which the model is not shown: it sees z_t, at the very time and noise of the
    denoising loss. Under `Aggregated` they are encoded and added to the chain. Without heads this is `Denoising`.

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
        self.weights, self.fields = dict(weights), frozenset(weights)

    def seen(self, model: Any, batch: dict[str, Any], noise: Noise) -> Seen:
        """The batch noised, what it is made of added to the chain."""
        given = batch.get("condition") or Condition()
        lacking = sorted(self.fields - set(given))
        if lacking:
            raise ValueError(f"batch: lacks the field {lacking[0]!r}, which a head is to be compared with")
        aggregate = getattr(model, "aggregate", None)
        if aggregate is not None:
            given = given.replace(**{model.process.anchor_field: aggregate(given)})
        return super().seen(model, {**batch, "condition": given or None}, noise)

    def predicted(
        self, model: Any, x_t: Tree, t: Any, condition: Condition | None, noise: Noise
    ) -> Posterior:
        """What the model says of the states alone: neither the modalities nor their encoding are told."""
        hidden = self.fields | {getattr(model.process, "anchor_field", "")}
        return super().predicted(model, x_t, t, _without(condition, hidden), noise)

    def errors(self, model: Any, process: Any, seen: Seen) -> dict[str, Tensor]:
        """Those of the state, and every head's."""
        heads = seen.posterior.heads or {}
        missing = sorted(self.fields - set(heads))
        if missing:
            raise ValueError(f"weights: the model has no head {missing[0]!r}; it has {sorted(heads)}")
        own = {k: w * _surprise(model, k, heads[k], seen.condition) for k, w in self.weights.items()}
        return {**super().errors(model, process, seen), **own}


def _without(condition: Condition | None, hidden: Iterable[str]) -> Condition | None:
    if condition is None:
        return None
    told = {k: v for k, v in condition.items() if k not in hidden}
    return Condition(told, {k: condition.present[k] for k in told}) if told else None


def _surprise(model: Any, name: str, output: Tensor, condition: Any) -> Tensor:
    """-log p of the modality, (B,); of a Gaussian head without what does not depend on the mean."""
    target: Tensor = condition[name]
    if model.likelihoods[name] == "categorical":
        return -output.gather(1, target.unsqueeze(1)).squeeze(1)
    return sum_event((output - target) ** 2) / target[0].numel()

"""Noise in training only: on the embedding of the condition, and on the network's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.conditions import PerturbEmbedding
from ornstein.core import AffineProcess, Condition, Losses, Noise, Objective, Posterior, align
from ornstein.networks.embedding import TokenEmbedding

from .batch import condition_of
from .denoising import Denoising

__all__ = ["InputPerturbation", "Perturbed"]


class Perturbed(Objective):
    """An objective under which the model's condition embeddings are perturbed: CEP (Chen et al. 2024, 2405.20494).

    What a network looks up (labels, tokens: its `TokenEmbedding` tables) is perturbed behind the table, and condition
    fields that are embeddings already (floating, of the model's own fields) as they are; of a text, its `tokens`. All
    of it is drawn from the objective's noise, by row. Rows whose condition is dropped read the network's null vector,
    which stays exact.

    Args:
        objective: such as `Denoising()`.
        perturbation: what is added.

    Raises:
        ValueError: in use, where a model has an integer condition but no table that could be reached.
    """

    def __init__(self, objective: Objective, perturbation: PerturbEmbedding) -> None:
        super().__init__()
        self.objective, self.perturbation = objective, perturbation

    @property
    def references(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """Those of the objective."""
        return self.objective.references

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The objective's losses; untouched where the model is not in training."""
        condition, source = condition_of(batch), noise.fold("embedding")
        if not condition or not model.training:
            found: Losses = self.objective(model, batch, noise)
            return found
        own = [name for name in condition if name in model.fields - model.process.fields]
        features = [name for name in own if _vectors(name, condition[name]).is_floating_point()]
        shifted = {k: self._perturbed(condition[k], source.fold(k)) for k in features}
        record = {**batch, "condition": Condition({**condition, **shifted}, condition.present)}
        with self._looked_up(model, source) as seen:
            losses: Losses = self.objective(model, record, noise)
        if len(features) < len(own) and not seen:
            raise ValueError(
                f"Perturbed: {type(model).__name__} looked its condition up in no TokenEmbedding that can be seen "
                "(is the network compiled?); nothing would be perturbed"
            )
        return losses

    def _perturbed(self, value: Any, noise: Noise) -> Any:
        """The field's vectors perturbed, and what is beside them as it was."""
        if not isinstance(value, dict):
            return self.perturbation(value, noise)
        return {**value, "tokens": self.perturbation(value["tokens"], noise)}

    @contextmanager
    def _looked_up(self, model: Any, noise: Noise) -> Iterator[list[str]]:
        """Within the context, every table of the model gives perturbed rows; the names of those that were read."""
        seen: list[str] = []

        def hook(name: str) -> Any:
            def perturb(table: nn.Module, given: Any, output: Tensor) -> Tensor:
                seen.append(name)
                return self.perturbation(output, noise.fold(name))

            return perturb

        tables = [(k, m) for k, m in model.named_modules() if isinstance(m, TokenEmbedding)]
        handles = [table.register_forward_hook(hook(name)) for name, table in tables]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def _vectors(name: str, value: Any) -> Tensor:
    """What of a field could be embeddings: the field, or of a text {"tokens", "mask"} its tokens."""
    found = value.get("tokens") if isinstance(value, dict) else value
    if not isinstance(found, Tensor):
        kind = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{name}: Perturbed takes a tensor, or {{'tokens': ..., 'mask': ...}}; got {kind}")
    return found


class InputPerturbation(Denoising):
    """`Denoising` where the network is shown x_t + gamma sigma n and its output is judged as if it had seen x_t:

        |F(x_t + gamma sigma n, t) - target(x_0, z, t)|^2

    input perturbation (Ning et al. 2023, 2301.11706), a baseline of 2405.20494. In the terms of the posterior mean:
    what D owes to its input beside the network's output is read off at x_t.

    Args:
        gamma: 0 is `Denoising`; 0.1 in the paper.
        **options: of `Denoising`.

    Raises:
        ValueError: a negative gamma; in use, a process that is not affine.
    """

    def __init__(self, gamma: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        if not gamma >= 0:
            raise ValueError(f"gamma: expected at least 0, got {gamma}")
        self.gamma = float(gamma)

    def predicted(
        self, model: Any, x_t: Tensor, t: Any, condition: Condition | None, noise: Noise
    ) -> Posterior:
        """The posterior whose network output is that at the perturbed states."""
        if not isinstance(model.process, AffineProcess):
            raise ValueError(f"InputPerturbation: {type(model.process).__name__} has no Gaussian noise")
        n = noise.fold("input").normal(x_t)
        shift = self.gamma * align(torch.as_tensor(model.process.at(t).sigma), n) * n
        posterior: Posterior = model(x_t + shift, t, condition)
        return posterior.with_mean(posterior.mean - _read(model, shift, t))


def _read(model: Any, shift: Tensor, t: Any) -> Tensor:
    """How far the mean moves with the state at the same network output."""
    if model.prediction == "mean":
        return torch.zeros_like(shift)
    if model.prediction != "edm":
        free: Tensor = model.process.mean_from(model.prediction, shift, torch.zeros_like(shift), t)
        return free
    level = model.process.at(t)
    kept = level.alpha * model.scale**2 / (level.alpha**2 * model.scale**2 + level.sigma**2)
    return align(kept, shift) * shift

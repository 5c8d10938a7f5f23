"""Search towards high reward, as a consumer of the sampler's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Denoiser, Sampler, Step, Tree, batch_size, tree_map

__all__ = ["BestOf"]


class BestOf:
    """At every step, the best of M candidates that share one denoiser call (SVDD with a greedy choice, Li et
    al. 2024, 2408.08252).

    The candidates of a deterministic step coincide, so there only the draw from the prior is chosen: with a
    deterministic solver this is best-of-M of the start. Greedy choice does not sample the tilted law.

    Args:
        value: value(x, t, condition) -> (B,), such as `rewards.PosteriorValue`.
        candidates: M >= 1.
    """

    def __init__(self, value: Callable[[Tree, Any, Condition | None], Tensor], candidates: int = 4) -> None:
        if not isinstance(candidates, int) or candidates < 1:
            raise ValueError(f"candidates: expected an integer of at least 1, got {candidates!r}")
        self.value, self.candidates = value, candidates

    def steps(self, sampler: Sampler, model: Denoiser, start: int | Tree, **options: Any) -> Iterator[Step]:
        """The sampler's steps, each with its `next` chosen."""
        for step in sampler.steps(model, start, **options):
            if not getattr(step.distribution, "deterministic", False):
                step.next = self._best(step)
            yield step

    def __call__(self, sampler: Sampler, model: Denoiser, start: int | Tree, **options: Any) -> Tree:
        """Run to the end; the arguments of `Sampler.steps`."""
        for step in self.steps(sampler, model, start, **options):
            step.next  # noqa: B018  a step is drawn when its next state is read
        return step.readout()

    def _best(self, step: Step) -> Tree:
        m = self.candidates
        drawn = step.distribution.sample(step.noise, (m,))
        flat = tree_map(lambda x: x.flatten(0, 1), drawn)
        n = batch_size(flat) // m
        rows = torch.arange(n).repeat(m)
        condition = step.condition.rows(rows) if step.condition else step.condition
        with torch.set_grad_enabled(step.grad):
            chosen = self.value(flat, step.s, condition).reshape(m, n).argmax(0)
        return tree_map(lambda x: x[chosen, torch.arange(n, device=x.device)], drawn)

"""What to evaluate at each step of a guided run, written down beforehand, and searched by gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import (
    Condition,
    Denoiser,
    Posterior,
    Sampler,
    Step,
    Time,
    Tree,
    leaves,
    suggest,
    sum_event,
)

from .classifier_free import ClassifierFree

__all__ = ["CHOICES", "GuidancePolicy", "PolicySearch", "search_policy"]

CHOICES = ("unconditional", "conditional", "guided")
COSTS = (1.0, 1.0, 2.0)  # evaluations of each


class GuidancePolicy(ClassifierFree):
    """Classifier-free guidance with a choice for every step (Castillo et al. 2023, 2312.12487).

    Args:
        scale: guidance scale where a step is "guided".
        choices: "unconditional", "conditional" or "guided" for every row of the grid.
        fields: names of the fields to drop; all, if none is named.

    Raises:
        ValueError: an unknown choice; in a run, a grid with more rows than choices.
    """

    by_row = True

    def __init__(self, scale: float, choices: Sequence[Any], fields: tuple[str, ...] = ()) -> None:
        super().__init__(scale, fields)
        self.choices = list(choices)
        for choice in self.choices:
            self.check_choice(choice)

    def check_choice(self, choice: Any) -> None:
        """Refuse what is no choice."""
        if choice not in CHOICES:
            raise ValueError(suggest(str(choice), CHOICES, "choice"))

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """What was chosen for this step; without a step, full guidance."""
        if step is None or not self.names(condition):
            return super().posterior(denoiser, x, t, condition, step)
        choice = self.choice_of(step)
        if choice == "unconditional":
            return denoiser(x, t, self.null(condition), step)
        if choice == "conditional":
            return denoiser(x, t, condition, step)
        return self.chosen(choice, denoiser, x, t, condition, step)

    def chosen(
        self, choice: Any, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step
    ) -> Posterior:
        """A step with both branches."""
        return self.mixed(*self.branches(denoiser, x, t, condition, step))

    def choice_of(self, step: Step) -> Any:
        """The choice for the step's row.

        Raises:
            ValueError: there is none, or the samples are at several rows.
        """
        index = step.index
        if isinstance(index, Tensor):
            if len(index.unique()) > 1:
                raise ValueError(f"{type(self).__name__} needs one row of the grid for all samples")
            index = int(index[0])
        if not 0 <= index < len(self.choices):
            raise ValueError(
                f"{type(self).__name__}: has choices for {len(self.choices)} rows, and the grid has row {index}"
            )
        return self.choices[index]


class PolicySearch(NamedTuple):
    """The policy found, the probabilities (T, 3) of `CHOICES` it was read off, and the loss of every iteration."""

    policy: GuidancePolicy
    probabilities: Tensor
    losses: list[float]


class _Relaxed(ClassifierFree):
    """All choices at once, weighted: D = p_u D(null) + p_c D(condition) + p_g (D(null) + scale (...))."""

    def __init__(self, scale: float, fields: tuple[str, ...], probabilities: Tensor) -> None:
        super().__init__(scale, fields)
        self.probabilities = probabilities

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        assert step is not None
        _, conditional, guided = self.probabilities[step.index].unbind()
        share = conditional + self.scale * guided
        return self.mixed(*self.branches(denoiser, x, t, condition, step), share)


def search_policy(
    sampler: Sampler,
    denoiser: Denoiser,
    start: int | Tree,
    *,
    scale: float = 2.0,
    cost: float = 0.01,
    fields: tuple[str, ...] = (),
    iterations: int = 100,
    learning_rate: float = 0.1,
    seed: int = 0,
    **condition: Any,
) -> PolicySearch:
    """A choice for every step, by gradient through the sampler.

    The choices are relaxed to p = softmax(logits), (T, 3), and

        mean |x(p) - x(guided)|^2 / dim + cost * (evaluations of p) / T

    is minimised by Adam, both runs from the same noise; the likeliest choices are the policy. The loss details are
    our own: the paper states the principle.

    Args:
        sampler: a solver of one call a row.
        denoiser: the model that is guided; its parameters are not changed.
        start: a count of samples or a state: what the policy is fitted on. Judge it on others.
        scale: guidance scale of the full result.
        cost: price of one more evaluation in every step, in units of the squared distance.
        fields: names of the fields to drop; all, if none is named.
        iterations: steps of Adam, each two differentiated runs' worth of evaluations.
        learning_rate: of Adam.
        seed: of the noise.
        **condition: condition fields.
    """
    full = sampler(ClassifierFree(scale, fields)(denoiser), start, seed=seed, **condition)
    rows = len(sampler.program(denoiser.process))
    logits = torch.zeros(rows, 3, dtype=torch.float64, requires_grad=True)
    costs = torch.tensor(COSTS, dtype=torch.float64)
    optimizer, losses = torch.optim.Adam([logits], learning_rate), []
    for _ in range(iterations):
        probabilities = logits.softmax(1)
        relaxed = _Relaxed(scale, fields, probabilities)(denoiser)
        found = sampler(relaxed, start, seed=seed, grad=True, **condition)
        loss = squared_distance(found, full).mean() + cost * (probabilities @ costs).mean()
        (logits.grad,) = torch.autograd.grad(loss, logits)  # of the model's own parameters none is made
        optimizer.step()
        losses.append(loss.item())
    final = logits.detach().softmax(1)
    choices = [CHOICES[i] for i in final.argmax(1).tolist()]
    return PolicySearch(GuidancePolicy(scale, choices, fields), final, losses)


def squared_distance(x: Tree, y: Tree) -> Tensor:
    """|x - y|^2 / dim of every sample, (B,)."""
    gaps = [a - b for a, b in zip(leaves(x), leaves(y), strict=True)]
    total = torch.stack([sum_event(gap**2) for gap in gaps]).sum(0)
    return total / sum(gap[0].numel() for gap in gaps)

"""Guidance whose unconditional branch is predicted from the trajectory's past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Posterior,
    Sampler,
    Step,
    Time,
    Tree,
    accumulate,
    scaled,
)

from .classifier_free import ClassifierFree
from .policy import GuidancePolicy

__all__ = [
    "GuidanceTrajectories",
    "LinearAdaptiveGuidance",
    "fit_linear_guidance",
    "linear_guidance_residuals",
    "record_guidance",
]


class LinearAdaptiveGuidance(GuidancePolicy):
    """LinearAG (Castillo et al. 2023, 2312.12487): at some steps the unconditional noise is not evaluated but

        noise(x_t, null) = sum_i c_i noise(x_i, condition) + sum_j u_j noise(x_j, null),

    i over the steps so far, the current one included, and j over the earlier steps at which it was evaluated. The
    coefficients are a few numbers for a model, a grid and a scale, fitted once by `fit_linear_guidance`. A guided
    step costs 2 evaluations, a predicted or a conditional one 1. Negative conditions keep working.

    Args:
        scale: guidance scale.
        coefficients: for every row of the grid "guided", "conditional", or the pair of lists (c, u) of a predicted
            one, oldest step first.
        fields: names of the fields to drop; all, if none is named.

    Raises:
        ValueError: lists of a length that the past does not have, or a process without predicted noise.
    """

    remembers = True

    def __init__(self, scale: float, coefficients: Sequence[Any], fields: tuple[str, ...] = ()) -> None:
        super().__init__(scale, coefficients, fields)
        for i, choice in enumerate(self.choices):
            past = i + 1, self.choices[:i].count("guided")
            if not isinstance(choice, str) and (len(choice[0]), len(choice[1])) != past:
                raise ValueError(
                    f"coefficients[{i}]: expected {past[0]} of conditional and {past[1]} of unconditional noises, got "
                    f"{len(choice[0])} and {len(choice[1])}"
                )

    def check_choice(self, choice: Any) -> None:
        """A name of what to evaluate, or a pair of lists."""
        if choice in ("guided", "conditional"):
            return
        if isinstance(choice, str):
            raise ValueError(
                f"coefficients: expected 'guided', 'conditional' or a pair of lists, got {choice!r}"
            )
        if len(choice) != 2:
            raise ValueError(f"coefficients: expected a pair of lists, got {choice!r}")

    def check(self, denoiser: Denoiser) -> None:
        """Noises of several times are added, so there must be one process."""
        super().check(denoiser)
        if not isinstance(denoiser.process, AffineProcess):
            raise ValueError(
                f"LinearAdaptiveGuidance adds predicted noises, which {type(denoiser.process).__name__} has not"
            )

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """What was chosen for this step; a conditional step before a predicted one is remembered too."""
        found = super().posterior(denoiser, x, t, condition, step)
        if step is not None and self.names(condition) and self.choice_of(step) == "conditional":
            self._remember(step, found)
        return found

    def chosen(
        self, choice: Any, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step
    ) -> Posterior:
        """Both branches, the second evaluated or predicted."""
        if choice == "guided":
            with_, without = self.branches(denoiser, x, t, condition, step)
            self._remember(step, with_, without)
            return self.mixed(with_, without)
        with_ = denoiser(x, t, condition, step)
        noises = self._remember(step, with_)
        process: Any = denoiser.process
        mean = process.mean_from("noise", x, _combined(choice, noises), t, condition)
        return self.mixed(with_, with_.with_mean(mean, evaluations=0))

    def _remember(self, step: Step, *branches: Posterior) -> tuple[tuple[Tree, ...], tuple[Tree, ...]]:
        """All noises so far, of the conditional and of the unconditional branch, oldest first."""
        conditional, unconditional = step.memory.get(self, ((), ()))
        conditional = (*conditional, branches[0].noise)
        unconditional = (*unconditional, *(branch.noise for branch in branches[1:]))
        step.memory[self] = conditional, unconditional
        return conditional, unconditional


def _combined(weights: Sequence[Sequence[float]], noises: Sequence[Sequence[Tensor]]) -> Tensor:
    if [len(w) for w in weights] != [len(v) for v in noises]:
        raise ValueError(
            f"coefficients: for {' and '.join(str(len(w)) for w in weights)} noises, but this run has seen "
            f"{' and '.join(str(len(v)) for v in noises)}; use the grid they were fitted on"
        )
    terms = [
        (float(w), v) for ws, vs in zip(weights, noises, strict=True) for w, v in zip(ws, vs, strict=True)
    ]
    total: Tensor = scaled(*terms[0])
    for weight, noise in terms[1:]:
        total = accumulate(total, weight, noise)
    return total


class GuidanceTrajectories(NamedTuple):
    """Predicted noises of fully guided runs: conditional and unconditional, each (T, N, ...)."""

    conditional: Tensor
    unconditional: Tensor


class _Recording(ClassifierFree):
    """Classifier-free guidance that keeps the noises of both branches; good for one run."""

    def __init__(self, scale: float, fields: tuple[str, ...]) -> None:
        super().__init__(scale, fields)
        self.noises: list[tuple[Tensor, Tensor]] = []

    def mixed(self, with_: Posterior, without: Posterior, scale: Any = None) -> Posterior:
        self.noises.append((with_.noise, without.noise))
        return super().mixed(with_, without, scale)


def record_guidance(
    sampler: Sampler,
    denoiser: Denoiser,
    start: int | Tree,
    *,
    scale: float = 2.0,
    fields: tuple[str, ...] = (),
    **options: Any,
) -> GuidanceTrajectories:
    """Run a sampler under full guidance and keep what both branches predicted.

    Args:
        sampler: a solver of one call a row.
        denoiser: the model that is guided.
        start: a count of samples or a state.
        scale: guidance scale; not 1, which has one branch.
        fields: names of the fields to drop; all, if none is named.
        **options: `seed` and condition fields.

    Raises:
        ValueError: nothing was guided, or the grid has rows that call no model.
    """
    if not all(row.calls for _, row in sampler.program(denoiser.process)):
        raise ValueError(
            "record_guidance: steps are counted by rows of the grid, so each row must call the model once"
        )
    recording = _Recording(scale, fields)
    sampler(recording(denoiser), start, **options)
    if not recording.noises:
        raise ValueError(
            "record_guidance: no step had two branches; give a condition, and a scale other than 1"
        )
    conditional, unconditional = zip(*recording.noises, strict=True)
    return GuidanceTrajectories(torch.stack(conditional), torch.stack(unconditional))


def fit_linear_guidance(trajectories: GuidanceTrajectories, plan: Sequence[str] | None = None) -> list[Any]:
    """The coefficients of `LinearAdaptiveGuidance`, by ordinary least squares for every predicted step.

    Args:
        trajectories: of fully guided runs, from `record_guidance`; a few hundred are plenty, since a step has at most
            2 T unknowns.
        plan: "guided", "predicted" or "conditional" for every step. By default guided and predicted in turn for the
            first half, conditional after it.

    Raises:
        ValueError: a plan of another length, or one that starts with a prediction.
    """
    steps = len(trajectories.conditional)
    plan = default_plan(steps) if plan is None else list(plan)
    if (
        len(plan) != steps
        or plan[0] == "predicted"
        or not set(plan) <= {"guided", "predicted", "conditional"}
    ):
        raise ValueError(
            f"plan: expected {steps} of 'guided', 'predicted' and 'conditional', the first not predicted; got {plan}"
        )
    fitted: list[Any] = []
    for i, choice in enumerate(plan):
        fitted.append(_fit(trajectories, fitted, i) if choice == "predicted" else choice)
    return fitted


def default_plan(steps: int) -> list[str]:
    """Guided and predicted in turn for the first half, conditional after it."""
    half = (steps + 1) // 2
    return [("guided", "predicted")[i % 2] if i < half else "conditional" for i in range(steps)]


def _design(trajectories: GuidanceTrajectories, before: Sequence[Any], i: int) -> tuple[Tensor, Tensor]:
    """The columns that step i may read (N D, k), and what it must give (N D,), in float64."""
    guided = [j for j, choice in enumerate(before[:i]) if choice == "guided"]
    columns = [*trajectories.conditional[: i + 1], *(trajectories.unconditional[j] for j in guided)]
    flat = torch.stack([column.double().flatten() for column in columns], 1)
    return flat, trajectories.unconditional[i].double().flatten()


def _fit(
    trajectories: GuidanceTrajectories, before: Sequence[Any], i: int
) -> tuple[list[float], list[float]]:
    columns, target = _design(trajectories, before, i)
    # of least norm, where columns are collinear; weights of noises far beyond 1 would only amplify errors
    solved = torch.linalg.lstsq(
        columns.cpu(), target.cpu().unsqueeze(1), rcond=1e-10, driver="gelsd"
    ).solution
    weights = solved[:, 0].tolist()
    return weights[: i + 1], weights[i + 1 :]


def linear_guidance_residuals(
    trajectories: GuidanceTrajectories, coefficients: Sequence[Any]
) -> list[float | None]:
    """|noise - prediction| / |noise| over trajectories, for every predicted step; None for the others.

    Measure it on trajectories that were not fitted.
    """
    found: list[float | None] = []
    for i, choice in enumerate(coefficients):
        if isinstance(choice, str):
            found.append(None)
            continue
        columns, target = _design(trajectories, coefficients, i)
        weights = torch.tensor([*choice[0], *choice[1]], dtype=columns.dtype, device=columns.device)
        found.append(float((columns @ weights - target).norm() / target.norm()))
    return found

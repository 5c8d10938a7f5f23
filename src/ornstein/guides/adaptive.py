"""Guidance that stops once the two branches agree."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Posterior,
    Step,
    Time,
    Tree,
    batch_size,
    leaves,
    sum_event,
    tree_map,
)

from .classifier_free import ClassifierFree

__all__ = ["AdaptiveGuidance", "agreement"]


class AdaptiveGuidance(ClassifierFree):
    """Classifier-free guidance until, sample by sample, the branches agree (Castillo et al. 2023, 2312.12487).

    After a call in which the predicted noises of a sample have the cosine

        gamma = <noise(condition), noise(null)> / (|noise(condition)| |noise(null)|) >= threshold

    all later steps of that sample evaluate the conditional model alone; the others are still guided. Each sample
    latches for itself, so that its result does not depend on its batch, and latched rows are left out of the
    unconditional call, so that the saving is real: k guided steps of N cost N + k evaluations.

    Any two noises agree at a high noise level, where both are x_t / sigma but for alpha (D' - D) / sigma: agreement
    counts from the half log-SNR `after` on. They agree again at a low one only where most directions of the data vary
    less than sigma: in full-dimensional data gamma tends to the cosine of the two scores, which may be anything.

    `posterior.heads["agreement"]` is gamma (B,), 1 in rows that have latched. Without a step there is no past, and
    guidance is full.

    Args:
        scale: guidance scale, as in `ClassifierFree`.
        threshold: the cosine from which the branches agree; above 1 never.
        fields: names of the fields to drop in the second branch; all, if none is named.
        after: half log-SNR below which agreement does not count; -inf counts it from the first call.

    Raises:
        ValueError: the model has no condition to drop, or a state without predicted noise.
    """

    remembers = True

    def __init__(
        self,
        scale: float = 2.0,
        threshold: float = 0.99,
        fields: tuple[str, ...] = (),
        after: float = -1.0,
    ) -> None:
        super().__init__(scale, fields)
        if math.isnan(threshold) or math.isnan(after):
            raise ValueError(f"threshold, after: expected numbers, got {threshold} and {after}")
        self.threshold, self.after = float(threshold), float(after)

    def check(self, denoiser: Denoiser) -> None:
        """The branches are compared as predicted noises, which only affine processes have."""
        super().check(denoiser)
        check_affine(self, denoiser)

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """Two evaluations in the rows that are still guided, one in those that have latched."""
        if step is None or self.scale == 1.0 or not self.names(condition):
            return super().posterior(denoiser, x, t, condition, step)
        latched = step.memory.get(self)
        if latched is None:
            latched = torch.zeros(batch_size(x), dtype=torch.bool, device=leaves(x)[0].device)
        if bool(latched.all()):
            return denoiser(x, t, condition, step)
        with_, without = self._open_branches(denoiser, x, t, condition, step, latched)
        gamma = torch.where(latched, 1.0, agreement(with_, without))
        counts = _counts(denoiser.process, t, self.after).to(latched.device)
        step.memory[self] = latched | ((gamma >= self.threshold) & counts)
        guided = self.mixed(with_, without, torch.where(latched, 1.0, self.scale))
        guided.heads = {**(guided.heads or {}), "agreement": gamma}
        return guided

    def _open_branches(
        self,
        denoiser: Denoiser,
        x: Tree,
        t: Time,
        condition: Condition | None,
        step: Step,
        latched: Tensor,
    ) -> tuple[Posterior, Posterior]:
        """Both posteriors; in latched rows the second is the first, and was not evaluated."""
        if not bool(latched.any()):
            return self.branches(denoiser, x, t, condition, step)
        with_ = denoiser(x, t, condition, step)
        both = denoiser.where(~latched, x, t, self.null(condition), step, otherwise=with_)
        return with_.with_mean(with_.mean, evaluations=0), both  # whose evaluations include the first's


def agreement(first: Posterior, second: Posterior) -> Tensor:
    """The cosine (B,) between the predicted noises of two posteriors, over all entries and leaves of a state."""
    ours, theirs = ([_finite(v) for v in leaves(p.noise)] for p in (first, second))

    def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([sum_event(v * w) for v, w in zip(a, b, strict=True)]).sum(0)

    return inner(ours, theirs) / (inner(ours, ours) * inner(theirs, theirs)).sqrt()


def _finite(noise: Tensor) -> Tensor:
    return noise.nan_to_num(0.0, 0.0, 0.0)  # a leaf that is held clean has none


def check_affine(guide: Any, denoiser: Denoiser) -> None:
    """Refuse states without predicted noise.

    Raises:
        ValueError: a process, or a leaf of it, that is not affine.
    """
    parts = getattr(denoiser.process, "parts", None) or {"": denoiser.process}
    for name, part in parts.items():
        if not isinstance(part, AffineProcess):
            raise ValueError(
                f"{type(guide).__name__} compares predicted noises, which {type(part).__name__}"
                f"{f' (leaf {name!r})' if name else ''} has not; use ClassifierFree"
            )


def _counts(process: Any, t: Time, after: float) -> Tensor:
    """Whether agreement counts at t, (B,) or one for all rows; of a tree state, at its noisiest leaf."""
    if math.isinf(after):
        return torch.tensor(after < 0)
    clocks = leaves(tree_map(lambda c: torch.as_tensor(c, dtype=torch.float64), process.clock(t)))
    rows = [c.flatten(1).amin(1) if c.ndim > 1 else c for c in clocks]
    counts: Tensor = torch.stack(torch.broadcast_tensors(*rows)).amin(0) >= after
    return counts

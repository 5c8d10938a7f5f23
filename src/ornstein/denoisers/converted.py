"""One trained denoiser under another schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Guided,
    Posterior,
    Step,
    Time,
    Tree,
    scaled,
)

from .pretrained import inner_shape

__all__ = ["Converted"]

LOUDEST = -2.0  # half-log-SNR below which a source's end counts as noise


class Converted(Denoiser):
    """A denoiser of one affine process A read under another, B: the same network, no training.

    At equal log-SNR the states u = x - anchor_weight y differ by a factor only, so the posterior mean is the same:

        half_log_snr_A(t_A) = half_log_snr_B(t),    D(x, t) = D_A( (alpha_A / alpha_B) u + anchor_weight_A y, t_A )

    Where B goes beyond the levels of A, the source's end is asked instead, with the state at the source's own noise
    level: at time 1 of a flow (no signal at all) that is the prior of A. This is refused where A still shows the
    data at its end.

    Args:
        denoiser: trained or exact; guides go around the converted denoiser, not inside.
        process: the affine process B to run.

    Raises:
        ValueError: a process that is not affine, a guided denoiser, or B starts at more noise than A ever has while
            the half-log-SNR of A ends above -2.
    """

    process: AffineProcess
    shape = inner_shape

    def __init__(self, denoiser: Denoiser, process: AffineProcess) -> None:
        super().__init__()
        _check(denoiser, process)
        self.denoiser, self.process = denoiser, process
        self.estimates, self.fit = denoiser.estimates, denoiser.fit
        self.fields = denoiser.fields | denoiser.process.fields

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The source's posterior, of the same x_0, as one of this process."""
        return self._read(self.denoiser(*self._asked(x, t, condition), condition, step), x, t, condition)

    def many(
        self, x: Tree, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """In one call of the source, where it can and the state asked is the same under all conditions."""
        if self._source.anchored or self.process.anchored:
            return super().many(x, t, conditions, step)
        found = self.denoiser.many(*self._asked(x, t, None), conditions, step)
        return [self._read(p, x, t, c) for p, c in zip(found, conditions, strict=True)]

    def prepare(self, condition: Condition) -> Condition:
        """The source's."""
        return self.denoiser.prepare(condition)

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """The source's."""
        return self.denoiser.tokenise(name, words)

    def like(self, n: int) -> Tree:
        """The source's."""
        return self.denoiser.like(n)

    @property
    def _source(self) -> AffineProcess:
        process: AffineProcess = self.denoiser.process  # type: ignore[assignment]
        return process

    def _asked(self, x: Tensor, t: Time, condition: Condition | None) -> tuple[Tensor, Time]:
        """The source's state and time at this log-SNR."""
        source, half_log_snr = self._source, self.process.half_log_snr(t)
        time = _time(source, half_log_snr)
        ours, theirs = self.process.at(t), source.at(time)
        u = self.process.add_anchor(x, -ours.anchor, condition)
        u = scaled(_factor(half_log_snr, ours, theirs), u)
        return source.add_anchor(u, theirs.anchor, condition), time

    def _read(self, found: Posterior, x: Tensor, t: Time, condition: Condition | None) -> Posterior:
        kept: dict[str, Any] = {"heads": found.heads, "end": found.end, "evaluations": found.evaluations}
        return Posterior(self.process, x, t, found.mean, variance=found.variance, condition=condition, **kept)


def _factor(half_log_snr: Any, ours: Any, theirs: Any) -> Any:
    """alpha_A / alpha_B, by the ratio of sigmas where there is more noise than signal: equal, and never 0 / 0."""
    if not isinstance(half_log_snr, Tensor):
        above = half_log_snr >= 0 or ours.sigma == 0
        return theirs.alpha / ours.alpha if above and ours.alpha else _noise_factor(ours, theirs)
    above = half_log_snr >= 0
    alpha = theirs.alpha / torch.where(above, ours.alpha, 1.0)
    point = (ours.sigma == 0) & ~above  # there u = 0
    return torch.where(above, alpha, theirs.sigma / torch.where(above | point, 1.0, ours.sigma))


def _noise_factor(ours: Any, theirs: Any) -> float:
    return float(theirs.sigma / ours.sigma) if ours.sigma else 1.0


def _time(source: AffineProcess, half_log_snr: Any) -> Time:
    """The source's time at this level, or at its end where it has none so noisy."""
    last = float(source.half_log_snr(1.0))
    if isinstance(half_log_snr, Tensor):
        return source.time_at(half_log_snr.clamp(min=last)).clamp(0.0, 1.0)
    return 1.0 if half_log_snr <= last else min(max(source.time_at(half_log_snr), 0.0), 1.0)


def _check(denoiser: Denoiser, process: Any) -> None:
    if isinstance(denoiser, Guided):
        raise ValueError(
            "denoiser: convert the model first and guide the converted one: guide(Converted(...))"
        )
    for what, given in (("process", process), ("denoiser's process", denoiser.process)):
        if not isinstance(given, AffineProcess):
            raise ValueError(f"{what}: expected an affine process, got {type(given).__name__}")
    source: Any = denoiser.process
    last, start = float(source.half_log_snr(1.0)), float(process.half_log_snr(1.0))
    if start < last - 1e-9 and last > LOUDEST:
        level = f"sigma / alpha = {math.exp(-last):.3g}"
        raise ValueError(
            f"process: {type(process).__name__} starts at more noise than {type(source).__name__} ever has ({level} at "
            "its time 1), of which this denoiser knows nothing"
        )

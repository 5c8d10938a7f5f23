"""Classifier-free guidance."""

from __future__ import annotations

import math
from typing import Any

from ornstein.core import Condition, Denoiser, Guide, Guided, Posterior, Step, Time, Tree, mix

__all__ = ["ClassifierFree"]


class ClassifierFree(Guide):
    """D = D(null) + scale (D(condition) - D(null)), both in one network call (Ho and Salimans 2022,
    2207.12598).

    scale = 1 is the conditional model and 0 the unconditional one. For Gaussian data the guided flow does
    not reach the law tilted by the condition, for any scale but 0 and 1; it is a heuristic that trades
    variety for fidelity. On a discrete state the rule is that of the logits. `scale` here is 1 + w of the
    paper.

    Args:
        scale: guidance scale.
        fields: names of the fields to drop in the second branch; all, if none is named.
        interval: (low, high) in half log-SNR within which to guide (2404.07724); outside it the conditional
            model is called once.

    Raises:
        ValueError: the model has no condition to drop.
    """

    def __init__(
        self,
        scale: float = 2.0,
        fields: tuple[str, ...] = (),
        interval: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale: expected a finite number, got {scale}")
        if not interval[0] <= interval[1]:
            raise ValueError(f"interval: expected (low, high) in half log-SNR, got {interval}")
        self.scale, self.dropped, self.interval = float(scale), tuple(fields), interval

    def check(self, denoiser: Denoiser) -> None:
        """The model must read the fields that are dropped, and may be called twice."""
        inner, own = denoiser, type(self).__name__
        while isinstance(inner, Guided):
            if inner.guide.remembers:
                name = type(inner.guide).__name__
                raise ValueError(
                    f"{own} calls its model twice a step, and {name} keeps what it is told once: guide each "
                    f"model first and put {name} outside, as in {name}(...)({own}(s)(model))"
                )
            inner = inner.denoiser
        missing = set(self.dropped) - denoiser.fields
        if missing or not denoiser.fields:
            raise ValueError(
                f"{own}: drops {sorted(self.dropped) or 'the condition'}, but the model reads "
                f"{sorted(denoiser.fields) or 'no condition'}"
            )

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """The mixture of the two branches."""
        if not self.names(condition) or self.scale == 1.0 or not self._active(denoiser, t):
            return denoiser(x, t, condition, step)
        return self.mixed(*self.branches(denoiser, x, t, condition, step))

    def names(self, condition: Condition | None) -> list[str]:
        """The fields that are dropped, of those that the condition has."""
        return [f for f in self.dropped or (condition or {}) if condition and f in condition]

    def null(self, condition: Condition | None) -> Condition:
        """The condition of the unconditional branch."""
        assert condition is not None
        return condition.null(*self.names(condition))

    def branches(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> tuple[Posterior, Posterior]:
        """The conditional and the unconditional posterior, in one network call."""
        with_, without = denoiser.many(x, t, [condition, self.null(condition)], step)
        return with_, without

    def mixed(self, with_: Posterior, without: Posterior, scale: Any = None) -> Posterior:
        """without + scale (with - without), the scale being the guide's own or one for each row (B,)."""
        scale = self.scale if scale is None else scale
        return mix([with_, without], [scale, 1.0 - scale])

    def _active(self, denoiser: Denoiser, t: Time) -> bool:
        low, high = self.interval
        if math.isinf(low) and math.isinf(high):
            return True
        if not isinstance(t, float):
            raise ValueError("ClassifierFree: an interval needs one time for all rows and leaves")
        return bool(low <= denoiser.process.clock(t) <= high)

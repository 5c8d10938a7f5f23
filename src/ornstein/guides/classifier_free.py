"""Classifier-free guidance."""

from __future__ import annotations

import math

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
        inner = denoiser
        while isinstance(inner, Guided):
            if inner.guide.remembers:
                name = type(inner.guide).__name__
                raise ValueError(
                    f"ClassifierFree calls its model twice a step, and {name} keeps what it is told once: guide each "
                    f"model first, then superpose them, {name}([ClassifierFree(s)(b)])(ClassifierFree(s)(a))"
                )
            inner = inner.denoiser
        missing = set(self.dropped) - denoiser.fields
        if missing or not denoiser.fields:
            raise ValueError(
                f"ClassifierFree: drops {sorted(self.dropped) or 'the condition'}, but the model reads "
                f"{sorted(denoiser.fields) or 'no condition'}"
            )

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """The mixture of the two branches."""
        names = [f for f in self.dropped or (condition or {}) if condition and f in condition]
        if not condition or not names or self.scale == 1.0 or not self._active(denoiser, t):
            return denoiser(x, t, condition, step)
        with_, without = denoiser.many(x, t, [condition, condition.null(*names)], step)
        return mix([with_, without], [self.scale, 1.0 - self.scale])

    def _active(self, denoiser: Denoiser, t: Time) -> bool:
        low, high = self.interval
        if math.isinf(low) and math.isinf(high):
            return True
        if not isinstance(t, float):
            raise ValueError("ClassifierFree: an interval needs one time for all rows and leaves")
        return bool(low <= denoiser.process.clock(t) <= high)

"""The numbers of a run, checked before any work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from ornstein.core import suggest

__all__ = ["PRECISIONS", "SCHEDULES", "Options"]

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("no", "bf16")


@dataclass(frozen=True)
class Options:
    """What `fit` was asked for; its arguments of the same names say what each one is.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or an unknown name.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    schedule: str
    weight_decay: float
    clip: float | None
    ema: float | None
    precision: str
    seed: int
    report_every: int
    evaluate_every: int
    sample_every: int
    checkpoint_every: int
    keep: int
    patience: int
    workers: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "report_every", "checkpoint_every", "keep", "patience"):
            _integer(name, getattr(self, name), least=1)
        for name in ("warmup", "seed", "evaluate_every", "sample_every", "workers"):
            _integer(name, getattr(self, name), least=0)
        _real("learning_rate", self.learning_rate, above=0.0)
        _real("weight_decay", self.weight_decay, least=0.0)
        if self.clip is not None:
            _real("clip", self.clip, above=0.0)
        if self.ema is not None:
            _real("ema", self.ema, least=0.0, below=1.0)
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(suggest(getattr(self, name), known, name))
        if self.warmup >= self.steps > 1:
            raise ValueError(
                f"warmup: expected fewer than the {self.steps} steps, got {self.warmup}; null (None) is a tenth of them"
            )

    @classmethod
    def of(cls, *, steps: int, warmup: int | None, **others: Any) -> Options:
        """With the default `warmup`, a tenth of all steps and at most 100, where it is None."""
        if warmup is None:
            warmup = min(100, steps // 10) if isinstance(steps, int) else 0
        return cls(steps=steps, warmup=warmup, **others)

    def rate(self, step: int) -> float:
        """The learning rate of step 0 ... steps - 1.

        It rises linearly over `warmup` steps to `learning_rate`, then stays or falls as half a cosine that
        would reach 0 at `steps`.
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        part = (step - self.warmup) / (self.steps - self.warmup)
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * part))

    def due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is done after `step` steps."""
        return every > 0 and (step % every == 0 or step == self.steps)

    def as_dict(self) -> dict[str, Any]:
        """By name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value}")


def _real(
    name: str, value: Any, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (least <= value and above < value < below):
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
        bounds += [f"below {below:g}"] * (below < math.inf)
        raise ValueError(f"{name}: expected a finite number {' and '.join(bounds)}, got {value}")

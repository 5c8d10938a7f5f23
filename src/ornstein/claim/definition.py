"""A claim is an experiment with its rule: measure one seed, compare over seeds, judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.spec import suggest
from ..papers import VERDICTS
from .effect import Effect, Interval

__all__ = ["BUDGETS", "NO_INTERVAL", "SMOKE", "Claim", "Verdict", "recorded"]

BUDGETS = ("smoke", "quick", "full")
SMOKE = "smoke: not evidence"
NO_INTERVAL = "no interval: not evidence"


@dataclass(frozen=True)
class Verdict:
    """What a claim's own rule says of its effects: a verdict of `papers.VERDICTS`, and why.

    Raises:
        ValueError: the verdict is none of those accepted, or no reason is given.
    """

    verdict: str
    reason: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(suggest(self.verdict, VERDICTS, "verdict"))
        if not self.reason.strip():
            raise ValueError(f"the reason of verdict {self.verdict!r} is empty")


class Claim(ABC):
    """One paper's claim as an experiment.

    Attributes:
        slug: the paper's slug, as in `papers.toml` and in the name of the claim's file.
        statement: what is claimed, with the threshold that decides.
        baseline: what the method is compared with, and why the comparison is fair.
        effects: how the numbers of `measure` are compared over seeds.
        seeds: the seeds of each budget.

    Raises:
        TypeError: a subclass leaves out one of them.
        ValueError: a subclass names two effects alike, or lacks the seeds of a budget.
    """

    slug: ClassVar[str]
    statement: ClassVar[str]
    baseline: ClassVar[str]
    effects: ClassVar[Sequence[Effect]]
    seeds: ClassVar[Mapping[str, Sequence[int]]] = {
        "smoke": range(2),
        "quick": range(3),
        "full": range(10),
    }

    def __init_subclass__(cls, **options: Any) -> None:
        """Check what a subclass says of itself, before anything runs."""
        super().__init_subclass__(**options)
        for name in ("slug", "statement", "baseline", "effects"):
            if not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} must define `{name}`")
        names = [effect.name for effect in cls.effects]
        if len(set(names)) < len(names):
            raise ValueError(f"{cls.__name__}: two effects have one name: {names}")
        if set(cls.seeds) != set(BUDGETS):
            raise ValueError(f"{cls.__name__}: seeds must name {BUDGETS}, not {[*cls.seeds]}")

    @abstractmethod
    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        """The named finite numbers of one seed, the same names for every seed.

        `progress(fraction, what="")` moves the bar within this seed, from 0 to 1.
        """

    @abstractmethod
    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        """The verdict on the effects, by a rule fixed before the numbers were seen."""


def recorded(verdict: Verdict, budget: str, effects: Mapping[str, Interval]) -> tuple[str, str]:
    """The verdict and reason to record: a run that proves nothing says so in a verdict's place."""
    ruled = f"its rule would say {verdict.verdict!r}: {verdict.reason}"
    if budget == "smoke":
        return SMOKE, f"this run shows only that the claim runs; {ruled}"
    lacking = [name for name, effect in effects.items() if effect.low is None]
    if verdict.verdict != "not testable here" and (lacking or not effects):
        what = f"too few seeds for {', '.join(lacking)}" if lacking else "nothing was compared"
        return NO_INTERVAL, f"{what}; {ruled}"
    return verdict.verdict, verdict.reason

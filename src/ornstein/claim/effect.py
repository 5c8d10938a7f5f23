"""Effects: numbers measured over seeds, compared seed by seed, with an interval for their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.spec import suggest

__all__ = ["Effect", "Interval"]

FEWEST = {"t": 2, "bootstrap": 8}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and, where there are seeds enough, the ends of its interval."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    level: float

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above the bound; False where there is none."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below the bound; False where there is none."""
        return self.high is not None and self.high < bound

    def __str__(self) -> str:
        count = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}, no interval ({count})"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] ({self.level:.0%}, {count})"


@dataclass(frozen=True)
class Effect:
    """One named number of a claim, alone or compared with another within each seed.

    With a_i = `of` and b_i = `against` at seed i, the effect is the mean of a_i, of a_i - b_i, or
    (`ratio`) the geometric mean of a_i / b_i. The interval is for what more and more seeds would
    give: Student's t from 2 seeds, exact where the differences (log ratios) are normal; or an
    expanded percentile bootstrap from 8 seeds, closer to its level where they are skewed. With
    fewer seeds there is none.

    References:
        What teachers should know about the bootstrap (Hesterberg, 2014), for the expansion;
        https://arxiv.org/abs/1411.5279

    Raises:
        ValueError: the interval is unknown, the level is not in (0, 1), or a ratio has no
            `against`.
    """

    name: str
    of: str
    against: str | None = None
    ratio: bool = False
    interval: str = "t"
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.interval not in FEWEST:
            raise ValueError(suggest(self.interval, FEWEST, "interval"))
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, not {self.level}")
        if self.ratio and self.against is None:
            raise ValueError(f"effect {self.name!r} is a ratio and needs `against`")

    @property
    def text(self) -> str:
        """What is compared, as a formula of the named numbers."""
        sign = "/" if self.ratio else "-"
        return self.of if self.against is None else f"{self.of} {sign} {self.against}"

    def over(self, numbers: Mapping[int, Mapping[str, float]]) -> Interval:
        """The effect over the numbers of each seed.

        Raises:
            ValueError: a number it names is absent, or a ratio meets one that is not positive.
        """
        a = self._column(self.of, numbers)
        if self.against is not None:
            b = self._column(self.against, numbers)
            a = np.log(a) - np.log(b) if self.ratio else a - b
        unlog = math.exp if self.ratio else float
        value = unlog(a.mean())
        if len(a) < FEWEST[self.interval]:
            return Interval(value, None, None, len(a), self.level)
        low, high = (_student if self.interval == "t" else _bootstrap)(a, self.level)
        return Interval(value, unlog(low), unlog(high), len(a), self.level)

    def _column(self, name: str, numbers: Mapping[int, Mapping[str, float]]) -> np.ndarray:
        for seed, row in numbers.items():
            if name not in row:
                raise ValueError(f"effect {self.name!r}: " + suggest(name, row, "number"))
            if self.ratio and row[name] <= 0:
                raise ValueError(f"effect {self.name!r} is a ratio, but {name} is {row[name]} at seed {seed}")
        return np.array([row[name] for row in numbers.values()], dtype=float)


def _student(x: np.ndarray, level: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    half = stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / len(x) ** 0.5
    return float(x.mean() - half), float(x.mean() + half)


def _bootstrap(x: np.ndarray, level: float) -> tuple[float, float]:
    """Percentiles of resampled means, widened so that normal data give about Student's interval."""
    from scipy.special import ndtr, stdtrit

    n = len(x)
    tail = ndtr(-stdtrit(n - 1, (1 + level) / 2) * (n / (n - 1)) ** 0.5)
    means = x[np.random.default_rng(0).integers(n, size=(RESAMPLES, n))].mean(axis=1)
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)

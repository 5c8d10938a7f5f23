"""Claims: a paper's headline statement, measured here against an honest baseline.

A file `claims/SLUG.py` of the repository defines `claim = SomeClaim()`. `reproduce` runs it over
seeds, compares its numbers seed by seed, prints effects with their intervals and a verdict, and
writes `claims/results/SLUG.json`.
"""

from __future__ import annotations

from .definition import BUDGETS, Claim, Verdict
from .effect import Effect, Interval
from .record import Result
from .runner import reproduce

__all__ = ["BUDGETS", "Claim", "Effect", "Interval", "Result", "Verdict", "reproduce"]

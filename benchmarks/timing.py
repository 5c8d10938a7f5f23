"""Contestants take turns in one process, so that drift of the machine falls on all of them alike.

Times are the process's own on the CPU: with one thread they are what a quiet machine's clock would show, and other
programs count only through the caches they share.
"""

from __future__ import annotations

import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch

__all__ = ["Contestant", "Quartiles", "machine", "quartiles", "race", "ratio"]


@dataclass
class Contestant:
    """Something to time.

    Attributes:
        library: whose it is.
        name: what it is.
        run: does the work once.
        units: how many steps (or draws) that is; times are per unit.
        prepare: called before each run and not timed.
        seconds: one entry a round, per unit.
        faults: memory pages that the kernel had to provide, likewise.
    """

    library: str
    name: str
    run: Callable[[], object]
    units: int = 1
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    faults: list[float] = field(default_factory=list)

    def turn(self, least: float = 0.005) -> None:
        """Timed runs for at least so many seconds, after one that is not timed: the last turn was another's."""
        self.once()
        spent = pages = runs = 0.0
        while spent < least:
            seconds, faults = self.once()
            spent, pages, runs = spent + seconds, pages + faults, runs + 1
        self.seconds.append(spent / runs / self.units)
        self.faults.append(pages / runs / self.units)

    def once(self) -> tuple[float, int]:
        """Seconds and page faults of one run."""
        self.prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.process_time()
        self.run()
        seconds = time.process_time() - start
        return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def race(contestants: Sequence[Contestant], rounds: int) -> None:
    """`rounds` rounds in which everyone has a turn, in an order drawn anew: nobody always follows the same one."""
    order, shuffle = list(contestants), random.Random(0).shuffle
    for contestant in order:
        contestant.once()  # whatever is made at the first run only
    for _ in range(rounds):
        shuffle(order)
        for contestant in order:
            contestant.turn()


@dataclass(frozen=True)
class Quartiles:
    """Median, with the quartiles either side."""

    low: float
    median: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def quartiles(values: Iterable[float]) -> Quartiles:
    """Of one entry a round."""
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(ours: Contestant, theirs: Contestant) -> Quartiles:
    """Round by round, so that what slowed one round slows both sides of it."""
    return quartiles(a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def machine(packages: Iterable[str]) -> dict[str, object]:
    """What the numbers belong to."""
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "versions": {name: installed(name) for name in packages},
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""How fast a run goes, when it will end, and on what that estimate rests."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Pace", "Progress"]

WARM_UP = 10


class Pace:
    """Speed since the first steps, which are slower than the others.

    Args:
        start: steps done before this process began.
        batch: items a step.
        clock: seconds that only grow.
    """

    def __init__(self, start: int, batch: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.start, self.batch, self.clock = start, batch, clock
        self.begun = clock()
        self._warm: tuple[int, float] | None = None
        self._mark: tuple[int, float] | None = None
        self.step, self._paused = start, 0.0

    def tick(self, step: int) -> None:
        """`step` steps are done."""
        self.step = step
        if self._warm is None and step - self.start >= WARM_UP:
            self._warm = self._mark = (step, self.clock())

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not training: it counts for the estimate, not for the speed."""
        begun = self.clock()
        yield
        if self._warm is not None:
            self._paused += self.clock() - begun

    def items_per_second(self) -> float | None:
        """Of training alone, since the last call; None while the run warms up."""
        if self._mark is None or self.step == self._mark[0]:
            return None
        now = self.clock()
        steps, seconds = self.step - self._mark[0], now - self._mark[1] - self._paused
        self._mark, self._paused = (self.step, now), 0.0
        return steps * self.batch / max(seconds, 1e-9)

    def remaining(self, steps: int) -> tuple[float, str] | None:
        """Seconds to the end of a run of `steps` steps, and the basis; None while the run warms up."""
        if self._warm is None or self.step == self._warm[0]:
            return None
        done, seconds = self.step - self._warm[0], self.clock() - self._warm[1]
        basis = f"from {done} steps in {seconds:.0f} s, pauses included"
        return (steps - self.step) * seconds / done, basis

    def elapsed(self) -> float:
        """Seconds since this process began."""
        return self.clock() - self.begun


class Progress:
    """A bar on a terminal, a line now and then elsewhere; nothing if not `shown`."""

    def __init__(self, shown: bool, steps: int, pace: Pace) -> None:
        self.shown, self.steps, self.pace = shown, steps, pace
        self._bar: Any = None
        self._next = 0.0
        self._loss = self._speed = ""

    def __enter__(self) -> Progress:
        if self.shown and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("", total=self.steps, completed=self.pace.start, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int) -> None:
        """After every step; costs next to nothing unless a tenth of a second has passed."""
        if self._bar and (time.perf_counter() >= self._next or step == self.steps):
            self._next = time.perf_counter() + 0.1
            self._bar.update(self._task, completed=step, note=self._note())

    def report(self, record: dict[str, Any], speed: float | None) -> None:
        """After every report."""
        if record.get("loss") is not None:
            self._loss = f"loss {record['loss']:.4g}"
        if speed is not None:
            self._speed = f"{speed:,.0f} items/s"
        if self.shown and not self._bar:
            line = f"step {record['step']}/{self.steps}  {self._note()}"
            print(line, file=sys.stderr, flush=True)

    def _note(self) -> str:
        left = self.pace.remaining(self.steps)
        end = f"{_duration(left[0])} left ({left[1]})" if left else "warming up"
        if self.pace.step >= self.steps:
            end = f"done in {_duration(self.pace.elapsed())}"
        return "  ".join(part for part in (self._loss, self._speed, end) if part)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Bar(*columns, console=Console(stderr=True))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

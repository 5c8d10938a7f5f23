"""A time grid is data: a list of rows (t, s, solver), where solver None means the sampler's own.

Nothing is inferred from the order of s and t: a row that goes up, stays, or repeats says by its solver what
it does (`solvers.Forward`, `Renoise`, `Hold`, ...).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import torch

from .spec import suggest
from .tree import Time, leaf_time

if TYPE_CHECKING:
    from .process import AffineProcess, Process
    from .solver import Solver

__all__ = ["GridRow", "TimeGrid"]

LARGEST = 80.0  # sigma / alpha at which a grid starts to resolve, where the process itself starts at infinity
SMALLEST = 0.01  # sigma / alpha of the last network call, which denoises to time 0


class GridRow(NamedTuple):
    """One step from t to s by `solver`."""

    t: Time
    s: Time
    solver: Solver | None = None


class TimeGrid(list[GridRow]):
    """Rows (t, s, solver); `+` joins grids, `*` repeats them, slices are grids.

    Attributes:
        process: whose noise levels the times were made for, if any; a run on another schedule is refused.
    """

    process: AffineProcess | None = None

    def __init__(self, rows: Iterable[Sequence[Any]] = ()) -> None:
        super().__init__(GridRow(_number(row[0]), _number(row[1]), *row[2:]) for row in rows)

    @classmethod
    def through(cls, times: Sequence[Time], solver: Solver | None = None) -> TimeGrid:
        """The rows between successive times."""
        if len(times) < 2:
            raise ValueError(f"times: expected at least two, got {len(times)}")
        return cls((t, s, solver) for t, s in itertools.pairwise(times))

    @classmethod
    def uniform(cls, steps: int, first: float = 1.0, last: float = 0.0) -> TimeGrid:
        """Uniform in t."""
        _positive(steps)
        return cls.through([first + (last - first) * i / steps for i in range(steps)] + [last])

    @classmethod
    def log_snr(
        cls,
        steps: int,
        process: AffineProcess,
        largest: float | None = None,
        smallest: float = SMALLEST,
    ) -> TimeGrid:
        """Network calls uniform in log-SNR between two values of sigma / alpha; the last row ends at 0.

        Args:
            steps: number of rows, and of network calls of a one-call solver.
            process: gives the times.
            largest: sigma / alpha where the resolution starts; by default the process's own at time 1, at
                most 80. The first row starts at time 1 whatever this is.
            smallest: sigma / alpha at the last call, which denoises to time 0.
        """
        high, low = _ends(process, largest, smallest)
        levels = _spaced(math.log(high), math.log(low), steps)
        return cls._at_levels([math.exp(v) for v in levels], process)

    @classmethod
    def karras(
        cls,
        steps: int,
        process: AffineProcess,
        rho: float = 7.0,
        largest: float | None = None,
        smallest: float = SMALLEST,
    ) -> TimeGrid:
        """Uniform in (sigma / alpha)^(1 / rho): Karras et al. 2022, 2206.00364, eq. 5."""
        high, low = _ends(process, largest, smallest)
        levels = _spaced(high ** (1 / rho), low ** (1 / rho), steps)
        return cls._at_levels([v**rho for v in levels], process)

    @classmethod
    def _at_levels(cls, levels: Sequence[float], process: AffineProcess) -> TimeGrid:
        half_log_snr = -torch.tensor(levels[1:], dtype=torch.float64).log()
        grid = cls.through([1.0, *process.time_at(half_log_snr).tolist(), 0.0])  # one bisection for all
        grid.process = process
        return grid

    @classmethod
    def named(cls, kind: str, steps: int, process: AffineProcess) -> TimeGrid:
        """The builder of this name: "log-snr", "karras" or "uniform"."""
        if kind == "uniform":
            return cls.uniform(steps)
        builders: dict[str, Any] = {"log-snr": cls.log_snr, "karras": cls.karras}
        if kind not in builders:
            raise ValueError(suggest(kind, [*builders, "uniform"], "grid"))
        grid: TimeGrid = builders[kind](steps, process)
        return grid

    @classmethod
    def product(cls, **leaves: TimeGrid | float) -> TimeGrid:
        """One grid over a tree state: each leaf on its own grid, or held at a time given as a number."""
        grids = {k: g for k, g in leaves.items() if isinstance(g, TimeGrid)}
        if any(row.solver is not None for g in grids.values() for row in g):
            raise ValueError(
                "product: rows of the leaves' grids name a solver; give Leafwise({leaf: solver}) instead"
            )
        lengths = {len(g) for g in grids.values()}
        if len(lengths) != 1:
            raise ValueError(f"product: leaves need grids of one length, got {sorted(lengths)}")
        held = {k: GridRow(float(g), float(g)) for k, g in leaves.items() if not isinstance(g, TimeGrid)}
        rows = []
        for i in range(lengths.pop()):
            at = {k: held[k] if k in held else grids[k][i] for k in leaves}
            rows.append(({k: r.t for k, r in at.items()}, {k: r.s for k, r in at.items()}))
        return cls(rows)

    def leaf(self, name: str) -> TimeGrid:
        """The grid of one leaf of a tree state."""
        return TimeGrid((leaf_time(r.t, name), leaf_time(r.s, name), r.solver) for r in self)

    def check_process(self, process: Process) -> None:
        """Refuse a process on whose schedule these times are other noise levels than they were made for."""
        from .process import AffineProcess

        made = self.process
        if made is None or made is process or not isinstance(process, AffineProcess) or made.learned:
            return
        times = (0.25, 0.75)
        if any(abs(made.half_log_snr(t) - process.half_log_snr(t)) > 1e-6 for t in times):
            raise ValueError(
                f"grid: its times were made for the noise levels of {made!r}, and this process is {process!r}; "
                "make the grid with the model's own process"
            )

    def check(self) -> None:
        """Refuse rows that do not join."""
        for i, (row, following) in enumerate(itertools.pairwise(self)):
            ends = row.s, following.t
            if all(isinstance(v, float | int) for v in ends) and abs(ends[0] - ends[1]) > 1e-6:
                raise ValueError(f"grid: row {i} ends at {ends[0]}, row {i + 1} starts at {ends[1]}")
            if all(isinstance(v, dict) for v in ends) and ends[0] != ends[1]:
                raise ValueError(f"grid: row {i} ends at {ends[0]}, row {i + 1} starts at {ends[1]}")
        if not self:
            raise ValueError("grid: has no rows")

    def __add__(self, other: Any) -> TimeGrid:  # type: ignore[override]
        return TimeGrid([*self, *other])

    def __mul__(self, times: SupportsIndex) -> TimeGrid:
        return TimeGrid(list(self) * int(times))

    @overload
    def __getitem__(self, index: SupportsIndex) -> GridRow: ...
    @overload
    def __getitem__(self, index: slice) -> TimeGrid: ...
    def __getitem__(self, index: Any) -> Any:
        """A row, or a slice that is a grid."""
        found = super().__getitem__(index)
        return TimeGrid(found) if isinstance(index, slice) else found


def _number(time: Time) -> Time:
    return float(time) if isinstance(time, int) else time


def _positive(steps: int) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: expected an integer of at least 1, got {steps!r}")


def _ends(process: AffineProcess, largest: float | None, smallest: float) -> tuple[float, float]:
    start = math.exp(-process.half_log_snr(1.0))
    high = min(start, LARGEST if largest is None else largest)
    if not 0 < smallest < high:
        raise ValueError(f"smallest: expected between 0 and {high:.4g} (largest), got {smallest}")
    return high, smallest


def _spaced(start: float, end: float, steps: int) -> list[float]:
    _positive(steps)
    return [start + (end - start) * i / max(steps - 1, 1) for i in range(steps)]

"""A solver is the numbers of a grid, made once, and one update that calls no network.

mean = a x + b D + sum_i past_i memory_i + c y,        D the posterior mean, y the other end
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .condition import Condition
from .distribution import Distribution, Gaussian, Product
from .grid import TimeGrid
from .posterior import Posterior
from .process import AffineProcess, Process, StepNumbers, anchor_of
from .tree import Time, Tree, accumulate, align, combine, scaled

__all__ = ["Forward", "Leafwise", "Row", "Solver"]


class Row(NamedTuple):
    """The numbers of one row: Python floats, or tensors for vector time and learned processes.

    `calls` says whether the row asks the network; b is the gain. A row of a tree state has `leaves`.
    """

    t: Time
    s: Time
    a: Any = None
    b: Any = None
    past: tuple[Any, ...] = ()
    c: Any = 0.0
    scale: Any = 0.0
    calls: bool = True
    leaves: dict[str, Row] | None = None

    @classmethod
    def of(cls, t: Time, s: Time, numbers: StepNumbers, **options: Any) -> Row:
        """A row of an affine process's step."""
        return cls(t, s, numbers.a, numbers.b, (), numbers.c, numbers.scale, **options)

    @classmethod
    def joined(cls, leaves: dict[str, Row]) -> Row:
        """The row of a tree state from its leaves' rows."""
        return cls(
            t={k: r.t for k, r in leaves.items()},
            s={k: r.s for k, r in leaves.items()},
            b={k: r.b for k, r in leaves.items()},
            calls=any(r.calls for r in leaves.values()),
            leaves=leaves,
        )

    @staticmethod
    def gather(rows: Sequence[Row], index: Tensor) -> Row:
        """One row whose numbers differ per sample: sample i is at rows[index[i]]."""
        if rows[0].leaves is not None:
            leaves = {k: Row.gather([r.leaves[k] for r in rows], index) for k in rows[0].leaves}  # type: ignore[index]
            return Row.joined(leaves)

        def column(values: Sequence[Any]) -> Any:
            if any(
                isinstance(v, Tensor) and v.ndim for v in values
            ):  # numbers for each direction of the state
                if len({getattr(v, "shape", None) for v in values}) > 1:
                    raise ValueError("step: samples at rows of different kinds cannot share a step")
                return torch.stack(list(values)).to(index.device)[index]
            known = [v for v in values if v is not None]
            return (
                None if not known else torch.tensor(values, dtype=torch.float64, device=index.device)[index]
            )

        depth = max(len(r.past) for r in rows)
        past = tuple(column([r.past[i] if i < len(r.past) else 0.0 for r in rows]) for i in range(depth))
        t, s, a, b, c, scale = (
            column([getattr(r, name) for r in rows]) for name in ("t", "s", "a", "b", "c", "scale")
        )
        return Row(t, s, a, b, past, c, scale, calls=any(r.calls for r in rows))


class Solver:
    """One method. For an affine process a subclass is `rows` alone.

    Attributes:
        order: of the deterministic method, or of the law for a stochastic one; a test measures it.
        stochastic: whether steps draw noise.
        reverses: whether its steps are those of the reversed process, so that their densities are known to belong to
            it; of the stochastic family only the ancestral step is.
        history: how many earlier posterior means it reads.
        latent: whether it is right, to its order, where the other end y is known only through the posterior.
    """

    order: int = 1
    stochastic: bool = False
    reverses: bool = False
    history: int = 0
    latent: bool = False

    process: Process
    owner: Solver  # the solver that was bound: memory is kept under it, however often numbers are made anew

    def on(self, process: Process) -> Solver:
        """This solver bound to a process (leaf by leaf for a tree state).

        Raises:
            ValueError: the two do not fit.
        """
        parts: dict[str, Process] | None = getattr(process, "parts", None)
        if parts:
            leafwise = Leafwise(dict.fromkeys(parts, self)).on(process)
            leafwise.owner = self
            return leafwise
        self.check(process)
        bound = copy.copy(self)
        bound.process, bound.owner = process, self
        return bound

    def check(self, process: Process) -> None:
        """Refuse a process that this method is not for."""
        if not isinstance(process, AffineProcess):
            raise ValueError(
                f"{type(self).__name__} needs an affine process, got {type(process).__name__}. Ancestral steps "
                "any process that has a bridge, Forward simulates one by its kernel, and "
                "Leafwise({leaf: solver}) gives each leaf of a tree state its own"
            )
        if process.latent and not self.latent:
            raise ValueError(
                f"{type(self).__name__} takes the other end y as known, but that of {type(process).__name__} is "
                "latent: use FreeDiffusion, Ancestral or Stochastic, or Euler, Heun, RungeKutta4 or DDIM below time 1"
            )

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The numbers of the whole grid, in float64."""
        raise NotImplementedError

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """The law of the next state, and what to remember: here the last `history` posterior means."""
        if posterior is None:
            mean = scaled(row.a, x)
        else:
            mean = combine(row.a, x, row.b, posterior.mean)
        if row.past and not memory:
            raise ValueError(
                f"{type(self).__name__}: this row reads earlier steps; pass their memory, or start at row 0"
            )
        if row.past:
            fresh = isinstance(row.a, float) and row.a != 1.0
            for weight, earlier in zip(row.past, memory or (), strict=False):
                mean = accumulate(mean, weight, earlier, inplace=fresh)
        if self.process.anchored and (not isinstance(row.c, float) or row.c):
            y = anchor_of(self.process, condition, getattr(posterior, "end", None))
            mean = accumulate(mean, align(row.c, mean), y, inplace=False)  # y may have fewer axes
        if self.history and posterior is not None:
            memory = (posterior.mean, *(memory or ()))[: self.history]
        return Gaussian(mean, row.scale, self.process.space, row.b), memory

    def __repr__(self) -> str:
        given = [k for k in inspect.signature(type(self)).parameters if k in vars(self)]
        return f"{type(self).__name__}({', '.join(f'{k}={getattr(self, k)!r}' for k in given)})"


class Forward(Solver):
    """Simulates: each row is the process's own kernel, no network is called. Also noises up during a run."""

    stochastic = True

    def check(self, process: Process) -> None:
        """Any process that has a kernel."""
        if type(process).kernel is Process.kernel:
            raise ValueError(f"Forward: {type(process).__name__} has no kernel to simulate by")

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """An affine process's numbers; of others the times alone."""
        if not isinstance(process, AffineProcess):
            return [Row(r.t, r.s, calls=False) for r in grid]
        return [Row.of(r.t, r.s, process.forward_step(r.t, r.s), calls=False) for r in grid]

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """The kernel's law."""
        if row.a is not None:
            return super().law(x, None, row, memory, condition)
        return self.process.kernel(x, row.t, row.s, condition), memory


class Leafwise(Solver):
    """A solver for every leaf of a tree state, given as {leaf: solver}. The step is a `Product`."""

    def __init__(self, solvers: dict[str, Solver]) -> None:
        self.solvers = solvers
        self.stochastic = any(s.stochastic for s in solvers.values())
        self.order = min(s.order for s in solvers.values())
        self.reverses = all(s.reverses for s in solvers.values())

    def on(self, process: Process) -> Solver:
        """Bind every leaf's solver to its leaf.

        Raises:
            ValueError: the leaves of solver and process differ.
        """
        parts: dict[str, Process] = getattr(process, "parts", {})
        if set(parts) != set(self.solvers):
            raise ValueError(
                f"Leafwise: solvers for {sorted(self.solvers)}, but the state of "
                f"{type(process).__name__} has {f'the leaves {sorted(parts)}' if parts else 'one tensor, no leaves'}"
            )
        bound = Leafwise({name: self.solvers[name].on(part) for name, part in parts.items()})
        bound.process, bound.owner = process, self
        return bound

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The leaves' rows side by side; one that takes fewer of them in a step waits for the others."""
        columns = {k: s.rows(s.process, grid.leaf(k)) for k, s in self.solvers.items()}
        if any(len(column) != len(grid) for column in columns.values()):
            columns = self._in_step(columns, grid)
        side_by_side = zip(*columns.values(), strict=True)
        return [Row.joined(dict(zip(columns, rows, strict=True))) for rows in side_by_side]

    def _in_step(self, columns: dict[str, list[Row]], grid: TimeGrid) -> dict[str, list[Row]]:
        """Rows filled up, so that all leaves take as many in a step of the grid."""
        counts = {
            k: [len(s.rows(s.process, TimeGrid([r]))) for r in grid.leaf(k)] for k, s in self.solvers.items()
        }
        most = [max(step) for step in zip(*counts.values(), strict=True)]
        return {k: _filled(column, grid.leaf(k), counts[k], most) for k, column in columns.items()}

    def law(
        self, x: Tree, posterior: Any, row: Row, memory: Any, condition: Condition | None = None
    ) -> tuple[Distribution, Any]:
        """Leaf by leaf, independent given the state."""
        laws, kept = {}, {}
        for name, leaf in (row.leaves or {}).items():
            own = None if posterior is None else posterior[name]
            solver, before = self.solvers[name], memory.get(name) if memory else None
            laws[name], kept[name] = solver.law(x[name], own, leaf, before, condition)
        return Product(laws), kept


def _filled(rows: list[Row], grid: TimeGrid, counts: Sequence[int], most: Sequence[int]) -> list[Row]:
    found: list[Row] = []
    rest = iter(rows)
    for step, count, wanted in zip(grid, counts, most, strict=True):
        found += itertools.islice(rest, count)
        found += [Row(step.s, step.s, 1.0, 0.0, calls=False)] * (wanted - count)
    return found

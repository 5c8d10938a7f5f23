"""Runs that make one block of a state after the other: rows whose times differ from block to block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    Condition,
    Distribution,
    GridRow,
    Posterior,
    Process,
    Row,
    Solver,
    TimeGrid,
    Tree,
)
from ornstein.networks.patches import Blocks

__all__ = ["OneBlock", "block_by_block"]


class OneBlock(Solver):
    """A solver's rows for one block of a state, while the others wait: mean = x there, to the bit.

    Its history is its own, so that a multistep method starts anew in every block.

    Args:
        solver: whose numbers the block gets.
        blocks: how states are cut.
        index: of the block.
    """

    inner: Solver

    def __init__(self, solver: Solver, blocks: Blocks, index: int) -> None:
        self.solver, self.blocks, self.index = solver, blocks, index
        self.order, self.stochastic, self.history = solver.order, solver.stochastic, solver.history
        self.reverses, self.latent = solver.reverses, solver.latent

    def on(self, process: Process) -> Solver:
        """Bound to a process, with the solver inside."""
        bound = super().on(process)
        assert isinstance(bound, OneBlock)
        bound.inner = self.solver.on(process)
        return bound

    def check(self, process: Process) -> None:
        """What the solver itself accepts."""
        self.solver.check(process)

    def rows(self, process: Process, grid: TimeGrid) -> list[Row]:
        """The solver's rows at the block's own times, its numbers placed where the block lies.

        Raises:
            ValueError: a solver whose rows are not numbers.
        """
        own = [[float(self.blocks.times(v)[0, self.index]) for v in (r.t, r.s)] for r in grid]
        return [self._placed(row) for row in self.inner.rows(process, TimeGrid(own))]

    def _placed(self, row: Row) -> Row:
        t, s = (block_times(self.blocks, self.index, v) for v in (row.t, row.s))
        a, b, c, scale = (
            self._at(value, rest)
            for value, rest in ((row.a, 1.0), (row.b, 0.0), (row.c, 0.0), (row.scale, 0.0))
        )
        return Row(t, s, a, b, tuple(self._at(v, 0.0) for v in row.past), c, scale, row.calls)

    def _at(self, value: Any, rest: float) -> Tensor:
        if not isinstance(value, int | float):
            raise ValueError(
                f"solver: a row of {type(self.solver).__name__} is not made of numbers, so it cannot be one block's"
            )
        numbers = torch.full((1, self.blocks.count), rest, dtype=torch.float64)
        numbers[0, self.index] = value
        return self.blocks.spread(numbers)

    def law(
        self,
        x: Tree,
        posterior: Posterior | None,
        row: Row,
        memory: tuple[Tree, ...] | None,
        condition: Condition | None = None,
    ) -> tuple[Distribution, tuple[Tree, ...] | None]:
        """The solver's own."""
        return self.inner.law(x, posterior, row, memory, condition)


def block_times(blocks: Blocks, index: int, time: float) -> Tensor:
    """A map (1, 1, *size) of times: `time` in one block, 0 in those before it and 1 in those after."""
    times = (torch.arange(blocks.count, dtype=torch.float64) > index).double()
    times[index] = time
    return blocks.spread(times[None])


def block_by_block(grid: TimeGrid, blocks: Blocks, solver: Solver) -> TimeGrid:
    """A grid that takes every block through `grid` by `solver`, one after the other.

        Sampler(solver, grid=block_by_block(TimeGrid.log_snr(10, process), model.blocks, solver))

    Args:
        grid: times of one block, numbers from 1 to 0.
        blocks: how states are cut, `Blockwise.blocks`.
        solver: of rows that name none of their own.

    Raises:
        ValueError: a grid that does not lead from 1 to 0.
    """
    if not grid or grid[0].t != 1.0 or grid[-1].s != 0.0:
        raise ValueError(
            f"grid: expected times from 1 to 0, got {grid[0].t if grid else None} to {grid[-1].s}"
        )
    rows: list[GridRow] = []
    for index in range(blocks.count):
        own = {id(v): OneBlock(v, blocks, index) for v in {row.solver or solver for row in grid}}
        for row in grid:
            t, s = (block_times(blocks, index, time) for time in (row.t, row.s))
            rows.append(GridRow(t, s, own[id(row.solver or solver)]))
    return TimeGrid(rows)

"""Samples for the commands that need them: in batches that fit into memory, with a bar on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Denoiser,
    Guide,
    Keyed,
    Leafwise,
    Process,
    Solver,
    Step,
    Tree,
    cat,
)
from ornstein.solvers import recommended, sample, sampler_for

__all__ = ["BATCH", "Draw", "leafwise"]

BATCH = 256


class Draw:
    """Draws samples of one model by one solver; sample i of a seed is the same in any batch.

    Args:
        model: a denoiser, guided or not.
        steps: rows of the grid.
        solver: for continuous leaves; None for what suits the process.
        grid: by its name, or None.
        seed: of the samples.

    Attributes:
        calls: network calls a sample, of the last draw.

    Raises:
        ValueError: before any work, where they do not fit together.
    """

    def __init__(
        self,
        model: Denoiser,
        steps: int,
        solver: Solver | None = None,
        grid: str | None = None,
        seed: int = 0,
    ) -> None:
        chosen = None if solver is None else leafwise(solver, model.process)
        self.model, self.seed, self.calls = model, seed, 0
        self._options: dict[str, Any] = {"steps": steps, "solver": chosen, "grid": grid}
        self._rows = len(sampler_for(model, steps, chosen, grid).program(model.process))

    def __call__(
        self, count: int, fields: Mapping[str, Any] | None = None, given: Mapping[str, Tensor] | None = None
    ) -> Tree:
        """`count` samples.

        Args:
            count: how many.
            fields: condition fields, each one value for all or a list of one for each.
            given: known leaves of a tree state, each one value for all or one for each.

        Raises:
            ValueError, TypeError: fields or leaves that the model does not know or that do not fit.
        """
        parts = torch.arange(count).split(BATCH)
        with _bar() as bar:
            watched = _Watched(bar, self._rows * len(parts))
            model = watched(self.model)
            drawn = [self._part(model, ids, fields or {}, given or {}) for ids in parts]
        self.calls = watched.calls
        return cat(drawn)

    def _part(
        self, model: Denoiser, ids: Tensor, fields: Mapping[str, Any], given: Mapping[str, Tensor]
    ) -> Tree:
        own: dict[str, Any] = {
            k: [v[i] for i in ids.tolist()] if isinstance(v, list) else v for k, v in fields.items()
        }
        known = {k: v[ids] if self._one_each(k, v) else v for k, v in given.items()}
        seed = Keyed(self.seed, ids)
        return sample(model, len(ids), seed=seed, given=known or None, **self._options, **own)

    def _one_each(self, leaf: str, value: Tensor) -> bool:
        shape = self.model.shape.get(leaf) if isinstance(self.model.shape, dict) else None
        return shape is not None and value.ndim > len(shape)


def leafwise(solver: Solver, process: Process) -> Solver:
    """The solver for the continuous leaves of a tree state, and what suits the others."""
    parts: dict[str, Process] | None = getattr(process, "parts", None)
    if not parts:
        return solver
    return Leafwise({k: solver if isinstance(p, AffineProcess) else recommended(p) for k, p in parts.items()})


class _Watched(Guide):
    """Changes nothing, and tells a bar of every row drawn."""

    def __init__(self, bar: Any, rows: int) -> None:
        self.bar, self.calls = bar, 0
        self.task = bar.add_task("sampling", total=rows)

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """The state as it is."""
        if isinstance(step.index, int) and step.index >= 0:
            self.calls = int(torch.as_tensor(step.evaluations).max())
            self.bar.advance(self.task)
        return x


def _bar() -> Any:
    """On standard error, where that is a terminal; it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    )

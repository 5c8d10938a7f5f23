"""The one loop of the library: a solver on a grid, applied to a denoiser, or to a process to simulate it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .condition import Condition
from .denoiser import Denoiser
from .distribution import Distribution, Gaussian, Product
from .grid import TimeGrid, _positive
from .noise import Keyed, Noise
from .posterior import Posterior
from .process import Process
from .solver import Forward, Row, Solver
from .tree import Tree, batch_size, leaves, select

__all__ = ["Sampler", "Step", "simulate"]


class Step:
    """One step of a run, as `Sampler.steps` yields it.

    Attributes:
        index: number of the row; -1 for the draw from the prior.
        t: time before the step.
        s: time after it.
        x: state at t.
        condition: what the run is conditioned on.
        posterior: what the denoiser said; None where the row asks nothing.
        distribution: the law of the next state.
        memory: per-trajectory memory by owner, trees with the batch in front.
        evaluations: network calls so far, one number or (B,).
    """

    __slots__ = (
        "_before",
        "_next",
        "_noise",
        "_scratch",
        "_selected",
        "condition",
        "distribution",
        "evaluations",
        "grad",
        "index",
        "memory",
        "posterior",
        "row",
        "rule",
        "s",
        "solver",
        "t",
        "x",
    )

    distribution: Distribution
    posterior: Posterior | None

    def __init__(
        self,
        rule: Any,
        solver: Solver | None,
        row: Row | None,
        index: Any,
        x: Tree,
        condition: Condition | None,
        memory: dict[Any, Any],
        noise: Noise,
        evaluations: Any = 0,
        grad: bool = False,
    ) -> None:
        self.rule, self.solver, self.row, self.index, self.x = rule, solver, row, index, x
        self.condition, self.memory, self._noise = condition, memory, noise
        self.evaluations, self.grad, self._next, self.posterior = evaluations, grad, None, None
        self._scratch: dict[Any, Any] | None = None
        self._selected = 0
        if row is not None and solver is not None:
            self.t, self.s, self._before = row.t, row.s, memory.get(solver.owner)

    @property
    def noise(self) -> Noise:
        """This step's source of noise; fold it by a name for a guide's own draws."""
        if isinstance(self.index, int):
            return self._noise.fold(self.index)
        return self._noise.fold_rows(self.index)

    @property
    def scratch(self) -> dict[Any, Any]:
        """What a guide hands from its posterior to its `after_draw`, within this step only."""
        if self._scratch is None:
            self._scratch = {}
        return self._scratch

    @property
    def gain(self) -> Any:
        """d mean / d posterior mean of this step."""
        return None if self.row is None else self.row.b

    @property
    def next(self) -> Tree:
        """The next state: drawn when first read; assign to choose another.

        What is assigned passes the guides' `after_draw` as a draw does, so that constraints hold.
        """
        if self._next is None:
            law = self.distribution
            if type(law) is Gaussian and law.deterministic:
                self.next = law.mean
            else:
                with torch.set_grad_enabled(self.grad):
                    drawn = law.sample(self.noise)
                self.next = drawn
        return self._next

    @next.setter
    def next(self, x: Tree) -> None:
        if isinstance(self.rule, Denoiser):
            if torch.is_grad_enabled() is self.grad:
                x = self.rule.after_draw(x, self)
            else:
                with torch.set_grad_enabled(self.grad):
                    x = self.rule.after_draw(x, self)
        self._next = x

    def law(self, posterior: Posterior) -> Distribution:
        """The same step under another posterior. No network is called."""
        assert self.solver is not None and self.row is not None
        return self.solver.law(self.x, posterior, self.row, self._before, self.condition)[0]

    def select(self, index: Tensor) -> None:
        """Go on from the rows `index` of the next state, with their condition and memory; copies get new noise."""
        self._next = select(self.next, index)
        self.condition = None if self.condition is None else self.condition.rows(index)
        self.memory = {owner: _picked(value, index) for owner, value in self.memory.items()}
        self.evaluations = select(self.evaluations, index)
        self.posterior = None if self.posterior is None else self.posterior[index]
        self._noise = self._noise.branch(index, f"{self.index}/{self._selected}")
        self._selected += 1

    def readout(self) -> Tree:
        """The data that the next state stands for."""
        process = self.rule if isinstance(self.rule, Process) else self.rule.process
        return process.readout(self.next, self.posterior, self.condition)

    def _evaluate(self) -> Step:
        assert self.solver is not None and self.row is not None
        rule = self.rule
        if self.row.calls:
            self.posterior = rule(self.x, self.t, self.condition, self)
            self.evaluations = self.evaluations + self.posterior.evaluations
        law, kept = self.solver.law(self.x, self.posterior, self.row, self._before, self.condition)
        if kept is not None:
            self.memory[self.solver.owner] = kept
        self.distribution = rule.before_draw(law, self) if isinstance(rule, Denoiser) else law
        return self


def _picked(value: Any, index: Tensor) -> Any:
    return value.rows(index) if isinstance(value, Condition) else select(value, index)


class Sampler:
    """A solver on a grid.

    Args:
        solver: used for every row that names none of its own.
        steps: number of rows, where `grid` is a name or None.
        grid: a `TimeGrid`, or "log-snr", "karras", "uniform", or None for what suits the process.
    """

    def __init__(self, solver: Solver, steps: int | None = None, grid: str | TimeGrid | None = None) -> None:
        if isinstance(solver, Sampler):
            raise TypeError("solver: got a Sampler, which is called itself: sampler(model, 16, seed=0)")
        if not isinstance(solver, Solver):
            raise TypeError(f"solver: expected a Solver such as solvers.DDIM(), got {solver!r}")
        if isinstance(grid, TimeGrid):
            grid.check()
        elif steps is None:
            raise ValueError("steps: give a number of steps, or a TimeGrid as grid=")
        else:
            _positive(steps)
        self.solver, self.steps_, self.grid = solver, steps, grid
        self._program: tuple[Process, list[tuple[Solver, Row]]] | None = None

    def program(self, process: Process) -> list[tuple[Solver, Row]]:
        """The bound solver and the numbers of every row: made once per process, and kept."""
        if (
            self._program is None
            or self._program[0] is not process
            or any(p.requires_grad for p in process.parameters())
        ):
            self._program = process, self._compile(process)
        return self._program[1]

    def _compile(self, process: Process) -> list[tuple[Solver, Row]]:
        grid = self.grid if isinstance(self.grid, TimeGrid) else process.grid(self.grid, self.steps_ or 1)
        grid.check_process(process)
        program: list[tuple[Solver, Row]] = []
        for own, rows in itertools.groupby(grid, key=lambda row: row.solver):
            bound = (own or self.solver).on(process)
            program += [(bound, row) for row in bound.rows(process, TimeGrid(rows))]
        return program

    def step(
        self,
        rule: Any,
        x: Tree,
        index: int | Tensor,
        condition: Condition | None = None,
        memory: dict[Any, Any] | None = None,
        noise: Noise | None = None,
        *,
        grad: bool = False,
    ) -> Step:
        """One pure step from row `index`, which may differ per sample (B,): trees and searches use it.

        The result's `next` and `memory` are the next call's `x` and `memory`.
        """
        program = self.program(rule if isinstance(rule, Process) else rule.process)
        if isinstance(index, Tensor):
            solver, row = _gathered(program, index)
        else:
            solver, row = program[index]
        source = Keyed(0, batch_size(x)) if noise is None else noise
        step = Step(rule, solver, row, index, x, condition, dict(memory or {}), source, 0, grad)
        with torch.set_grad_enabled(grad):
            return step._evaluate()

    def steps(
        self,
        rule: Any,
        start: int | Tree,
        *,
        seed: int | Tensor | Noise = 0,
        grad: bool = False,
        condition: Condition | None = None,
        **fields: Any,
    ) -> Iterator[Step]:
        """The loop, watched: yields a `Step` for every row, the prior's draw first if `start` is a count.

        Args:
            rule: a Denoiser, or a Process to simulate.
            start: a number of samples, or a state at the grid's first time. In a dict, leaves that are None
                are drawn from the prior.
            seed: an integer, a list or tensor with a seed for every sample, or a `Noise`.
            grad: keep the graph, to differentiate through the run.
            condition: a ready Condition, in place of fields.
            **fields: condition fields: label=7, label=[7, None, 2], text="a red circle", ...

        Raises:
            TypeError: a field that neither the denoiser nor its guides nor the process declare.
            ValueError: solver, process and denoiser do not fit.
        """
        if not isinstance(rule, Process | Denoiser):
            raise TypeError(
                f"expected a Denoiser (orn.load gives one, a guide makes one of one) or a Process, got {rule!r}"
            )
        process: Process = rule if isinstance(rule, Process) else rule.process
        program = self.program(process)
        _check(rule, program)
        like, given = _start(rule, start)
        n, device = batch_size(like), leaves(like)[0].device
        if condition is None:
            reads, tokenise = (
                (rule.fields, rule.tokenise) if isinstance(rule, Denoiser) else (frozenset(), None)
            )
            condition = Condition.make(n, fields, process.fields | reads, device, tokenise)
        with torch.set_grad_enabled(grad):
            condition = rule.prepare(condition) if isinstance(rule, Denoiser) else condition
        noise = seed if isinstance(seed, Noise) else _keyed(seed, n)
        return self._run(rule, process, program, like, given, condition, noise, grad)

    def _run(
        self,
        rule: Any,
        process: Process,
        program: Sequence[tuple[Solver, Row]],
        like: Tree,
        given: Tree,
        condition: Condition | None,
        noise: Noise,
        grad: bool,
    ) -> Iterator[Step]:
        x: Tree = given
        memory: dict[Any, Any] = {}
        evaluations: Any = 0
        if given is None or (isinstance(given, dict) and None in given.values()):
            step = Step(rule, None, None, -1, given, condition, memory, noise, 0, grad)
            step.t, step.s = None, program[0][1].t
            prior = _first(process, like, given, condition)
            step.distribution = rule.before_draw(prior, step) if isinstance(rule, Denoiser) else prior
            yield step
            x, condition, memory, noise = step.next, step.condition, step.memory, step._noise
        for index, (solver, row) in enumerate(program):
            step = Step(rule, solver, row, index, x, condition, memory.copy(), noise, evaluations, grad)
            if torch.is_grad_enabled() is grad:
                step._evaluate()
            else:
                with torch.set_grad_enabled(grad):
                    step._evaluate()
            yield step
            x, condition, memory = step.next, step.condition, step.memory
            noise, evaluations = step._noise, step.evaluations

    def __call__(self, rule: Any, start: int | Tree, **options: Any) -> Tree:
        """Run to the end; the arguments of `steps`."""
        with torch.set_grad_enabled(bool(options.get("grad"))):  # once, in place of once a step
            for step in self.steps(rule, start, **options):
                step.next  # noqa: B018  a step is drawn when its next state is read
            return step.readout()

    def __repr__(self) -> str:
        return f"Sampler({self.solver!r}, steps={self.steps_}, grid={self.grid!r})"


def simulate(
    process: Process, x: Tree, times: Sequence[float], *, seed: int | Tensor | Noise = 0, **fields: Any
) -> Tree:
    """A path of a process, forwards: states at `times`, (T, B, ...), the first being `x`.

    The loop is the sampler's; each step is the process's kernel (Euler-Maruyama for an `SDE`).
    """
    if any(s <= t for t, s in itertools.pairwise(times)):
        raise ValueError(f"times: expected increasing numbers, got {list(times)[:8]}")
    sampler = Sampler(Forward(), grid=TimeGrid.through(list(times)))
    path = [x, *(step.next for step in sampler.steps(process, x, seed=seed, **fields))]
    if isinstance(x, dict):
        return {k: torch.stack([state[k] for state in path]) for k in x}
    return torch.stack(path)


def _start(rule: Any, start: int | Tree) -> tuple[Tree, Tree]:
    """A state that says shapes, and the state given: None, or a tree, where the prior is to be drawn."""
    if isinstance(start, int):
        if start < 1 or isinstance(start, bool):
            raise ValueError(f"start: expected a number of samples of at least 1, or a state; got {start}")
        if not hasattr(rule, "like"):
            raise ValueError(f"start: {type(rule).__name__} is simulated from an explicit state, not a count")
        return rule.like(start), None
    for leaf in leaves(start):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"start: expected a count, a Tensor or a dict of Tensors; got {start!r}")
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            raise ValueError("start: the state holds NaN or infinite values")
    check_shape(rule, start)
    if isinstance(start, dict) and None in start.values():
        empty = rule.like(batch_size(start))
        return {k: empty[k] if v is None else v for k, v in start.items()}, start
    return start, start


def check_shape(rule: Any, start: Tree, what: str = "start") -> None:
    """Refuse a state that is not of the shape of the model's samples, where that is known."""
    expected = getattr(rule, "shape", None)
    pairs = (
        [(None, start, expected)]
        if not isinstance(start, dict)
        else [(k, v, (expected or {}).get(k)) for k, v in start.items()]
    )
    for name, leaf, shape in pairs:
        if leaf is not None and shape is not None and tuple(leaf.shape[1:]) != tuple(shape):
            at = f"{what}[{name!r}]" if name else what
            raise ValueError(
                f"{at}: samples of shape {tuple(leaf.shape[1:])}, the model's are {tuple(shape)}"
            )


def _first(process: Process, like: Tree, given: Tree, condition: Condition | None) -> Distribution:
    prior = process.prior(like, condition)
    if given is None:
        return prior
    assert isinstance(prior, Product)
    held = {k: p if given[k] is None else Gaussian(given[k]) for k, p in prior.parts.items()}
    return Product(held)


def _keyed(seed: Any, n: int) -> Keyed:
    seed = torch.tensor(seed) if isinstance(seed, list | tuple) else seed
    if isinstance(seed, Tensor) and seed.ndim:
        if len(seed) != n:
            raise ValueError(f"seed: {len(seed)} seeds given for {n} samples")
        return Keyed(seed)
    if not isinstance(seed, int | Tensor) or isinstance(seed, bool):
        raise TypeError(f"seed: expected an integer, a tensor of integers or a Noise; got {seed!r}")
    return Keyed(int(seed), n)


def _check(rule: Any, program: Sequence[tuple[Solver, Row]]) -> None:
    if isinstance(rule, Process):
        if any(row.calls for _, row in program):
            raise ValueError(
                "a Process is simulated by Forward(); this solver asks a denoiser for posteriors"
            )
    elif rule.estimates != "posterior" and any(solver.stochastic for solver, _ in program):
        raise ValueError(
            f"{type(rule).__name__} estimates a {rule.estimates} (it was trained under a dependent coupling), not a "
            "posterior: stochastic solvers are wrong for it; use a deterministic one such as DDIM() or Heun()"
        )


def _gathered(program: Sequence[tuple[Solver, Row]], index: Tensor) -> tuple[Solver, Row]:
    at, which = index.unique(return_inverse=True)
    if len(at) == 1:
        return program[int(at[0])]
    chosen = [program[i] for i in at.tolist()]
    if len({id(solver) for solver, _ in chosen}) != 1:
        raise ValueError("step: samples at rows of different solvers; group them by solver")
    return chosen[0][0], Row.gather([row for _, row in chosen], which)

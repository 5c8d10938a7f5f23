"""Error for each number of network calls, beside some 250 stock pairs of a solver and a grid of k-diffusion, azula and
diffusers (`stock.py`).

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy [--problems NAME ...] [--models NAME ...] [--series FILE ...]
        [--samples N] [--json FILE] [--figure FILE] [--tables FILE]

Problems are mixtures fitted to real data, whose denoiser is exact, and trained models of the zoo. Everyone starts from
the same points; truth is a fine solve of the same probability flow by the classical Runge-Kutta method. The peers'
best cell over all their solvers and grids is taken anew for every number of calls and every measure. In the second
table the peers also get this library's start (teleported) and its end level.

    median, rmse   of the end points' error for each sample, root-mean-square over entries (single samples may
                   change basin, which the mean sees and the median does not)
    sliced         sliced Wasserstein distance between the end points and the true ones

The Gaussian fit that `solvers.best` is given is made of 2,000 draws of the problem's data.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data
from ornstein.core import Condition, Denoiser, Sampler, TimeGrid
from ornstein.denoisers import GaussianFit
from ornstein.metrics import sliced_wasserstein
from ornstein.solvers import RungeKutta4, Teleport, best

from .problems import HIGH, LOW, PROBLEMS, mixture, windows
from .stock import LIBRARIES, Cell
from .timing import machine

CALLS = (5, 8, 10, 15, 20)
TARGETS = {"median": 0.5, "rmse": 0.75, "sliced": 0.8}
FINE = 250  # steps of the reference, four calls each


class Problem(NamedTuple):
    """A denoiser, the start y = x / alpha, draws of the data, and what the run is conditioned on."""

    name: str
    model: Denoiser
    y: Tensor
    draws: Tensor
    fields: dict[str, Tensor]
    trained: bool = False  # whether the denoiser is a network

    def time(self, level: float) -> float:
        """When sigma / alpha is `level`."""
        return self.model.process.time_at(-math.log(level))

    def denoise(self, y: Tensor, level: float) -> Tensor:
        """The posterior mean of y = x / alpha at that level."""
        t = self.time(level)
        fields, n = self.fields, len(y)
        condition = Condition.make(n, fields, self.model.fields) if fields else None
        return self.model(y * self.model.process.at(t).alpha, t, condition).mean

    def solve(self, sampler: Sampler, level: float, y: Tensor | None = None) -> Tensor:
        """Run a sampler from y at `level`; the result is x / alpha at the grid's end."""
        process, grid = self.model.process, sampler.grid
        assert isinstance(grid, TimeGrid)
        x = (self.y if y is None else y) * process.at(self.time(level)).alpha
        return sampler(self.model, x, **self.fields) / process.at(grid[-1].s).alpha


def exact(name: str, rows: Any, groups: Any, samples: int) -> Problem:
    """A mixture fitted to data, from pure noise around its mean."""
    model = mixture(rows, groups)
    generator = torch.Generator().manual_seed(1)
    mean = model.log_weights.exp() @ model.means
    y = mean + HIGH * torch.randn(samples, len(mean), generator=generator, dtype=torch.float64)
    return Problem(name, model, y, model.sample_data(2000, generator), {})


def learned(name: str, samples: int) -> Problem:
    """A zoo model with labels by turns, in double precision so that the truth has digits to spare."""
    model = orn.load(name).double()
    training = data.load(name).train
    draws = training.batch(torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:2000])[
        "x_0"
    ]
    noise = torch.randn(
        samples, *model.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    label = torch.arange(samples) % len(training.fields["label"].unique())
    return Problem(f"{name} model", model, HIGH * noise, draws.double(), {"label": label}, trained=True)


def reference(problem: Problem, steps: int = FINE) -> dict[bool, Tensor]:
    """The probability flow's end at time 0 (True) and at `LOW` (False)."""

    def solved(y: Tensor, high: float, low: float, n: int) -> Tensor:
        levels = torch.linspace(math.log(high), math.log(low), n + 1).exp().tolist()
        grid = TimeGrid.through([problem.time(level) for level in levels])
        return problem.solve(Sampler(RungeKutta4(), grid=grid), high, y)

    near = solved(problem.y, HIGH, LOW, steps)
    nearer = solved(near, LOW, LOW / 20, max(steps // 25, 4))
    return {False: near, True: problem.denoise(nearer, LOW / 20)}


def score(end: Tensor, truth: Tensor) -> dict[str, float]:
    """The three measures."""
    errors = (end - truth).flatten(1).square().mean(1).sqrt()
    return {
        "median": float(errors.median()),
        "rmse": float(errors.square().mean().sqrt()),
        "sliced": sliced_wasserstein(end, truth, resamples=2).value,
    }


def peers(problem: Problem, y: Tensor, high: float, low: float) -> Iterable[Cell]:
    """Every cell of every library that is installed."""
    for cells in LIBRARIES.values():
        with suppress(ImportError):
            yield from cells(problem.denoise, y, high, low)


def raced(problem: Problem, truth: dict[bool, Tensor], calls: int, cells: Iterable[Cell]) -> dict[str, Any]:
    """The best peer for each measure, with all that were tried counted."""
    found = []
    for cell in cells:
        end = cell.run(calls)
        if bool(torch.isfinite(end).all()):
            found.append((score(end, truth[cell.to_zero]), f"{cell.library} {cell.solver}, {cell.grid}"))
    return {m: min((s[m], name) for s, name in found) for m in TARGETS} | {"cells": len(found)}


def compared(problem: Problem, truth: dict[bool, Tensor], calls: int, fit: GaussianFit) -> dict[str, Any]:
    """Ours and the best peers, from their own start and from ours."""
    process = problem.model.process
    sampler = best(calls, process, fit, trained=problem.trained)
    grid = sampler.grid
    assert isinstance(grid, TimeGrid)
    start = problem.time(HIGH)
    ours = Sampler(sampler.solver, grid=TimeGrid.through([start, *(r.s for r in grid)]))
    levels = [math.exp(-process.half_log_snr(r.t)) for r in grid[1:]]
    jump = Sampler(Teleport(fit), grid=TimeGrid.through([start, grid[0].s]))
    teleported = problem.solve(jump, HIGH)
    return {
        "problem": problem.name,
        "calls": calls,
        "ours": score(problem.solve(ours, HIGH), truth[True]),
        "peers": raced(problem, truth, calls, peers(problem, problem.y, HIGH, LOW)),
        "same ends": raced(problem, truth, calls, to_zero(peers(problem, teleported, levels[0], levels[-1]))),
    }


def to_zero(cells: Iterable[Cell]) -> Iterable[Cell]:
    """Those that end at time 0: at this library's end level the others would be far from it."""
    return (cell for cell in cells if cell.to_zero)


def table(rows: list[dict[str, Any]], against: str) -> str:
    """Ours as a share of the best peer's, for each measure, and which peer that was for the median."""
    head = ("problem", "calls", *(f"{m} (ratio)" for m in TARGETS), "best peer by median")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        cells = [f"{r['ours'][m]:.2g} ({r['ours'][m] / r[against][m][0]:.2f})" for m in TARGETS]
        lines.append(f"| {r['problem']} | {r['calls']} | {' | '.join(cells)} | {r[against]['median'][1]} |")
    return "\n".join(lines)


def verdict(rows: list[dict[str, Any]], against: str, targets: dict[str, float]) -> str:
    """How many of the cells meet what is asked."""
    shares = [(m, r["ours"][m] / r[against][m][0]) for r in rows for m in targets]
    met = sum(share <= targets[m] for m, share in shares)
    worst = ", ".join(f"{m} {max(s for n, s in shares if n == m):.2f}" for m in targets)
    asked = ", ".join(f"{m} {limit:g}" for m, limit in targets.items())
    return f"{met} of {len(shares)} within what is asked ({asked}); worst: {worst}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Median error against calls, one panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(r["problem"] for r in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(3.2 * len(names), 3), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        own = [r for r in rows if r["problem"] == name]
        calls = [r["calls"] for r in own]
        axis.loglog(
            calls, [r["peers"]["median"][0] for r in own], "o--", color="0.5", label="best stock peer"
        )
        axis.loglog(
            calls, [r["same ends"]["median"][0] for r in own], "s:", color="0.7", label="the same, our ends"
        )
        axis.loglog(calls, [r["ours"]["median"] for r in own], "o-", color="C3", label="solvers.best")
        axis.set(title=name, xlabel="network calls", xticks=calls, xticklabels=calls)
        axis.minorticks_off()
    axes[0, 0].set_ylabel("median error")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def problems(options: argparse.Namespace) -> Iterable[Callable[[], Problem]]:
    """Makers, so that one problem at a time is in memory."""
    for name in options.problems:
        yield lambda name=name: exact(name, *PROBLEMS[name](), options.samples)
    for path in options.series:
        yield lambda path=path: exact(path.name.split(".")[0], *windows(path), options.samples)
    for name in options.models:
        yield lambda name=name: learned(name, min(options.samples, 256))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Error per network call beside the peers' stock solvers.")
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--models", nargs="*", default=[], help="zoo models, e.g. digits")
    parser.add_argument("--series", nargs="*", type=Path, default=[], help="tables such as ETTh1.csv")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--calls", nargs="*", type=int, default=CALLS)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--tables", type=Path, help="write both tables to this Markdown file")
    parser.add_argument("--figure", type=Path, help="draw the curves into this PNG")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    warnings.filterwarnings("ignore")  # the peers' own
    options, rows = arguments(), []
    about = machine(("ornstein", "torch", *LIBRARIES))
    print(about)
    for make in problems(options):
        began = time.perf_counter()
        problem = make()
        truth, rough = reference(problem), reference(problem, FINE // 2)
        print(
            f"\n{problem.name}: {tuple(problem.y.shape)}, truth to {float((truth[True] - rough[True]).abs().max()):.1e}"
        )
        fit = GaussianFit.of(problem.draws)
        for calls in options.calls:
            rows.append(compared(problem, truth, calls, fit))
            print(table(rows[-1:], "peers").splitlines()[-1], flush=True)
        print(f"{time.perf_counter() - began:.0f} s")
        write(rows, about, options)
    print(*tables(rows), sep="\n")


def tables(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Both tables with their verdicts."""
    ahead = dict.fromkeys(TARGETS, 1.0)
    return (
        f"Stock solvers and grids: {verdict(rows, 'peers', TARGETS)}.\n",
        table(rows, "peers"),
        f"\nThe peers given this library's start and end: {verdict(rows, 'same ends', ahead)}.\n",
        table(rows, "same ends"),
    )


def write(rows: list[dict[str, Any]], about: dict[str, Any], options: argparse.Namespace) -> None:
    """What is known after each problem, so that a run may be ended early."""
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8")
    if options.tables:
        options.tables.write_text("\n".join(tables(rows)) + "\n", encoding="utf-8")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()

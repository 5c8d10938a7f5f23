"""What a solver step costs beside k-diffusion, azula and diffusers when the denoiser costs nothing.

    OMP_NUM_THREADS=1 python -m benchmarks.overhead [--rounds N] [--steps N] [--json FILE] [--tables FILE]

A run is a whole call of the sampler; times are divided by its evaluations of the denoiser. The measure is a plain
multiply-add `a * x + b * y` of two states, which no step can do without. Everyone has a turn of at least 5 ms in every
round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Denoiser, Noise, Posterior, Sampler
from ornstein.denoisers import GaussianFit
from ornstein.guides import Clamp, ClassifierFree
from ornstein.processes import VariancePreserving
from ornstein.solvers import (
    DDIM,
    DEIS,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    Euler,
    ExponentialAdams,
    GaussianExponential,
    Heun,
    RungeKutta4,
    UniPC,
)

from .peers import PEERS, Free, evaluations
from .timing import Contestant, machine, quartiles, race, ratio

SHAPES = ((1, 1, 8, 8), (1, 3, 32, 32), (64, 3, 32, 32))
PACKAGES = ("ornstein", "torch", "k-diffusion", "azula", "diffusers")
SHARE = 1 / 3  # of the leanest peer's solver of the same order, of as many calls a step, for small states
MOST = 2.5  # multiply-adds an evaluation, of every deterministic one, for large states
ORDERS = {  # order, and calls a step: each is compared with all the peers' methods that agree in both
    "Euler": (1, 1),
    "DDIM": (1, 1),
    "2M": (2, 1),
    "Heun": (2, 2),
    "order 2, single-step": (2, 2),
    "order 3": (3, 1),
    "order 3, noise": (3, 1),
    "order 3, Rosenbrock": (3, 1),
    "order 3, single-step": (3, 3),
    "UniPC 2": (3, 1),
    "order 4": (4, 1),
    "order 4, noise": (4, 1),
    "order 4, single-step": (4, 4),
    "UniPC 3": (4, 1),
}


class FreeDenoiser(Denoiser):
    """Posterior means that are already there."""

    fields = frozenset({"label"})

    def __init__(self, free: Free) -> None:
        super().__init__()
        self.free, self.process = free, VariancePreserving()

    def forward(self, x: Tensor, t: Any, condition: Any = None, step: Any = None) -> Posterior:
        return Posterior(self.process, x, t, self.free(), condition=condition)

    def many(self, x: Tensor, t: Any, conditions: Sequence[Any], step: Any = None) -> list[Posterior]:
        return [self.forward(x, t, condition) for condition in conditions]


class OneDraw(Noise):
    """What other libraries do: one draw for the whole batch from the global generator."""

    def fold(self, name: str | int) -> OneDraw:
        return self

    def normal(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return torch.randn(*shape, *like.shape, dtype=like.dtype)


def ornstein(x: Tensor, free: Free, steps: int) -> Iterator[Contestant]:
    """Each method, then DPM-Solver++(2M) under guides and ancestral steps with cheaper noise."""
    denoiser = FreeDenoiser(free)
    clamp = Clamp(torch.zeros(x.shape[1:], dtype=torch.bool), torch.zeros(x.shape[1:]))
    guided, label = ClassifierFree(2.0)(denoiser), {"label": torch.zeros(len(x), dtype=torch.long)}
    size = x[0].numel()
    axes = torch.linalg.qr(torch.randn(size, 16, generator=torch.Generator().manual_seed(9)))[
        0
    ].T.contiguous()
    fit = GaussianFit(torch.zeros(x.shape[1:]), axes, torch.ones(16), 0.1)
    plans: dict[str, tuple[Any, Denoiser, dict[str, Any]]] = {
        "2M": (DPMSolverPP(), denoiser, {}),
        "DDIM": (DDIM(), denoiser, {}),
        "Euler": (Euler(), denoiser, {}),
        "Heun": (Heun(), denoiser, {}),
        "order 2, single-step": (DPMSolver(2, "data"), denoiser, {}),
        "order 3": (ExponentialAdams(3), denoiser, {}),
        "order 3, noise": (DEIS(3), denoiser, {}),
        "order 3, Rosenbrock": (ExponentialAdams(3, 0.5), denoiser, {}),
        "order 3, single-step": (DPMSolver(3), denoiser, {}),
        "order 4": (ExponentialAdams(4), denoiser, {}),
        "order 4, noise": (DEIS(4, "rho"), denoiser, {}),
        "order 4, single-step": (RungeKutta4(), denoiser, {}),
        "UniPC 2": (UniPC(2), denoiser, {}),
        "UniPC 3": (UniPC(3), denoiser, {}),
        "order 4, Gaussian fit": (GaussianExponential(fit), denoiser, {}),
        "ancestral": (Ancestral(), denoiser, {}),
        "ancestral, one draw": (Ancestral(), denoiser, {"seed": OneDraw()}),
        "2M, Clamp": (DPMSolverPP(), clamp(denoiser), {}),
        "2M, ClassifierFree": (DPMSolverPP(), guided, label),
        "2M, both": (DPMSolverPP(), clamp(guided), label),
    }
    for name, (solver, rule, options) in plans.items():
        sampler = Sampler(solver, steps)
        run = lambda sampler=sampler, rule=rule, options=options: sampler(rule, x, **options)  # noqa: E731
        yield Contestant("ornstein", name, run, evaluations(name, steps))


def contestants(shape: tuple[int, ...], steps: int) -> tuple[list[Contestant], dict[str, str]]:
    """Everyone who is installed, and why the others are not there."""
    x, y, *means = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(4))
    free = itertools.cycle(means).__next__  # two tensors by turns, as a network's outputs differ
    found = [
        Contestant("torch", "multiply-add", lambda: multiply_adds(x, y, steps), steps),
        Contestant("torch", "multiply, add in place", lambda: in_place(x, y, steps), steps),
    ]
    found += ornstein(x, free, steps)
    missing = {}
    for name, peer in PEERS.items():
        try:
            found += peer(x, free, steps)
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def multiply_adds(x: Tensor, y: Tensor, count: int) -> None:
    for _ in range(count):
        1.1 * x + 0.9 * y


def in_place(x: Tensor, y: Tensor, count: int) -> None:
    """The least that a step in eager torch can be: no solver can be below it."""
    for _ in range(count):
        torch.mul(x, 1.1).add_(y, alpha=0.9)


def measured(shape: tuple[int, ...], steps: int, rounds: int) -> dict[str, Any]:
    """Race all at one shape; rows of results."""
    found, missing = contestants(shape, steps)
    race(found, rounds)
    rows = [row(contestant, found) for contestant in found]
    return {"shape": shape, "missing": missing, "rows": rows}


def row(contestant: Contestant, found: list[Contestant]) -> dict[str, Any]:
    """One contestant in microseconds a step, in multiply-adds, and beside the peers at its method."""
    peers = [c for c in found if c.library in PEERS and comparable(contestant.name, c.name)]
    leanest = {}
    for peer in sorted(peers, key=lambda c: -statistics.median(c.seconds)):
        leanest[peer.library] = peer
    return {
        "library": contestant.library,
        "name": contestant.name,
        "microseconds": quartiles(1e6 * s for s in contestant.seconds),
        "multiply_adds": ratio(contestant, found[0]),
        "page_faults": statistics.median(contestant.faults),
        "beside": {
            f"{library}'s {p.name}": ratio(contestant, p)
            for library, p in leanest.items()
            if contestant.library == "ornstein"
        },
    }


def comparable(ours: str, theirs: str) -> bool:
    """Whether two methods agree in order and calls a step; under a guide and with other noise, the same method."""
    if ours in ORDERS:
        return ORDERS[ours] == ORDERS.get(theirs)
    return ours.split(",")[0] == theirs


def table(result: dict[str, Any]) -> str:
    """One line a method: microseconds an evaluation of everyone who has it, ours in multiply-adds and beside them."""
    found = {(r["library"], r["name"]): r for r in result["rows"]}
    head = (
        "µs an evaluation",
        "ornstein",
        *PEERS,
        "in multiply-adds",
        "share of the leanest peer of its kind",
    )
    lines = [
        f"\n### {'x'.join(map(str, result['shape']))}\n",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name in dict.fromkeys(name for _, name in found):
        times = [found.get((library, name)) for library in ("ornstein", *PEERS)]
        own = times[0] or found.get(("torch", name))
        cells = [f"{r['microseconds'].median:.0f}" if r else "" for r in times]
        if own and not times[0]:
            cells[0] = f"({own['microseconds'].median:.0f})"  # torch's own
        cells += [f"{own['multiply_adds'].median:.2f}", share(own)] if own else ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"\n{name} is left out: {why}" for name, why in result["missing"].items())])


def share(r: dict[str, Any] | None) -> str:
    """Of the peer of the same order and calls a step that costs least."""
    if not r or not r["beside"]:
        return ""
    most, peer = max((ratio.median, peer) for peer, ratio in r["beside"].items())
    return f"{most:.2f} of {peer}"


def verdicts(result: dict[str, Any]) -> list[str]:
    """Whether every deterministic solver meets what is asked at this shape."""
    ours = [r for r in result["rows"] if r["library"] == "ornstein" and r["name"] in ORDERS]
    if result["shape"][0] > 1:
        return [
            said(r["name"], result["shape"], r["multiply_adds"].median, "multiply-adds", MOST) for r in ours
        ]
    lines = []
    for r in ours:
        ratios = sorted(((q.median, peer) for peer, q in r["beside"].items()), reverse=True)
        if ratios:
            lines.append(said(r["name"], result["shape"], *ratios[0], SHARE))
        else:
            lines.append(f"{r['name']}: not compared, no peer has one of this order and so many calls a step")
    return lines


def said(name: str, shape: Sequence[int], found: float, against: str, limit: float) -> str:
    """One line of the verdict."""
    met = "met" if found <= limit else "MISSED"
    return f"{name} at {'x'.join(map(str, shape))}: {found:.2f} of {against}, asked for {limit:.2f} at most: {met}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A solver step beside its peers, with a free denoiser.")
    parser.add_argument("--rounds", type=int, default=40, help="turns of every contestant (default 40)")
    parser.add_argument("--steps", type=int, default=20, help="steps a run (default 20)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--tables", type=Path, help="write the tables and verdicts to this Markdown file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    about = machine(PACKAGES)
    print(about)
    results = [measured(shape, options.steps, options.rounds) for shape in SHAPES]
    lines = [*map(table, results), "", *(f"- {line}" for r in results for line in verdicts(r))]
    print(*lines, sep="\n")
    if options.tables:
        options.tables.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.json:
        record = {**about, "steps": options.steps, "rounds": options.rounds, "results": results}
        options.json.write_text(json.dumps(record, indent=1, default=asdict), encoding="utf-8")


if __name__ == "__main__":
    main()

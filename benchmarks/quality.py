"""How good samples of the zoo's models are by solver and number of calls: distances in a classifier's features.

    OMP_NUM_THREADS=1 python -m benchmarks.quality [--models NAME ...] [--calls N ...] [--samples N] [--table FILE]

The Fréchet distance to held-out data with its bootstrap interval; every solver starts from the same noise, with labels
by turns. Two intervals that overlap do not rank two solvers; the distance of training data says what is as good as
real.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import ornstein as orn
from ornstein import data, metrics, solvers
from ornstein.core import Solver

SOLVERS: dict[str, Solver | None] = {
    "orn.sample": None,
    "UniPC(2)": solvers.UniPC(2),
    "DPM-Solver++(2M)": solvers.DPMSolverPP(2),
    "DEIS(3)": solvers.DEIS(3),
    "DDIM": solvers.DDIM(),
    "Ancestral": solvers.Ancestral(),
}


def measured(name: str, calls: list[int], samples: int) -> list[str]:
    """Rows of the table of one model."""
    model, classifier = orn.load(name), metrics.load_classifier(name)
    dataset = data.load(name)
    every = torch.linspace(0, len(dataset.held_out) - 1, min(samples, len(dataset.held_out))).long()
    known = metrics.classifier_features(classifier, dataset.held_out.batch(every)["x_0"])
    label = torch.arange(samples) % len(dataset.classes or (0,))

    def distance(x: Any) -> str:
        found = metrics.frechet_distance(metrics.classifier_features(classifier, x), known)
        return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"

    some = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:samples]
    lines = [
        f"| {name} | training data | {' | '.join([distance(dataset.train.batch(some)['x_0'])] * len(calls))} |"
    ]
    for title, solver in SOLVERS.items():
        cells = []
        for n in calls:
            drawn = [
                orn.sample(
                    model, len(part), steps=n, solver=solver, seed=[int(i) for i in part], label=label[part]
                )
                for part in torch.arange(samples).split(250)
            ]
            cells.append(distance(torch.cat(drawn)))
        lines.append(f"| {name} | {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Feature distances of the zoo's models by solver and calls.")
    parser.add_argument("--models", nargs="+", default=["digits", "fashion-mnist"])
    parser.add_argument("--calls", nargs="+", type=int, default=[5, 10, 20])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--table", type=Path, help="write the table to this Markdown file")
    options = parser.parse_args()
    head = ["model", "samples by", *(f"{n} calls" for n in options.calls)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in options.models:
        lines += measured(name, options.calls, options.samples)
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

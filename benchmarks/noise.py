"""What noise by key costs beside one draw for the whole batch.

    OMP_NUM_THREADS=1 python -m benchmarks.noise [--rounds N] [--json FILE]

`Keyed` noise of a row does not depend on the batch it is in; one `torch.randn` does. Both draw as the sampler
does, at a step of its own.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Keyed

from .timing import Contestant, machine, quartiles, race, ratio

BATCHES = (1, 64, 1024, 10_000)
EVENTS = ((2,), (64,), (256,), (1024,), (3, 32, 32), (3, 64, 64))
LARGEST = 2**24  # numbers a draw: above, a single draw takes longer than the rest of the table


def contestants(like: Tensor) -> list[Contestant]:
    """By key and at once, normal and Gumbel."""
    noise = Keyed(0, len(like))
    draws: dict[tuple[str, str], Callable[[], Tensor]] = {
        ("torch", "normal"): lambda: torch.randn(like.shape),
        ("torch", "gumbel"): lambda: torch.rand(like.shape).log_().neg_().log_().neg_(),
        ("ornstein", "normal"): lambda: noise.fold(3).normal(like),
        ("ornstein", "gumbel"): lambda: noise.fold(3).gumbel(like),
    }
    return [Contestant(library, name, draw) for (library, name), draw in draws.items()]


def measured(batch: int, event: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """One row of the table."""
    like = torch.empty(batch, *event)
    found = contestants(like)
    race(found, rounds)
    result: dict[str, Any] = {"batch": batch, "event": event}
    by_key = {(c.library, c.name): c for c in found}
    for name in ("normal", "gumbel"):
        ours, theirs = by_key["ornstein", name], by_key["torch", name]
        result[name] = {
            "microseconds": quartiles(1e6 * s for s in ours.seconds),
            "at_once": quartiles(1e6 * s for s in theirs.seconds),
            "ratio": ratio(ours, theirs),
        }
    return result


def line(result: dict[str, Any]) -> str:
    cells = [str(result["batch"]), "x".join(map(str, result["event"]))]
    for name in ("normal", "gumbel"):
        r = result[name]
        cells += [f"{r['at_once'].median:.0f}", f"{r['microseconds'].median:.0f}", f"{r['ratio']:.2f}"]
    return f"| {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Noise by key beside one draw for the whole batch.")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contestant (default 20)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    about = machine(("ornstein", "torch"))
    print(about)
    print("\nMicroseconds a draw, medians; ratio with its quartiles.\n")
    print("| batch | event | randn | normal by key | ratio | Gumbel at once | Gumbel by key | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for event in EVENTS:
        for batch in BATCHES:
            if batch * math.prod(event) <= LARGEST:
                results.append(measured(batch, event, options.rounds))
                print(line(results[-1]), flush=True)
    if options.json:
        record = {**about, "rounds": options.rounds, "results": results}
        options.json.write_text(json.dumps(record, indent=1, default=asdict), encoding="utf-8")


if __name__ == "__main__":
    main()

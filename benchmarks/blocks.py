"""How long a blockwise transformer takes to make a sample, against the number of blocks.

    OMP_NUM_THREADS=1 python -m benchmarks.blocks [--rounds N] [--json FILE]

Signals grow block by block at a fixed block size and fixed steps a block, with the keys and values of clean blocks kept
and without. Then one signal of fixed length is cut into 1, 2, 4, ... blocks: one block is full-sequence diffusion.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ornstein import Sampler, TimeGrid
from ornstein.denoisers import Blockwise
from ornstein.networks import BlockwiseTransformer
from ornstein.processes import RectifiedFlow
from ornstein.solvers import DPMSolverPP, block_by_block

from .timing import Contestant, machine, quartiles, race

STEPS, BATCH, WIDTH, DEPTH = 4, 2, 48, 3
GROWING = (2, 4, 8, 16)  # blocks of BLOCK tokens
BLOCK, LENGTH = 32, 512
CUTS = (1, 2, 4, 8, 16)  # of LENGTH tokens


def contestant(length: int, blocks: int, cached: bool = True) -> Contestant:
    """One run of a batch of signals; untrained, since time does not depend on weights."""
    torch.manual_seed(0)
    network = BlockwiseTransformer(1, (length,), grid=blocks, width=WIDTH, depth=DEPTH, heads=4)
    model = Blockwise(network.eval(), RectifiedFlow(), cached=cached)
    grid = block_by_block(TimeGrid.log_snr(STEPS, model.process), model.blocks, DPMSolverPP())
    sampler = Sampler(DPMSolverPP(), grid=grid)
    name = f"{length} tokens in {blocks} blocks, {'cached' if cached else 'anew'}"
    return Contestant("ornstein", name, lambda: sampler(model, BATCH, seed=0), BATCH)


def straightness(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The exponent of y ~ x^p by least squares of logarithms, and how much of y a straight line explains."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    slope = torch.linalg.lstsq(torch.stack([a.log(), torch.ones_like(a)], 1), b.log()[:, None]).solution[0]
    return {"exponent": float(slope), "r2": float(torch.corrcoef(torch.stack([a, b]))[0, 1] ** 2)}


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    started = time.perf_counter()
    racing = {("grow", n, kept): contestant(n * BLOCK, n, kept) for n in GROWING for kept in (True, False)}
    racing |= {("cut", n, True): contestant(LENGTH, n) for n in CUTS}
    race(list(racing.values()), options.rounds)
    rows: list[dict[str, Any]] = [
        {"part": part, "blocks": n, "cached": kept, "seconds": asdict(quartiles(racer.seconds))}
        for (part, n, kept), racer in racing.items()
    ]
    print("| | blocks | keys and values | seconds a sample |\n|---|---|---|---|")
    for row in rows:
        kept = "kept" if row["cached"] else "anew"
        print(f"| {row['part']} | {row['blocks']} | {kept} | {row['seconds']['median']:.3f} |")
    lines = {}
    for kept in (True, False):
        seconds = [r["seconds"]["median"] for r in rows if r["part"] == "grow" and r["cached"] is kept]
        lines["kept" if kept else "anew"] = straightness(GROWING, seconds)
    print(json.dumps(lines), f"in {time.perf_counter() - started:.0f} s")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                {"machine": machine(["ornstein", "torch"]), "rows": rows, "lines": lines}, file, indent=1
            )


if __name__ == "__main__":
    main()

"""How much two processes that share a batch gain over one: images a second of `fit`, through accelerate and gloo.

    OMP_NUM_THREADS=1 python -m benchmarks.processes [--steps N] [--batch N]

The network is that of `benchmarks.training`, on 1x28x28 Fashion-MNIST; each process has one thread. Efficiency is the
gain divided by the number of processes. Times are of the clock, so that a busy machine shows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import torch

import ornstein as orn
from ornstein.data.fashion import fashion_mnist
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import UNet
from ornstein.processes import RectifiedFlow

from .trainers import OURS

WARM = 5  # steps that are not timed


def train(steps: int, batch: int) -> None:
    """One process's part of a run; the first prints what the clock says."""
    torch.manual_seed(0)
    model = NetworkDenoiser(UNet(1, **OURS), RectifiedFlow(), "edm", shape=(1, 28, 28), scale=0.57)
    seen: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as own:
        folder = os.environ.get("ORNSTEIN_RUN", own)
        orn.fit(
            model, fashion_mnist(28), steps=steps + WARM, batch=batch, out=folder, report_every=WARM,
            evaluate_every=0, sample_every=0, checkpoint_every=steps + WARM, progress=False,
            callback=lambda line: seen.append((line["step"], time.perf_counter())),
        )  # fmt: skip
    if seen:
        (first, start), (last, end) = seen[0], seen[-1]
        print(json.dumps({"images a second": batch * (last - first) / (end - start)}))


def measured(count: int, steps: int, batch: int) -> float:
    """Images a second of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ORNSTEIN_RUN": folder}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        command += ["-m", "benchmarks.processes", "--part", "--steps", str(steps), "--batch", str(batch)]
        printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: float = json.loads(printed.strip().splitlines()[-1])["images a second"]
    return found


def main() -> None:
    """Measure one and two, print both and the efficiency."""
    parser = argparse.ArgumentParser(description="Two processes that share a batch beside one.")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument(
        "--batch", type=int, default=128, help="images a step, of all processes (default 128)"
    )
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        train(options.steps, options.batch)
        return
    one, two = (measured(count, options.steps, options.batch) for count in (1, 2))
    print(f"one process {one:.1f} images a second, two {two:.1f}: efficiency {two / one / 2:.2f}")


if __name__ == "__main__":
    main()

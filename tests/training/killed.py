"""Runs the same training again and again, each time killed at a random moment, until it is done.

    python killed.py FOLDER KILLS RANDOM_SEED

The first `KILLS` processes are killed with SIGKILL, half of them just before a call that touches the disk, half
of them after a random time. Each process is a fork of this one, which has done nothing but imports.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable

import torch

import ornstein.training.loop  # noqa: F401  so that forks need not
from ornstein import denoisers, networks, objectives, processes
from ornstein.data import Dataset, TensorSplit
from ornstein.training import fit

STEPS = 36
LONGEST = 0.5  # seconds before a kill
# what several processes are compared by; dropout is the one thing that knows the process and would differ
SHARED = {
    "dropout": 0.0,
    "steps": 8,
    "report_every": 2,
    "checkpoint_every": 3,  # within a report's window, so that half a window is kept and goes on
    "evaluate_every": 4,
    "sample_every": 0,
}


def sequences() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(50, 2, 8, generator=generator), torch.arange(50) % 3
    train = TensorSplit(x[:40] * 0.3, {"label": labels[:40]})
    return Dataset(
        "sequences", train, TensorSplit(x[40:] * 0.3, {"label": labels[40:]}), (2, 8), ("a", "b", "c")
    )


def train(folder: str, dropout: float = 0.2, **options: object):
    torch.manual_seed(5)
    network = networks.UNet(2, dims=1, width=8, multipliers=(1,), labels=3, dropout=dropout)
    denoiser = denoisers.NetworkDenoiser(network, processes.VariancePreserving(), "noise", shape=(2, 8))
    given = {
        "steps": STEPS, "batch": 16, "report_every": 3, "evaluate_every": 8, "sample_every": 12,
        "checkpoint_every": 4, "ema": 0.9, "patience": 5, "progress": False, "out": folder,
    }  # fmt: skip
    return fit(denoiser, sequences(), objectives.Denoising(), **{**given, **options})


def killed_before_a_call(count: int) -> None:
    """Kill this process when it is about to touch the disk for the `count`-th time."""
    left = [count]

    def counted(original: Callable) -> Callable:
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "mkdir", "truncate", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


def child(folder: str, calls: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        if calls:
            killed_before_a_call(calls)
        train(folder)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def main(folder: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    by_signal = 0
    for attempt in range(kills + 1):
        calls = chance.randint(1, 40) if attempt % 2 else None
        pid = child(folder, calls if attempt < kills else None)
        if attempt < kills and calls is None:
            time.sleep(chance.uniform(0.02, LONGEST))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        by_signal += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit(f"attempt {attempt} failed")
        if os.WIFEXITED(status) and attempt < kills and not calls:
            break
    print(by_signal)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

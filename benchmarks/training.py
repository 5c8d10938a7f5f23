"""Training beside diffusers, denoising-diffusion-pytorch and smalldiffusion, on Fashion-MNIST and on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.training [speed] [loss] [race] [--seconds S] [--images N] [--json FILE]

speed   images a second of one training step of everyone (networks of some 2 million parameters, 1x28x28, batch 64), by
        turns; and what the framework adds to a bare loop over the same network, which is to be 3 % at most
loss    the same number of images seen by everyone: the held-out denoising error |D - x_0|^2 at nine noise levels, each
        divided by what the best constant-gain denoiser makes of it, in the mean
race    everyone trains for the same seconds on 16x16 images and is stopped from time to time to sample by 20 network
        calls; the Frechet distance to held-out images in a classifier's features, and the time at which ours is as low
        as smalldiffusion's ends
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein import metrics
from ornstein.data.fashion import fashion_mnist

from .timing import Contestant, machine, quartiles, race, ratio
from .trainers import TRAINERS, Trainer, bare

PACKAGES = ("ornstein", "torch", "diffusers", "denoising-diffusion-pytorch", "smalldiffusion")
LEVELS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BATCH = 64
SAMPLES = 500  # drawn at every stop of the race
LONG = 10**6  # steps of a run that is not to end


def trainers(data: Any, batch: int, steps: int) -> dict[str, Trainer]:
    """Everyone who is installed."""
    found = {}
    for name, make in TRAINERS.items():
        try:
            found[name] = make(data, batch, steps)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def speed(rounds: int) -> dict[str, Any]:
    """Seconds a step of everyone, by turns."""
    data = fashion_mnist(28)
    everyone = trainers(data, BATCH, LONG)
    contestants = [Contestant(name, "step", counted(t.step)) for name, t in everyone.items()]
    loop = Contestant("bare loop", "step", counted(bare(data, BATCH)))
    race([*contestants, loop], rounds)
    found: dict[str, Any] = {}
    for c in [*contestants, loop]:
        rate = quartiles(BATCH / s for s in c.seconds)
        size = everyone[c.library].parameters if c.library in everyone else everyone["ornstein"].parameters
        found[c.library] = {"images a second": asdict(rate), "parameters": size}
        print(f"{c.library}: {rate:.1f} images a second, {size / 1e6:.2f}M parameters")
    overhead = ratio(contestants[0], loop)
    print(f"ornstein beside a bare loop: {overhead:.3f}, asked for 1.03 at most")
    best = max(contestants[1:], key=lambda c: -statistics.median(c.seconds), default=None)
    if best:
        print(f"ornstein beside {best.library}: {ratio(best, contestants[0]):.2f} times its images a second")
    return found | {"overhead": asdict(overhead)}


def counted(step: Callable[[int], object]) -> Callable[[], object]:
    """The step as a function of nothing."""
    done = iter(range(LONG))
    return lambda: step(next(done))


def loss(seen: int) -> dict[str, Any]:
    """Everyone's held-out error after as many images."""
    data, found = fashion_mnist(28), {}
    steps = seen // BATCH
    for name, trainer in trainers(data, BATCH, steps).items():
        began = time.process_time()
        for i in range(steps):
            trainer.step(i)
        spent = time.process_time() - began
        found[name] = {
            "error": held_out_error(trainer, data),
            "seconds": spent,
            "parameters": trainer.parameters,
        }
        print(
            f"{name}: {found[name]['error']:.4f} after {steps * BATCH} images and {spent:.0f} s", flush=True
        )
    return found


def held_out_error(trainer: Trainer, data: Any) -> float:
    """Mean over levels of |D - x_0|^2 beside that of N(mean, variance) data's best linear denoiser."""
    x_0 = data.held_out.batch(torch.arange(500))["x_0"]
    variance = float(x_0.var())
    ratios = []
    for k, level in enumerate(LEVELS):
        z = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(k))
        error = float((trainer.denoise(x_0 + level * z, level) - x_0).square().mean())
        ratios.append(error * (1 / variance + 1 / level**2))
    return statistics.mean(ratios)


def distances(seconds: float, stops: int) -> dict[str, Any]:
    """(seconds, Frechet distance) of ours and of smalldiffusion's while they train."""
    data, classifier = fashion_mnist(16), metrics.load_classifier("fashion-mnist")
    known = metrics.classifier_features(classifier, data.held_out.batch(torch.arange(2000))["x_0"])
    found: dict[str, Any] = {}
    for name, batch in (("smalldiffusion", BATCH), ("ornstein", BATCH)):
        paces: list[float] = []
        trainer = TRAINERS[name](data, batch, planned(name, data, batch, seconds))
        found[name], spent, i = [], 0.0, 0
        for stop in range(1, stops + 1):
            while spent < seconds * stop / stops:
                began = time.process_time()
                trainer.step(i)
                paces.append(time.process_time() - began)
                spent, i = spent + paces[-1], i + 1
            found[name].append((spent, distance(trainer.draw(SAMPLES, 20), classifier, known)))
            print(f"{name}: {found[name][-1][1]:.2f} after {spent:.0f} s and {i * batch} images", flush=True)
    print(verdict(found))
    return found


def planned(name: str, data: Any, batch: int, seconds: float) -> int:
    """Steps that fit into the time, which a schedule of the learning rate has to know: five are tried."""
    trainer = TRAINERS[name](data, batch, LONG)
    trainer.step(0)
    began = time.process_time()
    for i in range(1, 6):
        trainer.step(i)
    return int(seconds / (time.process_time() - began) * 5)


def distance(x: Tensor, classifier: Any, known: Tensor) -> float:
    """In the classifier's features."""
    return metrics.frechet_distance(metrics.classifier_features(classifier, x.clamp(-1, 1)), known).value


def verdict(found: dict[str, Any]) -> str:
    """When ours is as low as theirs ever gets."""
    target = min(d for _, d in found["smalldiffusion"])
    reached = min(s for s, d in found["smalldiffusion"] if d == target)
    ours = [s for s, d in found["ornstein"] if d <= target]
    share = f"{ours[0] / reached:.2f} of its time" if ours else "not reached"
    return f"smalldiffusion's best, {target:.2f}, is reached by ornstein in {share}, asked for 0.5 at most"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed beside the peers, on one thread.")
    parser.add_argument(
        "parts", nargs="*", default=[], help="speed, loss, race; all of them if none is named"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of everyone for the speed (default 15)")
    parser.add_argument(
        "--images", type=int, default=25_600, help="images seen for the loss (default 25,600)"
    )
    parser.add_argument("--seconds", type=float, default=600, help="seconds of the race (default 600)")
    parser.add_argument("--stops", type=int, default=5, help="stops of the race (default 5)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    about = machine(PACKAGES)
    print(about)
    parts = {
        "speed": lambda: speed(options.rounds),
        "loss": lambda: loss(options.images),
        "race": lambda: distances(options.seconds, options.stops),
    }
    found = {name: run() for name, run in parts.items() if name in (options.parts or parts)}
    if options.json:
        options.json.write_text(json.dumps({**about, **found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Immiscible Diffusion: Accelerating Diffusion Training with Noise Assignment (Li et al. 2024, 2406.12303).

Measured here on 8x8 digits (a surrogate for CIFAR-10 and ImageNet latents, with the Frechet distance in a digits
classifier's features for FID): a rectified flow trained with noise drawn independently, assigned within the batch as
the released code does, or the nearest of four draws, its later variant. Training speed (at 50 Euler steps) and
straightness of the paths (at 5) are measured apart. Not in this claim: consistency models and fine-tuning.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ornstein import data, denoisers, fit, metrics, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Denoiser, Sampler, TimeGrid

STEPS = {"smoke": 20, "quick": 800, "full": 6000}
SAMPLES = {"smoke": 100, "quick": 600, "full": 3000}
CHECKS = 4  # distances during training, evenly spaced
FEW, MANY = 5, 50  # Euler steps
FASTER, STRAIGHTER = 1.3, 0.9
BATCH = 256
COUPLINGS = {
    "independent": objectives.Independent(),
    "assigned": objectives.OptimalAssignment("euclidean", precision="float16", scale=0.1),
    "nearest": objectives.NearestNoise(4),
}


METHODS = ("assigned", "nearest")


class Immiscible(Claim):
    slug = "immiscible"
    statement = (
        "Noise assigned to 8x8 digits within a batch of 256 (the released code's quantised assignment; a surrogate for "
        f"CIFAR-10) reaches the final quality of independent noise, at {MANY} Euler steps of the averaged weights, in "
        f"at least {FASTER} times fewer training steps: reproduced. Samples in {FEW} Euler steps that are better by a "
        "tenth at the end of training are a part of the claim: partly"
    )
    baseline = (
        "the same data, order of batches, initial weights, network and sampler, with independent noise; the loss is no "
        "metric, since a coupling lowers it by construction, and the assignment's own time is reported"
    )
    effects = (
        *(Effect(f"{arm}: speed-up in training steps", of=f"{arm} speed-up") for arm in METHODS),
        *(
            Effect(
                f"{arm} / independent: FD in {calls} steps",
                of=f"{arm} {calls}",
                against=f"independent {calls}",
                ratio=True,
            )
            for arm in METHODS
            for calls in (FEW, MANY)
        ),
        *(
            Effect(f"{arm}: FD in {calls} steps", of=f"{arm} {calls}")
            for arm in COUPLINGS
            for calls in (FEW, MANY)
        ),
        Effect(
            "assigned / independent: time of a training step",
            of="assigned time",
            against="independent time",
            ratio=True,
        ),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for i, arm in enumerate(COUPLINGS):
            progress(i / len(COUPLINGS), arm)
            curve = Curve(SAMPLES[budget], seed)
            began = time.process_time()
            trained(arm, STEPS[budget], curve, seed)
            found[f"{arm} time"] = time.process_time() - began - curve.seconds
            found[f"{arm} {FEW}"], found[f"{arm} {MANY}"] = (curve.found[k][-1] for k in (FEW, MANY))
            if arm == "independent":
                wanted = curve.found[MANY][-1]
            else:
                found[f"{arm} speed-up"] = CHECKS / reached(curve.found[MANY], wanted)
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        said = "; ".join(
            f"{arm}: speed-up {effects[f'{arm}: speed-up in training steps'].value:.3g}, FD over that of independent "
            f"noise {effects[f'{arm} / independent: FD in {FEW} steps'].value:.3g} in {FEW} steps and "
            f"{effects[f'{arm} / independent: FD in {MANY} steps'].value:.3g} in {MANY}"
            for arm in METHODS
        )
        if effects["assigned: speed-up in training steps"].above(FASTER):
            return Verdict("reproduced", said)
        if effects[f"assigned / independent: FD in {FEW} steps"].below(STRAIGHTER):
            return Verdict("partly", f"straighter paths but no faster training; {said}")
        return Verdict("not reproduced", said)


class Curve:
    """Distances of the average model during training; called as `fit` calls what draws its sheets."""

    columns = 8

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.seconds = n, seed, 0.0
        self.found: dict[int, list[float]] = {FEW: [], MANY: []}
        self.classifier = metrics.load_classifier("digits")
        scans = data.load("digits")
        every = torch.cat([scans.train.x_0, scans.held_out.x_0])
        self.known = metrics.classifier_features(self.classifier, every)

    def __call__(self, model: Denoiser) -> Tensor:
        began = time.process_time()
        start = torch.randn(self.n, 1, 8, 8, generator=torch.Generator().manual_seed(self.seed))
        for calls, distances in self.found.items():
            x = Sampler(solvers.DDIM(), grid=TimeGrid.uniform(calls))(model, start.flatten(1), seed=self.seed)
            features = metrics.classifier_features(self.classifier, x.reshape(-1, 1, 8, 8))
            distances.append(float(metrics.frechet_distance(features, self.known, resamples=2).value))
        self.seconds += time.process_time() - began
        return x[:64]


def trained(arm: str, steps: int, curve: Curve, seed: int) -> Denoiser:
    """A rectified flow of vectors of 64 pixels."""
    torch.manual_seed(seed)
    scans = data.load("digits")
    flat = data.Dataset(
        "digits", data.TensorSplit(scans.train.x_0.flatten(1)), data.TensorSplit(scans.held_out.x_0.flatten(1)), (64,)
    )  # fmt: skip
    network = networks.ResidualMLP(64, width=256, depth=3)
    model = denoisers.NetworkDenoiser(network, processes.RectifiedFlow(), "velocity", shape=(64,))
    objective = objectives.Denoising(coupling=COUPLINGS[arm])
    with tempfile.TemporaryDirectory() as folder:
        run = fit(
            model, flat, objective, steps=steps, batch=BATCH, out=folder, seed=seed, schedule="constant", ema=0.99,
            evaluate_every=0, sample_every=steps // CHECKS, checkpoint_every=steps, draw=curve, progress=False,
        )  # fmt: skip
    return run.denoiser


def reached(distances: list[float], wanted: float) -> float:
    """At which check the distance is first as small as wanted, between checks by the logarithm; the last, if never: a
    slow-down counts as none."""
    if distances[0] <= wanted:
        return 1.0
    for i, (before, after) in enumerate(pairwise(distances), 1):
        if after <= wanted:
            return i + math.log(before / wanted) / math.log(before / after)
    return float(len(distances))


claim = Immiscible()

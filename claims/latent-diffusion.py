"""High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al. 2021, 2112.10752).

Measured here: diffusion of 16x16 clothes in pixels and in the latents of two learned codecs, with the same U-Net, the
same solver and equal training compute. The surrogates are the size (the paper's images are 256x256), the budget
(minutes of a core), and a small classifier of clothes in LPIPS's place; codecs have no adversary. Cross-attention and
text belong to another claim.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ornstein as orn
from ornstein import data, denoisers, metrics, networks, objectives, processes, spaces, training
from ornstein.claim import Claim, Effect, Interval, Verdict

# steps of the pixel model, steps of a codec, samples, width of the U-Net
SIZES = {"smoke": (2, 2, 60, 8), "quick": (300, 300, 1000, 16), "full": (12_000, 4000, 5000, 32)}
FACTORS = {1: 1, 2: 2, 4: 4}  # compression a side: channels of the latent
BATCH = 64  # of the pixel model; a latent model's is multiplied by its factor
CALLS = 10
GAIN = 0.9
SILENT: dict[str, Any] = {"evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1}


def named(dataset: Any, size: str) -> Any:
    """Few of the clothes for a smoke run, all of them else."""
    if size != "smoke":
        return dataset
    few = dataset.train.batch(torch.arange(512))
    return replace(dataset, train=data.TensorSplit(few["x_0"], few["fields"]))


@functools.cache
def clothes(budget: str) -> Any:
    return named(data.load("fashion-mnist"), budget)


@functools.cache
def perceptual(budget: str) -> networks.Classifier:
    """A network for the codec's loss that is not the judge: other weights, a quarter of the size, less data."""
    whole = clothes(budget)
    part = whole.train.batch(torch.arange(len(whole.train) // 4))
    few = replace(whole, train=data.TensorSplit(part["x_0"], part["fields"]))
    return metrics.train_classifier(few, width=8, epochs=2, batch=128, seed=1)[0]


@functools.cache
def codec(factor: int, budget: str) -> tuple[Any, float]:
    """The codec of a factor and its training time in seconds of the processor: the same for all seeds."""
    steps = SIZES[budget][1]
    began = time.process_time()
    torch.manual_seed(factor)
    network = networks.Autoencoder(1, FACTORS[factor], factor, width=16)
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit_codec(
            spaces.AutoencoderCodec(network), clothes(budget), objectives.Reconstruction(perceptual(budget)),
            steps=steps, out=folder, batch=64, learning_rate=2e-3, ema=0.99, checkpoint_every=steps, **SILENT,
        )  # fmt: skip
    learned: Any = run.denoiser
    return learned.codec, time.process_time() - began


def unet(factor: int, budget: str) -> networks.UNet:
    return networks.UNet(FACTORS[factor], width=SIZES[budget][3], multipliers=(1, 2), labels=10)


def operations(factor: int, budget: str) -> float:
    """Floating-point operations of the U-Net for one sample."""
    side = 16 // factor
    with FlopCounterMode(display=False) as counter:
        unet(factor, budget)(torch.zeros(1, FACTORS[factor], side, side), torch.zeros(1))
    return float(counter.get_total_flops())


class Trained:
    """A model of one factor and seed, its samples, and what both cost in seconds of the processor."""

    def __init__(self, factor: int, budget: str, seed: int) -> None:
        pixel_steps, _, count, _ = SIZES[budget]
        whole, process = clothes(budget), processes.RectifiedFlow()
        chosen = whole if factor == 1 else training.encoded(whole, codec(factor, budget)[0])
        cheaper = operations(1, budget) / operations(factor, budget)
        steps = max(1, round(pixel_steps * cheaper / factor))  # and `factor` times as many samples a step
        began = time.process_time()
        torch.manual_seed(seed)
        scale = 0.84 if factor == 1 else 1.0
        model = denoisers.NetworkDenoiser(unet(factor, budget), process, "velocity", chosen.shape, scale)
        with tempfile.TemporaryDirectory() as folder:
            run = orn.fit(
                model, chosen, steps=steps, out=folder, batch=BATCH * factor, seed=seed, ema=0.99,
                learning_rate=2e-3, checkpoint_every=steps, **SILENT,
            )  # fmt: skip
        self.training, began = time.process_time() - began, time.process_time()
        best: Any = run.denoiser
        if factor > 1:
            best.process = spaces.Encoded(process, codec(factor, budget)[0])
        self.labels = torch.arange(count) % 10
        self.samples = orn.sample(best, count, steps=CALLS, seed=seed, label=self.labels)
        self.sampling = (time.process_time() - began) / count


def judged(samples: Tensor, budget: str, seed: int) -> dict[str, float]:
    """Distances from held-out clothes, by the classifier that ships (no codec was trained with it) and in pixels."""
    held_out, count = clothes(budget).held_out, len(samples)
    chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed))[:count]
    real = held_out.batch(chosen)["x_0"]
    judge = metrics.load_classifier("fashion-mnist")
    features = [metrics.classifier_features(judge, x) for x in (samples, real)]
    return {
        "distance": metrics.frechet_distance(*features, resamples=2).value,
        "energy": max(metrics.energy_distance(samples, real, resamples=2).value, 1e-6),
    }


class LatentDiffusion(Claim):
    slug = "latent-diffusion"
    statement = (
        "With the same U-Net and equal floating-point operations of its training, diffusion in a latent of moderate "
        f"compression (2 a side) has a Fréchet distance under {GAIN:.0%} of that of pixels, and the strongest (4 a "
        "side, 4x4 latents of 16x16 clothes) is worse than the moderate one"
    )
    baseline = (
        "the same U-Net, process, solver, optimiser and operations in pixels, where each of the fewer samples costs "
        "4 and 16 times as much; the codecs' own training is reported apart, and the judge is a classifier that no "
        "codec was trained with; reconstructions and training data measure the floor"
    )
    effects = (
        Effect("Fréchet distance, factor 2 / pixels", of="distance 2", against="distance 1", ratio=True),
        Effect("Fréchet distance, factor 4 / pixels", of="distance 4", against="distance 1", ratio=True),
        Effect("Fréchet distance, factor 4 / factor 2", of="distance 4", against="distance 2", ratio=True),
        Effect("energy distance in pixels, factor 2 / pixels", of="energy 2", against="energy 1", ratio=True),
        Effect("energy distance in pixels, factor 4 / pixels", of="energy 4", against="energy 1", ratio=True),
        Effect("Fréchet distance of pixels", of="distance 1"),
        Effect("Fréchet distance of reconstructions, factor 2", of="floor 2"),
        Effect("Fréchet distance of reconstructions, factor 4", of="floor 4"),
        Effect("Fréchet distance of training data", of="floor 1"),
        Effect("seconds a sample, factor 2 / pixels", of="sampling 2", against="sampling 1", ratio=True),
        Effect("seconds a sample, factor 4 / pixels", of="sampling 4", against="sampling 1", ratio=True),
        Effect("seconds of training in pixels", of="training 1"),
        Effect("seconds of the codec's training, factor 2", of="codec 2"),
        Effect("seconds of the codec's training, factor 4", of="codec 4"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        count, found = SIZES[budget][2], {}
        for i, factor in enumerate(FACTORS):
            progress(i / len(FACTORS), f"factor {factor}")
            made = Trained(factor, budget, seed)
            scores = judged(made.samples, budget, seed)
            found |= {f"{name} {factor}": value for name, value in scores.items()}
            found |= {f"training {factor}": made.training, f"sampling {factor}": made.sampling}
            found[f"floor {factor}"] = judged(_real(factor, budget, count, seed), budget, seed)["distance"]
            if factor > 1:
                found[f"codec {factor}"] = codec(factor, budget)[1]
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        gain = effects["Fréchet distance, factor 2 / pixels"]
        worse = effects["Fréchet distance, factor 4 / factor 2"]
        strong = effects["Fréchet distance, factor 4 / pixels"]
        if gain.below(GAIN) and worse.above(1.0):
            return Verdict(
                "reproduced", f"factor 2 has {gain} of the distance, factor 4 {worse} of factor 2's"
            )
        share = strong.value * effects["Fréchet distance of pixels"].value
        share /= effects["Fréchet distance of reconstructions, factor 4"].value
        if gain.below(GAIN) or strong.below(GAIN):
            return Verdict(
                "partly",
                f"latents win (factor 2: {gain} of the distance in pixels, factor 4: {strong}), but where compression "
                f"is too strong is not seen as claimed (factor 4 / factor 2: {worse}; samples at factor 4 are "
                f"{share:.2g} times as far as its reconstructions)",
            )
        return Verdict(
            "not reproduced", f"factor 2 has {gain} of the distance in pixels and factor 4 has {strong}"
        )


def _real(factor: int, budget: str, count: int, seed: int) -> Tensor:
    """Training data, through the codec of the factor: what perfect diffusion would give."""
    pick = torch.randperm(len(clothes(budget).train), generator=torch.Generator().manual_seed(50 + seed))
    x: Tensor = clothes(budget).train.batch(pick[:count])["x_0"]
    if factor == 1:
        return x
    own = codec(factor, budget)[0]
    with torch.no_grad():
        shown: Tensor = own.decode(own.encode(x))
    return shown


claim = LatentDiffusion()

"""High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al. 2021, 2112.10752).

Measured here: diffusion of 16x16 clothes in pixels and in the latents of two learned codecs, with the same U-Net, the
same solver and equal operations; of 32x32 scenes in pixels and in the latents of the codec that ships, at equal seconds
of a processor. The surrogates are the size (the paper's images are 256x256), the budget (minutes of a core), and
differences of pixels or a small classifier in LPIPS's place; codecs have no adversary. Holes, small images and boxes
are measured by `python -m benchmarks.latent_tasks`, texts by `python -m benchmarks.text_to_image`.
"""

from __future__ import annotations

import copy
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
from ornstein.data import scenes as world
from ornstein.data.scenes.detector import load_detector
from ornstein.systems import latent_tasks

# steps of the pixel model, steps of a codec, samples, width of the U-Net
SIZES = {"smoke": (2, 2, 60, 8), "quick": (300, 300, 1000, 16), "full": (12_000, 4000, 5000, 32)}
FACTORS = {1: 1, 2: 2, 4: 4}  # compression a side: channels of the latent
BATCH = 64  # of the pixel model; a latent model's is multiplied by its factor
CALLS = 10
GAIN = 0.9
# of scenes: the processor's seconds of a model, scenes to learn from, samples
SCENES = {"smoke": (0.5, 64, 24), "quick": (70.0, 20_000, 400), "full": (1500.0, 100_000, 2000)}
# U-Nets in pixels: one that works at full size, and the latents' own with 4x4 pixels as its channels
PIXELS: dict[str, dict[str, Any]] = {
    "pixels": {"width": 16, "multipliers": (1, 2, 4), "attention": (2,)},
    "patches": {"width": 48, "multipliers": (1, 2), "blocks": 2, "attention": (1,), "patch": 4},
}
HELD_OUT = 2**24  # seed of the scenes that judge
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


# ------------------------------------------------------------------------------------ scenes


@functools.cache
def scenes_codec() -> Any:
    loaded: Any = orn.load("scenes-codec")
    return loaded.codec


@functools.cache
def scenes(budget: str) -> tuple[Any, Any]:
    """Scenes to learn from, held in memory: in pixels, and in latents."""
    drawn = data.load("scenes", count=SCENES[budget][1])
    batch = drawn.train.batch(torch.arange(len(drawn.train)))
    pixels = replace(drawn, train=data.TensorSplit(batch["x_0"]))
    return pixels, training.encoded(pixels, scenes_codec())


@functools.cache
def held_out(budget: str, seed: int) -> tuple[world.Scenes, Tensor]:
    drawn = world.draw_scenes(SCENES[budget][2], HELD_OUT + seed, world.World(combinations="seen"))
    return drawn, world.render(drawn)


def for_seconds(model: Any, chosen: Any, seconds: float, seed: int) -> tuple[Any, float]:
    """A model trained for so many seconds of the processor, by the length of its steps, and how many they were."""
    options = {**SILENT, "batch": 32, "learning_rate": 2e-3, "ema": 0.99, "precision": "bf16", "seed": seed}

    def fitted(own: Any, steps: int) -> tuple[Any, float]:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            objective = objectives.Denoising(weighting="target", drop=0.1)
            run = orn.fit(own, chosen, objective, steps=steps, out=folder, checkpoint_every=steps, **options)
        return run.denoiser, time.process_time() - began

    _, few, more = (fitted(copy.deepcopy(model), steps)[1] for steps in (2, 2, 22))  # the first one warms up
    return fitted(model, max(2, round(20 * seconds / max(more - few, 0.2))))


def scene_model(kind: str, budget: str, seed: int) -> tuple[Any, float]:
    """Of pixels, of 4x4 pixels as channels, or of latents."""
    pixels, latents = scenes(budget)
    torch.manual_seed(seed)
    if kind == "latents":
        return for_seconds(latent_tasks.model_for(latents, scenes_codec()), latents, SCENES[budget][0], seed)
    network = networks.UNet(3, **PIXELS[kind])
    model = denoisers.NetworkDenoiser(network, processes.RectifiedFlow(), "velocity", pixels.shape, 0.67)
    return for_seconds(model, pixels, SCENES[budget][0], seed)


@torch.no_grad()
def seen(images: Tensor) -> Tensor:
    """Means over places of the detector's last features, (B, 64): a network that no codec was trained with."""
    detector = load_detector()
    h = detector.stem(images)
    for layer in detector.body:
        h = h + layer(h)
    return h.mean((2, 3))


def of_scenes(images: Tensor, budget: str, seed: int) -> tuple[float, float]:
    """Fréchet distance from held-out scenes in the features of the scenes' detector; share that is read as scenes."""
    features = [seen(x) for x in (images.clamp(-1, 1), held_out(budget, seed)[1])]
    found = world.parse(images.clamp(-1, 1)).readable.double().mean()
    return metrics.frechet_distance(*features, resamples=2).value, float(found)


def measure_scenes(budget: str, seed: int) -> dict[str, float]:
    """Pixels and latents at equal seconds."""
    found, (_, real) = {}, held_out(budget, seed)
    for kind in (*PIXELS, "latents"):
        model, found[f"seconds {kind}"] = scene_model(kind, budget, seed)
        images = orn.sample(model, len(real), steps=15, seed=seed)
        found[f"scenes {kind}"], found[f"readable {kind}"] = of_scenes(images, budget, seed)
    again = world.render(world.draw_scenes(len(real), HELD_OUT - 1 - seed, world.World(combinations="seen")))
    with torch.no_grad():
        shown = scenes_codec().decode(scenes_codec().encode(again))
    found["scenes floor"], found["readable floor"] = of_scenes(shown, budget, seed)
    return found


class LatentDiffusion(Claim):
    slug = "latent-diffusion"
    statement = (
        "With the same U-Net and equal floating-point operations of its training, diffusion in a latent of moderate "
        f"compression (2 a side) has a Fréchet distance under {GAIN:.0%} of that of pixels, and the strongest (4 a "
        "side, 4x4 latents of 16x16 clothes) is worse than the moderate one; of 32x32 scenes, latents of 8x8 have one "
        f"under {GAIN:.0%} of that of either model of pixels at equal seconds of training"
    )
    baseline = (
        "the same U-Net, process, solver, optimiser and operations in pixels, where each of the fewer samples costs "
        "4 and 16 times as much; the codecs' own training is reported apart, and the judge is a classifier that no "
        "codec was trained with; reconstructions and training data measure the floor. Of scenes, a "
        "U-Net at full size, and the very U-Net of the latents with 4x4 pixels as its channels, each trained for as "
        "many seconds of a processor; the codec's own training, 20 minutes, is not in the balance"
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
        Effect(
            "scenes: Fréchet distance, latents / pixels",
            of="scenes latents",
            against="scenes pixels",
            ratio=True,
        ),
        Effect(
            "scenes: Fréchet distance, latents / patches",
            of="scenes latents",
            against="scenes patches",
            ratio=True,
        ),
        Effect("scenes: Fréchet distance of pixels", of="scenes pixels"),
        Effect("scenes: Fréchet distance of reconstructions", of="scenes floor"),
        Effect("scenes: share that can be read, latents", of="readable latents"),
        Effect("scenes: share that can be read, pixels", of="readable pixels"),
        Effect("scenes: share that can be read, patches", of="readable patches"),
        Effect("scenes: seconds of training, latents", of="seconds latents"),
        Effect("scenes: seconds of training, patches", of="seconds patches"),
        Effect("scenes: seconds of training, pixels", of="seconds pixels"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        count, found = SIZES[budget][2], {}
        for i, factor in enumerate(FACTORS):
            progress(0.6 * i / len(FACTORS), f"factor {factor}")
            made = Trained(factor, budget, seed)
            scores = judged(made.samples, budget, seed)
            found |= {f"{name} {factor}": value for name, value in scores.items()}
            found |= {f"training {factor}": made.training, f"sampling {factor}": made.sampling}
            found[f"floor {factor}"] = judged(_real(factor, budget, count, seed), budget, seed)["distance"]
            if factor > 1:
                found[f"codec {factor}"] = codec(factor, budget)[1]
        progress(0.6, "scenes")
        return found | measure_scenes(budget, seed)

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        gain, worse, strong = (
            effects[f"Fréchet distance, {pair}"]
            for pair in ("factor 2 / pixels", "factor 4 / factor 2", "factor 4 / pixels")
        )
        pixels, patches = (effects[f"scenes: Fréchet distance, latents / {kind}"] for kind in PIXELS)
        found = (
            f"clothes: factor 2 has {gain} of the distance in pixels, factor 4 {strong} (and {worse} of factor 2's); "
            f"scenes: latents have {pixels} of the distance in pixels and {patches} of that of patches"
        )
        wins = [effect.below(GAIN) for effect in (gain, pixels, patches)]
        if all(wins) and worse.above(1.0):
            return Verdict("reproduced", found)
        return Verdict("partly" if any(wins) or strong.below(GAIN) else "not reproduced", found)


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

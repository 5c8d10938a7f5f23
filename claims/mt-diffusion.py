"""Diffusion Models for Multi-Task Generative Modeling (Chen et al. 2024, 2407.17571).

Measured here: images of digits with their labels, by one chain to which the label's plane is added and one network with
a head for the label, beside two specialists of the same backbone, optimiser, steps and images: a diffusion model that
knows no labels, and a classifier. The paper reports no control of the first kind. The surrogates are the
data (8x8 digits for ImageNet at 64 and 128) and the budget. Image transition, masked images and CLIP features are left
out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, metrics, networks, objectives, processes, solvers, spaces
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Losses, Noise, Objective, Sampler

SIZES = {"smoke": (3, 40, 8), "quick": (800, 1000, 16), "full": (6000, 3000, 32)}  # steps, samples, width
BATCH, CALLS, SHAPE, SCALE = 64, 25, (1, 8, 8), 0.75
TOTAL, WEIGHT = 0.5, 1.0  # what is added in all, and the weight of the label's likelihood
EARLY, LATE = 0.02, 0.6  # times at which the label's head is judged
AGREEMENT, POINT = 0.95, 0.01
SILENT: dict[str, Any] = {"evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1, "ema": 0.99}


def backbone(width: int, seed: int) -> networks.UNet:
    torch.manual_seed(seed)
    return networks.UNet(1, width=width, multipliers=(1, 2))


def head(width: int, seed: int) -> networks.PooledHead:
    torch.manual_seed(seed + 1000)
    return networks.PooledHead(2 * width, 10)


def trained(model: Any, objective: Objective, budget: str, seed: int) -> Any:
    steps = SIZES[budget][0]
    with tempfile.TemporaryDirectory() as folder:
        run = orn.fit(
            model, "digits", objective, steps=steps, batch=BATCH, out=folder, seed=seed, learning_rate=2e-3,
            checkpoint_every=steps, **SILENT,
        )  # fmt: skip
    return run.denoiser.eval()


def multi_task(budget: str, seed: int) -> denoisers.MultiTask:
    width = SIZES[budget][2]
    network = networks.MultiHead(backbone(width, seed), {"label": head(width, seed)})
    process = processes.Aggregated.fading(processes.VariancePreserving("cosine"), TOTAL)
    torch.manual_seed(seed)
    aggregate = spaces.Aggregate({"label": spaces.Planes(10, SHAPE)})
    model = denoisers.MultiTask(network, process, "edm", SHAPE, SCALE, {"label": "categorical"}, aggregate)
    return trained(model, objectives.Heads({"label": WEIGHT}), budget, seed)


def single_task(budget: str, seed: int) -> denoisers.NetworkDenoiser:
    network = backbone(SIZES[budget][2], seed)
    process = processes.VariancePreserving("cosine")
    model = denoisers.NetworkDenoiser(network, process, "edm", SHAPE, SCALE)
    return trained(model, objectives.Denoising(), budget, seed)


class CleanLabels(Objective):
    """Cross-entropy of the label's head on clean images: a classifier."""

    fields = frozenset({"label"})

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        log_p = model(batch["x_0"], EARLY).heads["label"]
        loss = -log_p.gather(1, batch["condition"]["label"].unsqueeze(1)).squeeze(1)
        return Losses(loss, {"label": loss}, {})


def classifier(budget: str, seed: int) -> denoisers.MultiTask:
    width = SIZES[budget][2]
    network = networks.MultiHead(backbone(width, seed), {"label": head(width, seed)})
    model = denoisers.MultiTask(
        network, processes.VariancePreserving("cosine"), "edm", SHAPE, SCALE, {"label": "categorical"}
    )
    return trained(model, CleanLabels(), budget, seed)


def accuracy(model: Any, t: float, seed: int, added: bool = False, clean: bool = False) -> float:
    """Of the label's head on held-out digits noised to t; `added`, with their label's plane in the state, as in
    training; else, as where the label is not known, without it. A classifier of clean images sees them `clean`.
    """
    split = data.load("digits").held_out
    x, label = split.x_0, split.fields["label"]
    level = model.process.at(t)
    z = level.alpha * x + level.sigma * Keyed(seed, len(x)).fold("judged").normal(x)
    if added:
        z = z + level.anchor * model.aggregate({"label": label})
    with torch.no_grad():
        found = model(x if clean else z, t).heads["label"].argmax(1)
    return float((found == label).double().mean())


def samples(model: Any, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Images by 25 DDIM steps, and the labels that the head says at their end."""
    x = Sampler(solvers.DDIM(), CALLS)(model, n, seed=seed)
    if not isinstance(model, denoisers.MultiTask):
        return x, None
    with torch.no_grad():
        return x, model(x, EARLY).heads["label"].argmax(1)


def distance(x: Tensor) -> dict[str, float]:
    """From all digits, held-out ones among them, in the features of the classifier that ships, and in pixels."""
    whole = data.load("digits")
    real = torch.cat([whole.train.x_0, whole.held_out.x_0])
    judge = metrics.load_classifier("digits")
    features = [metrics.classifier_features(judge, v) for v in (x, real)]
    return {
        "distance": metrics.frechet_distance(*features, resamples=2).value,
        "energy": max(metrics.energy_distance(x, real, resamples=2).value, 1e-6),
    }


class MultiTaskDiffusion(Claim):
    slug = "mt-diffusion"
    statement = (
        "One chain and one network for digits and their labels: a classifier of other weights agrees with the label "
        f"that goes with a generated image in at least {AGREEMENT:.0%}; the label's head at small noise is within "
        f"{POINT:.0%} of the accuracy of a classifier with the same backbone and budget; and the images' Fréchet "
        "distance is not above that of a single-task model at equal compute and equal images seen (the interval of "
        "the ratio over seeds reaches down to 1 or below)"
    )
    baseline = (
        "the same U-Net trained alone with the same optimiser, batches, steps and seeds: for denoising without labels, "
        "and as a classifier of clean digits; all images by 25 DDIM steps. How much of the label is only read off the "
        "plane that was added is shown by the head's accuracy at large noise with and without it"
    )
    effects = (
        Effect("agreement of generated labels", of="agreement"),
        Effect("head's accuracy - classifier's", of="head early", against="classifier"),
        Effect(
            "Fréchet distance, multi-task / single-task",
            of="distance multi",
            against="distance single",
            ratio=True,
        ),
        Effect(
            "energy distance in pixels, multi-task / single-task",
            of="energy multi",
            against="energy single",
            ratio=True,
        ),
        Effect("Fréchet distance of the single-task model", of="distance single"),
        Effect("classifier's accuracy", of="classifier"),
        Effect(f"head's accuracy at time {LATE}", of="head late"),
        Effect(f"head's accuracy at time {LATE}, label's plane added", of="head late added"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        n = SIZES[budget][1]
        progress(0.0, "multi-task")
        multi = multi_task(budget, seed)
        progress(0.35, "single-task")
        single = single_task(budget, seed)
        progress(0.7, "classifier")
        alone = classifier(budget, seed)
        found = {
            "head early": accuracy(multi, EARLY, seed),
            "head late": accuracy(multi, LATE, seed),
            "head late added": accuracy(multi, LATE, seed, added=True),
            "classifier": accuracy(alone, EARLY, seed, clean=True),
        }
        progress(0.9, "samples")
        for name, model in (("multi", multi), ("single", single)):
            x, label = samples(model, n, seed)
            found |= {f"{k} {name}": v for k, v in distance(x).items()}
            if label is not None:
                found["agreement"] = metrics.class_accuracy(metrics.load_classifier("digits"), x, label).value
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        agreement, gap = effects["agreement of generated labels"], effects["head's accuracy - classifier's"]
        ratio = effects["Fréchet distance, multi-task / single-task"]
        parts = {
            "pairs agree": agreement.value >= AGREEMENT,
            "the head is as good as a classifier": gap.value >= -POINT,
            "images are no worse than a single-task model's": not ratio.above(1.0),
        }
        seen = (
            f"agreement {agreement}, head less classifier {gap}, distance {ratio} of the single-task model's"
        )
        held, missed = ([k for k, v in parts.items() if v is yes] for yes in (True, False))
        if not missed:
            return Verdict("reproduced", f"{'; '.join(held)}: {seen}")
        if parts["images are no worse than a single-task model's"] and parts["pairs agree"]:
            return Verdict("partly", f"held: {'; '.join(held)}; not: {'; '.join(missed)}: {seen}")
        return Verdict("not reproduced", f"not: {'; '.join(missed)}: {seen}")


claim = MultiTaskDiffusion()

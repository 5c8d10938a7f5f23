"""Learned representation-guided diffusion models for large-image generation (Graikos et al. 2023, 2312.07330).

Measured here: a model of patches of land maps, told embeddings of the patches by an encoder that saw no labels, and
large maps made from a grid of them. The encoder is what a small unconditional diffusion model computes in its middle,
reduced to 16 principal components of unit length. Surrogates: generated land of four kinds in place of histopathology
and satellite pictures; pixels in place of a latent; patches of 8x8 on maps of 32x32 in the quick budget (16x16 on 64x64
in the full one) in place of 256 on 1024; a small classifier's features in place of Inception's. Text is not in it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, diagnostics, guides, metrics, networks, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed
from ornstein.data import LandMaps, land_maps, land_patches

# side of a patch, maps to train on, steps of training, patches sampled, maps made
SIZES = {"smoke": (8, 30, 4, 60, 2), "quick": (8, 300, 600, 800, 24), "full": (16, 1000, 10_000, 5000, 100)}
SIDES, WIDE = 4, 1.5  # patches a side of a map; width of its regions in patches
STRIDE = 4  # a period of the textures
CODE, LEVEL, CALLS = 16, 0.05, 20
LABELLED, COPIES = 10, 5
OPTIONS: dict[str, Any] = {
    "evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1, "batch": 64, "learning_rate": 2e-3,
    "ema": 0.99,
}  # fmt: skip
OVERLAP, SEAM, GAIN = 0.7, 0.05, 0.01


def maps_of(n: int, patch: int, seed: int) -> LandMaps:
    return land_maps(n, SIDES * patch, WIDE * patch, seed)


def model_of(network: Any, dataset: Any, budget: str, seed: int) -> Any:
    process = processes.VariancePreserving()
    model = denoisers.NetworkDenoiser(network, process, "velocity", dataset.shape)
    steps = SIZES[budget][2]
    with tempfile.TemporaryDirectory() as folder:
        return orn.fit(
            model, dataset, steps=steps, out=folder, seed=seed, checkpoint_every=steps, **OPTIONS
        ).denoiser


def unet(labels: int | None = None) -> networks.UNet:
    return networks.UNet(1, width=16, multipliers=(1, 2), labels=labels)


class Embedding:
    """Patches as unit vectors: middle features of a diffusion model at a small noise level, whitened."""

    def __init__(self, model: Any, patches: Tensor) -> None:
        self.model = model
        found = self.raw(patches)
        self.mean = found.mean(0)
        values, axes = torch.linalg.eigh((found - self.mean).T.cov())
        self.axes = axes.flip(1)[:, :CODE] / values.flip(0)[:CODE].clamp(min=1e-6).sqrt()

    def raw(self, patches: Tensor) -> Tensor:
        noise = Keyed(7, len(patches))
        return diagnostics.pooled_features(self.model, patches, LEVEL, ["middle"], noise, size=2)["middle"]

    def __call__(self, patches: Tensor) -> Tensor:
        return F.normalize((self.raw(patches) - self.mean) @ self.axes)


class World:
    """Patches to train on, patches to judge by, and three models of them."""

    def __init__(self, budget: str, seed: int, progress: Callable[..., None]) -> None:
        patch, maps = SIZES[budget][:2]
        self.patch, self.seed = patch, seed
        self.judged = maps_of(max(maps // 2, 60), patch, 20_000 + seed)
        self.real, self.kinds = land_patches(self.judged, patch)
        x, label = land_patches(maps_of(maps, patch, 10_000 + seed), patch)
        held = data.TensorSplit(self.real[:200], {"label": self.kinds[:200]})
        self.set = data.Dataset(
            "land", data.TensorSplit(x, {"label": label}), held, shape=(1, patch, patch), classes=data.LAND
        )
        torch.manual_seed(seed)
        plain = replace(
            self.set, train=data.TensorSplit(x), held_out=data.TensorSplit(self.real[:200]), classes=()
        )
        self.alone = model_of(unet(), plain, budget, seed)
        progress(0.2, "classes")
        self.classed = model_of(unet(4), self.set, budget, seed)
        progress(0.4, "embeddings")
        self.embed = Embedding(self.alone, x)
        codes = self.embed(x)
        told = replace(
            plain,
            train=data.TensorSplit(x, {"embedding": codes}),
            held_out=data.TensorSplit(self.real[:200], {"embedding": self.embed(self.real[:200])}),
        )
        self.guided = model_of(networks.Embedded(unet(), CODE), told, budget, seed)
        self.codes, self.labels = codes, label

    def distances(self, budget: str) -> dict[str, float]:
        """Frechet distances of patches from those of other maps."""
        half, count = len(self.real) // 2, SIZES[budget][3]
        judge = metrics.train_classifier(self.set, width=8, epochs=3, seed=0)[0]
        order = torch.randperm(half, generator=torch.Generator().manual_seed(self.seed))[:count]
        label = self.kinds[order]
        sampled = {
            "alone": orn.sample(self.alone, len(order), steps=CALLS, seed=self.seed),
            "classed": orn.sample(self.classed, len(order), steps=CALLS, seed=self.seed, label=label),
            "guided": orn.sample(
                self.guided, len(order), steps=CALLS, seed=self.seed, embedding=self.embed(self.real[order])
            ),
            "prior": self.from_prior(label, budget),
        }
        truth = metrics.classifier_features(judge, self.real[half:])
        return {
            f"distance {k}": metrics.frechet_distance(
                metrics.classifier_features(judge, v), truth, resamples=2
            ).value
            for k, v in sampled.items()
        }

    def from_prior(self, label: Tensor, budget: str) -> Tensor:
        """Patches of embeddings that a small diffusion model draws of their classes."""
        split = data.TensorSplit(CODE**0.5 * self.codes, {"label": self.labels})
        known = data.Dataset(
            "codes", split, data.TensorSplit(split.x_0[:10], {"label": self.labels[:10]}), (CODE,)
        )
        prior = model_of(networks.ResidualMLP(CODE, labels=4), known, budget, self.seed)
        codes = F.normalize(orn.sample(prior, len(label), steps=CALLS, seed=self.seed, label=label))
        return orn.sample(self.guided, len(label), steps=CALLS, seed=self.seed, embedding=codes)

    def canvases(self, budget: str) -> dict[str, float]:
        """Large maps from grids of embeddings: agreement with the source, and seams."""
        n, side = SIZES[budget][4], SIDES * self.patch
        source = LandMaps(self.judged.image[-n:], self.judged.regions[-n:])
        grid = self.embed(land_patches(source, self.patch)[0]).reshape(n, SIDES, SIDES, CODE)
        sampler = orn.Sampler(solvers.DPMSolverPP(), CALLS)

        def made(model: Any, stride: int, **fields: Tensor) -> Tensor:
            grids = tuple(fields)
            return sampler(guides.Tiled((side, side), stride, grids)(model), n, seed=self.seed, **fields)

        canvases = {
            "guided": made(self.guided, STRIDE, embedding=grid),
            "apart": made(self.guided, self.patch, embedding=grid),
            "alone": made(self.alone, STRIDE),
            "real": source.image,
        }
        read = Reader(maps_of(40, self.patch, 30_000 + self.seed))
        found = {f"overlap {k}": read.overlap(v, source.regions) for k, v in canvases.items()}
        score = {k: seam(v, self.patch) for k, v in canvases.items()}
        return found | {f"seam {k}": score[k] / score["real"] for k in ("guided", "apart", "alone")}

    def augmented(self) -> dict[str, float]:
        """Test accuracy of a classifier of few patches, with generated variations and with mirrored copies."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(self.seed))
        rows = torch.cat([order[self.labels[order] == k][:LABELLED] for k in range(4)])
        x, label = self.set.train.batch(rows)["x_0"], self.labels[rows]
        many = label.repeat(COPIES)
        variations = orn.sample(
            self.guided, len(many), steps=CALLS, seed=self.seed, embedding=self.codes[rows].repeat(COPIES, 1)
        )
        mirrored = torch.cat([x.flip(3) if i % 2 else x for i in range(COPIES)])
        return {
            f"augmented {name}": self.classified(torch.cat([x, more]), torch.cat([label, many]))
            for name, more in (("generated", variations), ("mirrored", mirrored))
        }

    def classified(self, x: Tensor, label: Tensor) -> float:
        few = replace(self.set, train=data.TensorSplit(x, {"label": label}))
        classifier = metrics.train_classifier(few, width=8, epochs=20, batch=32, seed=self.seed)[0]
        return metrics.class_accuracy(classifier, self.real, self.kinds).value


class Reader:
    """The kind of land at every pixel, read off a picture: logistic regression on means over 5x5 pixels."""

    def __init__(self, maps: LandMaps) -> None:
        x = self.seen(maps.image)
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:6000]
        self.probe = diagnostics.linear_probe(x[rows], maps.regions.flatten()[rows], 1e-4)

    def seen(self, image: Tensor) -> Tensor:
        down, across = (F.pad(image.diff(dim=d).square(), p) for d, p in ((2, (0, 0, 0, 1)), (3, (0, 1))))
        maps = torch.cat([image, image**2, down, across], 1)
        means = F.avg_pool2d(F.pad(maps, (2, 2, 2, 2), mode="replicate"), 5, 1)
        rows = means.movedim(1, 3).reshape(-1, 4)
        return torch.cat([rows, rows.clamp(min=1e-4).log(), rows**2], 1)

    def overlap(self, image: Tensor, regions: Tensor) -> float:
        """Intersection over union of what is read and the regions, averaged over the kinds."""
        read = self.probe.logits(self.seen(image)).argmax(1).reshape(regions.shape)
        kinds = [
            ((read == k) & (regions == k)).sum() / ((read == k) | (regions == k)).sum() for k in range(4)
        ]
        return float(torch.stack(kinds).mean())


def seam(image: Tensor, patch: int) -> float:
    """Squared steps across the borders of patches over those across other lines of the textures' period."""
    side = image.shape[-1]
    lines = torch.arange(STRIDE, side, STRIDE)
    steps = sum(
        (image.index_select(d, lines) - image.index_select(d, lines - 1))
        .square()
        .movedim(d, 0)
        .flatten(1)
        .mean(1)
        for d in (2, 3)
    )
    border = lines % patch == 0
    return float(steps[border].mean() / steps[~border].mean())


class RepresentationGuided(Claim):
    slug = "representation-guided"
    statement = (
        "On land maps: (a) patches told an embedding learned without labels have a smaller Fréchet distance than those "
        "told their class, and these a smaller one than those told nothing; (b) of large maps made from a 4x4 grid of "
        f"embeddings the kinds of land are read where the source has them, intersection over union at least {OVERLAP} "
        f"and above unconditional tiling, and steps across former borders are within {100 * SEAM:.0f} % of the real "
        "ones; (c) generated variations of few labelled patches improve a classifier by at least "
        f"{100 * GAIN:.0f} point over mirrored copies"
    )
    baseline = (
        "the same U-Net, patches, steps, seeds and solver, told the class of the patch or nothing; the embeddings and "
        "classes are of held-out patches, judged by other held-out patches. Canvases: unconditional tiling, and tiling "
        "without overlap; the reader's own overlap on the real maps is the ceiling. The classifier's recipe, which "
        "moves, turns and scales, is the same in both arms"
    )
    effects = (
        Effect("distance: embedding / class", of="distance guided", against="distance classed", ratio=True),
        Effect("distance: class / nothing", of="distance classed", against="distance alone", ratio=True),
        Effect(
            "distance: embedding from a prior / embedding",
            of="distance prior",
            against="distance guided",
            ratio=True,
        ),
        Effect("overlap with the source", of="overlap guided"),
        Effect("overlap: grid - unconditional", of="overlap guided", against="overlap alone"),
        Effect("overlap of the real map, a ceiling", of="overlap real"),
        *(Effect(f"seams over real: {name}", of=f"seam {name}") for name in ("guided", "apart", "alone")),
        Effect("accuracy: variations - mirrored", of="augmented generated", against="augmented mirrored"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        progress(0.0, "unconditional")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            world = World(budget, seed, progress)
            progress(0.6, "patches")
            numbers = world.distances(budget)
        progress(0.7, "canvases")
        numbers |= world.canvases(budget)
        progress(0.9, "augmentation")
        return numbers | world.augmented()

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        overlap, seams = effects["overlap with the source"], effects["seams over real: guided"]
        parts = {
            "order of distances": effects["distance: embedding / class"].below(1.0)
            and effects["distance: class / nothing"].below(1.0),
            "layout": overlap.value >= OVERLAP and effects["overlap: grid - unconditional"].above(0.0),
            "seams": abs(seams.value - 1) <= SEAM,
            "augmentation": effects["accuracy: variations - mirrored"].value >= GAIN
            and effects["accuracy: variations - mirrored"].above(0.0),
        }
        held, missed = ([k for k, v in parts.items() if v is yes] for yes in (True, False))
        told = f"held: {', '.join(held) or 'nothing'}; not: {', '.join(missed) or 'nothing'}"
        if not missed:
            return Verdict("reproduced", told)
        return Verdict("partly" if parts["layout"] or parts["order of distances"] else "not reproduced", told)


claim = RepresentationGuided()

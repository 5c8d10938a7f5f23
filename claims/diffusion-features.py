"""Diffusion Models Beat GANs on Image Classification (Mukhopadhyay et al. 2023, 2307.08702).

Measured here: linear probes on the blocks of a small unconditional U-Net trained on clothes, over blocks and noise
levels chosen on validation images, beside whitened pixels, the same U-Net with random weights, a variational
autoencoder, and the same U-Net trained at one noise level. Surrogates: Fashion-MNIST, at 8x8 in the quick budget, in
place of ImageNet; an autoencoder and a denoising autoencoder in place of BigBiGAN, which would be no fair rival at this
size. "All labels" are the probe's 6,000 images, "few" are 600, one in a hundred of the set.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, diagnostics, networks, objectives, processes, spaces, training
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed

# side of the images, steps of training, images that are probed, images that judge
SIZES = {"smoke": (8, 4, 300, 200), "quick": (8, 600, 6000, 3000), "full": (16, 8000, 20_000, 10_000)}
FEW = 10  # one label in this many
TIMES = (0.005, 0.05, 0.15, 0.3, 0.5)
ONE = 0.15  # the level of the denoising autoencoder
CELLS = 2  # features are pooled to 2x2
PENALTY = 1e-2
MARGIN = 0.05
OPTIONS: dict[str, Any] = {
    "evaluate_every": 0, "progress": False, "keep": 1, "batch": 64, "learning_rate": 2e-3, "ema": 0.99,
}  # fmt: skip
CHOOSING = ("pixels", "random", "autoencoder")  # rivals with a choice as wide as the diffusion model's
RIVALS = (*CHOOSING, "one level")


@functools.cache
def clothes(budget: str) -> Any:
    side = SIZES[budget][0]
    whole = data.load("fashion-mnist")

    def shrunk(split: Any) -> Any:
        some = split.batch(torch.arange(1000 if budget == "smoke" else len(split)))
        return data.TensorSplit(torch.nn.functional.avg_pool2d(some["x_0"], 16 // side), some["fields"])

    return replace(whole, train=shrunk(whole.train), held_out=shrunk(whole.held_out), shape=(1, side, side))


def unet() -> networks.UNet:
    return networks.UNet(1, width=16, multipliers=(1, 2, 2))


def untrained(budget: str) -> Any:
    process = processes.VariancePreserving()
    return denoisers.NetworkDenoiser(unet(), process, "noise", clothes(budget).shape)


class OneLevel(objectives.Denoising):
    """The loss at one time: a denoising autoencoder."""

    def times(self, process: Any, x_0: Any, noise: Any) -> Any:
        return torch.full((len(x_0),), ONE, dtype=torch.float64)


def trained(budget: str, seed: int, objective: Any) -> Any:
    torch.manual_seed(seed)
    steps = SIZES[budget][1]
    with tempfile.TemporaryDirectory() as folder:
        run = orn.fit(
            untrained(budget), clothes(budget), objective, steps=steps, out=folder, seed=seed, sample_every=0,
            checkpoint_every=steps, **OPTIONS,
        )  # fmt: skip
    return run.denoiser


def randomised(budget: str, seed: int) -> Any:
    """Random weights also where a network starts at zero, so that no block is the identity."""
    torch.manual_seed(1000 + seed)
    model = untrained(budget)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not bool(parameter.any()):
            torch.nn.init.kaiming_normal_(parameter)
    return model


class Sets:
    """Images and labels that are probed (the last fifth chooses), and those that judge."""

    def __init__(self, budget: str, seed: int) -> None:
        _, _, probed, judged = SIZES[budget]
        whole, generator = clothes(budget), torch.Generator().manual_seed(seed)
        self.seed, self.cut = seed, probed - probed // 5
        for name, split, count in (("probed", whole.train, probed), ("judged", whole.held_out, judged)):
            chosen = split.batch(torch.randperm(len(split), generator=generator)[:count])
            setattr(self, name, (chosen["x_0"], chosen["fields"]["label"]))

    def judge(self, probed: Tensor, judged: Tensor) -> dict[str, float]:
        """Accuracies of linear probes on these features, with all labels and with few."""
        labels = self.probed[1]
        found = {}
        for name, rows in (("all", slice(self.cut)), ("few", slice(self.cut // FEW))):
            probe = diagnostics.linear_probe(probed[rows], labels[rows], PENALTY)
            found[name] = probe.accuracy(judged, self.judged[1])
        return found

    def validated(self, features: Tensor) -> float:
        labels = self.probed[1]
        probe = diagnostics.linear_probe(features[: self.cut], labels[: self.cut], PENALTY)
        return probe.accuracy(features[self.cut :], labels[self.cut :])

    def best(self, candidates: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """The candidate (features probed, features judged) that validates best, judged."""
        name = max(candidates, key=lambda k: self.validated(candidates[k][0]))
        return self.judge(*candidates[name])

    def grid(self, model: Any, times: tuple[float, ...]) -> diagnostics.ProbeGrid:
        return diagnostics.probe_grid(model, *self.probed, times, size=CELLS, seed=self.seed, penalty=PENALTY)

    def cell(self, model: Any, cell: tuple[str, float]) -> dict[str, float]:
        name, t = cell
        sides = [
            diagnostics.pooled_features(model, x, t, [name], Keyed(self.seed, len(x)).fold(side), CELLS)[name]
            for side, x in (("probed", self.probed[0]), ("judged", self.judged[0]))
        ]
        return self.judge(*sides)


def whitened(sets: Sets) -> dict[str, tuple[Tensor, Tensor]]:
    """Principal components of the pixels, of unit variance, at several numbers of them."""
    train, test = (x.flatten(1).double() for x in (sets.probed[0], sets.judged[0]))
    mean = train[: sets.cut].mean(0)
    values, axes = torch.linalg.eigh((train[: sets.cut] - mean).T.cov())
    scaled = axes.flip(1) / values.flip(0).clamp(min=1e-8).sqrt()
    return {
        str(k): (((train - mean) @ scaled[:, :k]).float(), ((test - mean) @ scaled[:, :k]).float())
        for k in (16, 32, 64)
    }


def autoencoder(budget: str, seed: int, sets: Sets) -> dict[str, tuple[Tensor, Tensor]]:
    """The latent of a variational autoencoder and the layers of its encoder."""
    torch.manual_seed(seed)
    network = networks.Autoencoder(1, 4, 2, width=24)  # 131,000 parameters; the U-Net has 129,000
    steps = SIZES[budget][1]
    with tempfile.TemporaryDirectory() as folder:
        codec = training.fit_codec(
            spaces.AutoencoderCodec(network), clothes(budget), steps=steps, out=folder, seed=seed,
            checkpoint_every=steps, **OPTIONS,
        )  # fmt: skip

    def read(x: Tensor) -> dict[str, Tensor]:
        inner = codec.network.encoder
        names = [str(i) for i in range(len(inner))]
        with torch.no_grad(), networks.tapped(inner, names) as taken:
            latent = codec.encode(x)
        return {k: diagnostics.pool(v, CELLS) for k, v in taken.items()} | {"latent": latent.flatten(1)}

    probed, judged = read(sets.probed[0]), read(sets.judged[0])
    return {k: (probed[k], judged[k]) for k in probed}


class DiffusionFeatures(Claim):
    slug = "diffusion-features"
    statement = (
        "Of a small unconditional U-Net on clothes, (a) the best linear probe, its block and time chosen on validation "
        "images, is of a block inside the network and a time above the smallest: on test images it beats the best of "
        f"the outermost blocks and the best at time {TIMES[0]}; (b) it beats whitened pixels, the U-Net with random "
        f"weights and a variational autoencoder by at least {100 * MARGIN:.0f} points each, with all labels and with "
        f"one in {FEW}. Beside these, which decide, the same U-Net trained at the one level t = {ONE}"
    )
    baseline = (
        "each rival chooses its own best on the same validation images: number of principal components; block and time "
        "of the random U-Net; latent or encoder layer of an autoencoder of as many parameters and steps. The one-level "
        "U-Net chooses its block alone: its level was not chosen, so that it decides nothing. All probes are logistic "
        "regressions on features pooled to 2x2, with one noise draw an image and the same penalty"
    )
    effects = (
        Effect("depth: best - outermost blocks", of="diffusion all", against="outermost"),
        Effect("level: best - smallest time", of="diffusion all", against="smallest"),
        *(
            Effect(
                f"{labels} labels: diffusion - {rival}", of=f"diffusion {labels}", against=f"{rival} {labels}"
            )
            for labels in ("all", "few")
            for rival in RIVALS
        ),
        *(
            Effect(f"accuracy of diffusion, {labels} labels", of=f"diffusion {labels}")
            for labels in ("all", "few")
        ),
        Effect("time of the best cell", of="time"),
        Effect("place of the best block, 0 first and 1 last", of="place"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        sets = Sets(budget, seed)
        progress(0.0, "diffusion")
        model = trained(budget, seed, objectives.Denoising())
        progress(0.3, "probes")
        grid = sets.grid(model, TIMES)
        names = diagnostics.feature_names(model)

        def best(allowed: Callable[[str, float], bool]) -> tuple[str, float]:
            return max((c for c in grid.accuracy if allowed(*c)), key=grid.accuracy.__getitem__)

        numbers = {f"diffusion {k}": v for k, v in sets.cell(model, grid.best).items()}
        numbers["outermost"] = sets.cell(model, best(lambda b, t: b in (names[0], names[-1])))["all"]
        numbers["smallest"] = sets.cell(model, best(lambda b, t: t == TIMES[0]))["all"]
        numbers["time"], numbers["place"] = grid.best[1], names.index(grid.best[0]) / (len(names) - 1)
        progress(0.5, "rivals")
        rivals = {"pixels": sets.best(whitened(sets))}
        other = randomised(budget, seed)
        rivals["random"] = sets.cell(other, sets.grid(other, TIMES).best)
        progress(0.6, "one level")
        other = trained(budget, seed, OneLevel())
        rivals["one level"] = sets.cell(other, sets.grid(other, (ONE,)).best)
        progress(0.8, "autoencoder")
        rivals["autoencoder"] = sets.best(autoencoder(budget, seed, sets))
        return numbers | {f"{rival} {k}": v for rival, found in rivals.items() for k, v in found.items()}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        inside = all(
            effects[k].above(0.0) for k in ("depth: best - outermost blocks", "level: best - smallest time")
        )
        margins = {
            k: effects[k]
            for k in (
                f"{labels} labels: diffusion - {rival}" for labels in ("all", "few") for rival in CHOOSING
            )
        }
        wide = [k for k, e in margins.items() if e.above(MARGIN)]
        ahead = [k for k, e in margins.items() if e.above(0.0)]
        counts = f"{len(wide)} are over the bound and {len(ahead)} above 0"
        told = f"best cell inside: {inside}; of {len(margins)} margins {counts}"
        if inside and len(wide) == len(margins):
            return Verdict("reproduced", told)
        if len(ahead) == len(margins) or (inside and len(wide) >= len(margins) // 2):
            return Verdict("partly", told)
        return Verdict("not reproduced", told)


claim = DiffusionFeatures()

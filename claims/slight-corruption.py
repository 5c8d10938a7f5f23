"""Slight Corruption in Pre-training Data Makes Better Diffusion Models (Chen et al. 2024, 2405.20494).

Measured here on eight classes of Gaussians, in the plane and in 16 dimensions as in the paper's theory, where the truth
is known: conditional networks trained on few points a class, with a few per cent of the labels wrong, or with noise on
the embedding of the label. Not in this claim: images, guidance scales, captions, and features as metrics; the closed
form of the linear model is a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ornstein import data, denoisers, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.conditions import CorruptLabels, PerturbEmbedding, corrupted
from ornstein.core import Condition, Keyed, Objective, Sampler, TimeGrid

STEPS = {"smoke": 20, "quick": 600, "full": 6000}
EACH = {"smoke": 50, "quick": 300, "full": 500}  # samples a class
FEW, PLENTY = 50, 1000  # training points a class
CLASSES, CALLS = 8, 20
DIMENSIONS = {"plane": 2, "sixteen": 16}
SLIGHT = ("labels 5 %", "embedding 1")
ARMS = {
    "clean": (0.0, objectives.Denoising()),
    "labels 5 %": (0.05, objectives.Denoising()),
    "labels 20 %": (0.2, objectives.Denoising()),
    "embedding 1": (0.0, objectives.Perturbed(objectives.Denoising(), PerturbEmbedding(1.0))),
    "input 0.1": (0.0, objectives.InputPerturbation(0.1)),
}


class World:
    """Classes N(m_k, 0.3^2 I), the means on the unit circle (times 1.5) or normal in more dimensions."""

    def __init__(self, dimension: int, each: int, seed: int) -> None:
        angle = 2 * math.pi * torch.arange(CLASSES) / CLASSES
        circle = torch.stack([angle.cos(), angle.sin()], 1)
        far = torch.randn(CLASSES, dimension, generator=torch.Generator().manual_seed(7 * seed))
        self.means = 1.5 * (circle if dimension == 2 else far / far.norm(dim=1, keepdim=True))
        x = self.drawn(each, 7 * seed + 1).flatten(0, 1)
        label = torch.arange(CLASSES).repeat_interleave(each)
        points = data.TensorSplit(x, {"label": label})
        none = data.TensorSplit(x[:0], {"label": label[:0]})
        self.data = data.Dataset("classes", points, none, (dimension,))
        self.seed = seed

    def drawn(self, each: int, seed: int) -> Tensor:
        """(classes, each, dimension) of the truth."""
        shape = CLASSES, each, self.means.shape[1]
        return self.means[:, None] + 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def distance(self, x: Tensor) -> float:
        """Mean over classes of the squared 2-Wasserstein distance to fresh draws, by exact assignment."""
        cost = torch.cdist(x.double(), self.drawn(x.shape[1], 7 * self.seed + 2).double()) ** 2
        return float(torch.stack([c[linear_sum_assignment(c.numpy())].mean() for c in cost]).mean())


class SlightCorruption(Claim):
    slug = "slight-corruption"
    statement = (
        f"Of conditional models trained on {FEW} points a class, one with 5 % wrong labels and one with noise of size "
        "1 on the label's embedding are both surely nearer to the truth (squared Wasserstein distance a class) than "
        "one with clean labels, in the plane and in 16 dimensions, and the gain is gone or smaller at "
        f"{PLENTY} points a class. Eight classes of Gaussians stand in for ImageNet; partly, if one of the two gains "
        "in one of the worlds"
    )
    baseline = (
        "clean labels with the same points, network, batches, steps and sampler (no guidance in any arm); noise on the "
        "input and 20 % wrong labels are controls"
    )
    effects = (
        *(
            Effect(
                f"{world}: {arm} / clean, {each} a class",
                of=f"{world} {arm} {each}",
                against=f"{world} clean {each}",
                ratio=True,
            )
            for world in DIMENSIONS
            for each in (FEW, PLENTY)
            for arm in (tuple(ARMS)[1:] if each == FEW else SLIGHT)
        ),
        *(
            Effect(f"{world}: clean, {each} a class", of=f"{world} clean {each}")
            for world in DIMENSIONS
            for each in (FEW, PLENTY)
        ),
        *(Effect(f"{world}: floor", of=f"{world} floor") for world in DIMENSIONS),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for i, (name, dimension) in enumerate(DIMENSIONS.items()):
            for j, each in enumerate((FEW, PLENTY)):
                world = World(dimension, each, seed)
                for arm in ARMS if each == FEW else ("clean", *SLIGHT):
                    progress((2 * i + j) / 4, f"{name}: {arm}")
                    model = trained(world, *ARMS[arm], STEPS[budget], seed)
                    found[f"{name} {arm} {each}"] = world.distance(samples(model, EACH[budget], seed))
            found[f"{name} floor"] = world.distance(world.drawn(EACH[budget], 7 * seed + 3))
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        few = {(w, a): effects[f"{w}: {a} / clean, {FEW} a class"] for w in DIMENSIONS for a in SLIGHT}
        plenty = {(w, a): effects[f"{w}: {a} / clean, {PLENTY} a class"] for w in DIMENSIONS for a in SLIGHT}
        said = "; ".join(
            f"{w}, {a}: {few[w, a].value:.3g} of the clean distance with {FEW} points a class, "
            f"{plenty[w, a].value:.3g} with {PLENTY}"
            for w, a in few
        )
        gains = [key for key, effect in few.items() if effect.below(1.0)]
        vanish = all(not plenty[key].below(1.0) or plenty[key].value > few[key].value for key in few)
        if len(gains) == len(few) and vanish:
            return Verdict("reproduced", said)
        if gains:
            names = ", ".join(f"{a} ({w})" for w, a in gains)
            return Verdict("partly", f"a sure gain with {names} only; {said}")
        return Verdict("not reproduced", said)


def trained(
    world: World, eta: float, objective: Objective, steps: int, seed: int
) -> denoisers.NetworkDenoiser:
    """A conditional rectified flow; wrong labels are drawn once and stay."""
    torch.manual_seed(seed)
    split = corrupted(world.data, seed, label=CorruptLabels(eta)).train
    dimension = world.means.shape[1]
    network = networks.ResidualMLP(dimension, width=96, depth=2, labels=CLASSES)
    model = denoisers.NetworkDenoiser(network, processes.RectifiedFlow(), "velocity", shape=(dimension,))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches = data.Batches(split, 128, seed)
    for i in range(steps):
        record = batches[i]
        optimiser.zero_grad()
        batch = {"x_0": record["x_0"], "condition": Condition(record["fields"])}
        objective(model, batch, Keyed(1000 * seed + i, 128)).total.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def samples(model: denoisers.NetworkDenoiser, each: int, seed: int) -> Tensor:
    """(classes, each, dimension)."""
    label = torch.arange(CLASSES).repeat_interleave(each)
    grid = TimeGrid.log_snr(CALLS, model.process)
    x: Tensor = Sampler(solvers.DPMSolverPP(order=2), grid=grid)(model, len(label), seed=seed, label=label)
    return x.reshape(CLASSES, each, -1)


claim = SlightCorruption()

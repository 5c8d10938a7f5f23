"""AutoDiffusion: Training-Free Optimization of Time Steps and Architectures (Li et al. 2023, 2309.10438).

Measured here: the search over time steps of DDIM on the zoo's digits model, read as a variance-preserving one with the
linear schedule, as the paper's models are. Surrogates: an 8x8 model for the paper's 64x64 and 512x512 ones, and the
Frechet distance in the features of a small digits classifier for FID. On the model's own process, a rectified flow,
uniform steps are hard to improve (seen in a first run of this claim, which tested nothing else); that is reported too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, metrics, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Denoiser, Sampler, TimeGrid

HALF, BUILDER, CHANCE = 0.5, 0.9, 0.95


class Size(NamedTuple):
    """Fitness evaluations of a search, its samples, samples of the report, and the search's own numbers."""

    asked: int
    searched: int
    reported: int
    population: int
    top: int
    crossed: int
    mutated: int


SIZES = {
    "smoke": Size(5, 30, 60, 4, 2, 1, 1),
    "quick": Size(80, 200, 1000, 20, 6, 10, 10),
    "full": Size(400, 1000, 5000, 50, 10, 25, 35),
}
STEPS = {"smoke": (4, 6), "quick": (4, 6), "full": (4, 6, 10)}


class Judge:
    """The Frechet distance of DDIM's samples on a grid to real images, in the features of the digits classifier."""

    def __init__(self, model: Denoiser, real: Tensor, n: int, seed: int) -> None:
        self.model, self.n, self.seed = model, n, seed
        self.classifier = metrics.load_classifier("digits")
        self.real = self._features(real)
        self.label = torch.arange(n) % 10

    def __call__(self, grid: TimeGrid) -> float:
        made = Sampler(solvers.DDIM(), grid=grid)(self.model, self.n, seed=self.seed, label=self.label)
        return float(metrics.frechet_distance(self._features(made), self.real, resamples=2).value)

    def _features(self, images: Tensor) -> Tensor:
        return metrics.classifier_features(self.classifier, images)


class AutoDiffusion(Claim):
    slug = "autodiffusion"
    statement = (
        "Evolutionary search of DDIM's time steps on the digits model, variance-preserving as the paper's models are "
        "(a surrogate for them; the Frechet distance in a digits classifier's features for FID), gives at 4 and at 6 "
        f"steps, on fresh samples against held-out images, at most {HALF} of the distance of uniform steps, {BUILDER} "
        f"of that of the best of the quadratic, Karras and uniform-log-SNR grids, and {CHANCE} of that of random "
        "search with as many fitness evaluations"
    )
    baseline = (
        "uniform steps (the paper's own); quadratic, Karras (rho 7) and uniform log-SNR grids, the best of them "
        "chosen on the search's own samples; random search over the same space with the same number of evaluations "
        "and the same samples. Selection uses training images and one seed, the report held-out images and another"
    )
    effects = (
        Effect("4 steps: searched / uniform", of="searched 4", against="uniform 4", ratio=True),
        Effect("4 steps: searched / best builder", of="searched 4", against="builder 4", ratio=True),
        Effect("4 steps: searched / random search", of="searched 4", against="random 4", ratio=True),
        Effect("6 steps: searched / uniform", of="searched 6", against="uniform 6", ratio=True),
        Effect("6 steps: searched / best builder", of="searched 6", against="builder 6", ratio=True),
        Effect("6 steps: searched / random search", of="searched 6", against="random 6", ratio=True),
        Effect(
            "rectified flow, 4 steps: searched / uniform",
            of="searched flow",
            against="uniform flow",
            ratio=True,
        ),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        size, counts, digits = SIZES[budget], STEPS[budget], data.load("digits")
        flow = orn.load("digits")
        preserving = denoisers.Converted(flow, processes.VariancePreserving())
        found: dict[str, float] = {}
        runs = [("flow", flow, 4), *((str(steps), preserving, steps) for steps in counts)]
        for i, (name, model, steps) in enumerate(runs):
            progress(i / len(runs), f"{steps} steps")
            select = Judge(model, digits.train.x_0, size.searched, 1000 * seed)
            report = Judge(model, digits.held_out.x_0, size.reported, 1000 * seed + 1)
            grids = chosen(model, select, steps, size, seed)
            found |= {f"{arm} {name}": report(grid) for arm, grid in grids.items()}
        progress(1.0, "")
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        limits = {"uniform": HALF, "best builder": BUILDER, "random search": CHANCE}
        missed = [
            f"{steps} steps: {effects[f'{steps} steps: searched / {name}']} of {name}, asked for {limit}"
            for steps in (4, 6)
            for name, limit in limits.items()
            if not effects[f"{steps} steps: searched / {name}"].below(limit)
        ]
        if not missed:
            return Verdict("reproduced", "the searched steps win by the margins asked at 4 and at 6 steps")
        some = any(
            all(effects[f"{steps} steps: searched / {name}"].below(limit) for name, limit in limits.items())
            for steps in (4, 6)
        )
        return Verdict("partly" if some else "not reproduced", "; ".join(missed))


def chosen(model: Denoiser, select: Judge, steps: int, size: Size, seed: int) -> dict[str, TimeGrid]:
    """The contestants' grids."""
    space = solvers.TimeSteps(steps)
    fitness = lambda candidate: select(space.grid(candidate))  # noqa: E731
    search = solvers.EvolutionarySearch(space, fitness, *size[3:])
    control = solvers.EvolutionarySearch(space, fitness, size.population, size.top, crossed=0, mutated=0)
    builders = [solvers.quadratic(steps)]
    builders += [TimeGrid.named(kind, steps, model.process) for kind in ("karras", "log-snr")]  # type: ignore[arg-type]
    return {
        "uniform": TimeGrid.uniform(steps),
        "builder": min(builders, key=select),
        "searched": space.grid(search.run(size.asked, seed).best),
        "random": space.grid(control.run(size.asked, seed).best),
    }


claim = AutoDiffusion()

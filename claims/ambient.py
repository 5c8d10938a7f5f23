"""How much is a noisy image worth? Data Scaling Laws for Ambient Diffusion (Daras et al. 2024, 2411.02780).

Measured here on a ring of eight Gaussians in the plane, where the truth is known, and on 8x8 digits (a surrogate for
CelebA and ImageNet, with the Frechet distance in a digits classifier's features for FID): one training set, of which
all, a tenth, or none is clean, the rest noisy at one known level, drawn once. Not in this claim: the scaling law over
many sizes, and the price of a clean image in noisy ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ornstein import data, denoisers, metrics, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Sampler, TimeGrid

STEPS = {
    "smoke": {"ring": 20, "digits": 20},
    "quick": {"ring": 1800, "digits": 700},
    "full": {"ring": 6000, "digits": 4000},
}
SAMPLES = {"smoke": 200, "quick": 1500, "full": 1500}
LEVEL = {"ring": 0.3, "digits": 0.5}  # sigma of the noisy items
SIZE = 2000  # points on the ring; of the digits all training scans
CLEAN = 0.1
SHARE = 0.4
ARMS = ("clean", "small", "noisy", "mix")
WORLDS = ("ring", "digits")
CALLS = 40


class Ring:
    """Eight round Gaussians of standard deviation 0.05 on the unit circle, 0.77 apart."""

    def __init__(self, seed: int) -> None:
        self.train = self.drawn(SIZE, 10 * seed)
        self.seed, self.width, self.batch = seed, 96, 256

    def drawn(self, n: int, seed: int) -> Tensor:
        """Equally many of each, so that the metric does not count modes."""
        angle = 2 * math.pi * (torch.arange(n) % 8) / 8
        centres = torch.stack([angle.cos(), angle.sin()], 1)
        return centres + 0.05 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))

    def distance(self, x: Tensor) -> float:
        """Squared 2-Wasserstein distance to as many fresh draws of the truth, by exact assignment."""
        cost = torch.cdist(x, self.drawn(len(x), 10 * self.seed + 1)) ** 2
        rows, columns = linear_sum_assignment(cost.double().numpy())
        return float(cost[rows, columns].mean())

    def floor(self, n: int) -> float:
        """That of another fresh draw, whose modes are counted at random as a model's are."""
        chosen = torch.randint(8, (n,), generator=torch.Generator().manual_seed(self.seed))
        pool = self.drawn(8 * n, 10 * self.seed + 2).reshape(n, 8, 2)
        return self.distance(pool[torch.arange(n), chosen])


class Digits:
    """The scans as vectors of 64 entries in [-1, 1]."""

    def __init__(self, seed: int) -> None:
        scans = data.load("digits")
        self.train, self.real = scans.train.x_0.flatten(1), scans.held_out.x_0
        self.width, self.batch = 192, 128
        self.classifier = metrics.load_classifier("digits")

    def distance(self, x: Tensor) -> float:
        """Frechet distance to the held-out scans in the classifier's features."""
        ends = (metrics.classifier_features(self.classifier, v) for v in (x.reshape(-1, 1, 8, 8), self.real))
        return float(metrics.frechet_distance(*ends, resamples=2).value)

    def floor(self, n: int) -> float:
        """That of the training scans."""
        return self.distance(self.train)


class Ambient(Claim):
    slug = "ambient"
    statement = (
        "With a tenth of the training set clean and the rest noisy at a known level, trained by the items' own level, "
        f"a model's excess distance over the floor is at most {SHARE} of that of the clean tenth alone and of that of "
        "noisy data alone: squared Wasserstein distance on a ring of eight Gaussians in the plane (2000 points, sigma "
        "0.3), and Frechet distance in a classifier's features on 8x8 digits (1438 scans, sigma 0.5; a surrogate for "
        "photographs). A world can only tell where all clean data are surely below the clean tenth; another is not "
        "testable, and no more than partly is said without it"
    )
    baseline = (
        "the same network, steps, batches and sampler (40 calls of DPM-Solver++(2M)) for all sets of a seed. Noisy "
        "data alone may also stop at their own level and denoise from there, whichever is better on the test itself"
    )
    effects = (
        *(Effect(f"{world}: {arm}, excess", of=f"{world} {arm}") for world in WORLDS for arm in ARMS),
        *(
            Effect(f"{world}: mix - {share:g} x {arm}", of=f"{world} mix less {share:g} {arm}")
            for world in WORLDS
            for arm in ("small", "noisy")
            for share in (1.0, SHARE)
        ),
        *(
            Effect(f"{world}: clean - small", of=f"{world} clean", against=f"{world} small")
            for world in WORLDS
        ),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for i, name in enumerate(WORLDS):
            world = (Ring, Digits)[i](seed)
            n, floor = SAMPLES[budget], world.floor(SAMPLES[budget])
            for j, arm in enumerate(ARMS):
                progress((4 * i + j) / 8, f"{name}: {arm}")
                model = trained(world, arm, LEVEL[name], STEPS[budget][name], seed)
                drawn = [world.distance(x) for x in samples(model, n, arm, LEVEL[name], seed)]
                found[f"{name} {arm}"] = min(drawn) - floor
            for arm in ("small", "noisy"):
                for share in (1.0, SHARE):
                    gap = found[f"{name} mix"] - share * found[f"{name} {arm}"]
                    found[f"{name} mix less {share:g} {arm}"] = gap
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        def holds(world: str, share: float) -> bool:
            return all(effects[f"{world}: mix - {share:g} x {arm}"].below(0.0) for arm in ("small", "noisy"))

        said = "; ".join(
            f"{world}: excess of the mix {effects[f'{world}: mix, excess'].value:.3g}, of the clean tenth "
            f"{effects[f'{world}: small, excess'].value:.3g}, of noisy data alone "
            f"{effects[f'{world}: noisy, excess'].value:.3g}, of clean data "
            f"{effects[f'{world}: clean, excess'].value:.3g}"
            for world in WORLDS
        )
        testable = [w for w in WORLDS if effects[f"{w}: clean - small"].below(0.0)]
        silent = ", ".join(w for w in WORLDS if w not in testable)
        if silent:
            said = f"not testable on {silent}: all clean data are not surely below the clean tenth; {said}"
        if not testable:
            return Verdict("not testable here", said)
        strong, better = ([w for w in testable if holds(w, share)] for share in (SHARE, 1.0))
        if len(strong) == len(WORLDS):
            return Verdict("reproduced", said)
        if better:
            how = f"at most {SHARE} of both on {', '.join(strong) or 'none'}, surely below both on {', '.join(better)}"
            return Verdict("partly", f"{how}; {said}")
        return Verdict("not reproduced", f"surely below both rivals on none of {', '.join(testable)}; {said}")


def trained(world: Ring | Digits, arm: str, sigma: float, steps: int, seed: int) -> denoisers.NetworkDenoiser:
    """An EDM-preconditioned network on items of which some are clean: their noise is drawn once."""
    torch.manual_seed(seed)
    x_0 = world.train
    process = processes.VarianceExploding(0.002, 20.0)
    network = networks.ResidualMLP(x_0.shape[1], world.width, 2)
    model = denoisers.NetworkDenoiser(network, process, "edm", shape=tuple(x_0.shape[1:]))
    generator = torch.Generator().manual_seed(100 + seed)
    order, z = torch.randperm(len(x_0), generator=generator), torch.randn(x_0.shape, generator=generator)
    clean = order < {"clean": len(x_0), "small": CLEAN * len(x_0), "noisy": 0, "mix": CLEAN * len(x_0)}[arm]
    level = torch.where(clean, 0.0, process.time_at(-math.log(sigma)))
    items = torch.where(clean[:, None], x_0, x_0 + sigma * z)
    if arm == "small":
        items, level = items[clean], level[clean]
    objective = objectives.Denoising("edm", times=objectives.LogNormalSigma())
    optimiser = torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for i in range(steps):
        rows = torch.randint(len(items), (world.batch,), generator=generator)
        optimiser.zero_grad()
        noise = Keyed(1000 * seed + i, world.batch)
        objective(model, {"x_0": items[rows], "level": level[rows]}, noise).total.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def samples(model: denoisers.NetworkDenoiser, n: int, arm: str, sigma: float, seed: int) -> list[Tensor]:
    """Samples to time 0; of noisy data alone also those that denoise at the items' own level."""
    grid = TimeGrid.karras(CALLS, model.process)
    grids = [grid]
    if arm == "noisy":
        last = model.process.time_at(-math.log(sigma))
        above = [row.t for row in grid if row.t > last]
        grids.append(TimeGrid.through([*above, last, 0.0]))
    return [Sampler(solvers.DPMSolverPP(order=2), grid=g)(model, n, seed=seed) for g in grids]


claim = Ambient()

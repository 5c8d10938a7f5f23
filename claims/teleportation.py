"""Analytical teleportation: The Unreasonable Effectiveness of Gaussian Score Approximation (2412.09726).

Scaled down: the zoo's class-conditional 8x8 digits model in place of EDM networks, Frechet distance in the features of
a classifier of digits in place of FID. The sampler is the paper's: Heun on 18 levels of Karras spacing from sigma /
alpha = 80 to 0.002 (35 network calls). Teleportation leaves out its first levels and jumps to the next along the
probability flow of the Gaussian fitted to the training scans. The fit knows no classes; the model is conditional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, metrics
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import AffineProcess, Denoiser, Sampler, Solver, TimeGrid
from ornstein.denoisers import GaussianFit
from ornstein.solvers import Heun, Teleport, UniPC, best

LEVELS = 18
SKIPPED = 5  # of 18 levels, two calls each: 10 of 35 calls, 29 %
HIGH, LOW = 80.0, 0.002
SIZES = {"smoke": 60, "quick": 1000, "full": 5000}


def karras(n: int, high: float = HIGH, low: float = LOW) -> list[float]:
    """2206.00364, eq. 5, rho = 7."""
    ends = high ** (1 / 7), low ** (1 / 7)
    return [(ends[0] + (ends[1] - ends[0]) * i / (n - 1)) ** 7 for i in range(n)]


class Teleportation(Claim):
    slug = "teleportation"
    statement = (
        f"Teleporting over the first {SKIPPED} of {LEVELS} levels (29 % of Heun's calls) leaves the Frechet distance "
        "(classifier features, digits model) within 5 % of the full run's, and it is below that of the full range "
        "re-spaced to as many calls; the same holds for UniPC of order 3 with 14 and 10 calls"
    )
    baseline = (
        "Heun on the full range re-spaced to the same number of calls, and teleportation that knows the mean alone; "
        "each from the same starts. Beside them the end-point error against a fine solve, and `solvers.best`, whose "
        "linear part is the same Gaussian, at the same calls as UniPC"
    )
    effects = (
        Effect("FD: teleported / full", of="fd teleported", against="fd full", ratio=True),
        Effect("FD: teleported / re-spaced", of="fd teleported", against="fd respaced", ratio=True),
        Effect("FD: teleported / by the mean alone", of="fd teleported", against="fd mean", ratio=True),
        Effect("error: teleported / re-spaced", of="error teleported", against="error respaced", ratio=True),
        Effect(
            "error: teleported / by the mean alone", of="error teleported", against="error mean", ratio=True
        ),
        Effect("FD, UniPC: teleported / full", of="fd unipc teleported", against="fd unipc full", ratio=True),
        Effect("FD, UniPC: teleported / re-spaced", of="fd unipc teleported", against="fd unipc", ratio=True),
        Effect(
            "error, UniPC: teleported / re-spaced",
            of="error unipc teleported",
            against="error unipc",
            ratio=True,
        ),
        Effect("error at 10 calls: best / UniPC", of="error best", against="error unipc", ratio=True),
        Effect("FD at 10 calls: best / UniPC", of="fd best", against="fd unipc", ratio=True),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        n = SIZES[budget]
        model, digits = orn.load("digits"), data.load("digits")
        generator = torch.Generator().manual_seed(seed)
        y = HIGH * torch.randn(n, *model.shape, generator=generator)
        fit, scans = GaussianFit.of(digits.train.x_0), torch.cat([digits.train.x_0, digits.held_out.x_0])
        mean = GaussianFit.isotropic(fit.mean, 0.0)
        classifier = metrics.load_classifier("digits")
        known = metrics.classifier_features(classifier, scans)
        runs = {
            "full": run(model, y, Heun(), karras(LEVELS)),
            "teleported": run(model, y, Heun(), karras(LEVELS)[SKIPPED:], fit),
            "respaced": run(model, y, Heun(), karras(LEVELS - SKIPPED)),
            "mean": run(model, y, Heun(), karras(LEVELS)[SKIPPED:], mean),
            "unipc full": run(model, y, UniPC(3), even(14)),
            "unipc teleported": run(model, y, UniPC(3), even(14)[4:], fit),
            "unipc": run(model, y, UniPC(3), even(10)),
            "best": lambda k: at(model, y[:k], best(10, affine(model), fit, trained=True)),
        }
        checked = min(n, 200)
        truth, found = run(model, y, UniPC(3), even(150))(checked), {}
        for i, (name, ends) in enumerate(runs.items()):
            progress((i + 1) / (len(runs) + 1), name)
            x = ends(n)
            features = metrics.classifier_features(classifier, x)
            found[f"fd {name}"] = float(metrics.frechet_distance(features, known, resamples=2).value)
            found[f"error {name}"] = float((x[:checked] - truth).pow(2).flatten(1).mean(1).sqrt().median())
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        kept = effects["FD: teleported / full"].below(1.05)
        ahead = effects["FD: teleported / re-spaced"].below(1.0)
        combines = effects["FD, UniPC: teleported / full"].below(1.05) and effects[
            "FD, UniPC: teleported / re-spaced"
        ].below(1.0)
        said = "; ".join(
            f"{name} {effects[name].value:.3g}" for name in ("FD: teleported / full", "FD: teleported / re-spaced",
            "FD, UniPC: teleported / re-spaced", "error: teleported / re-spaced")
        )  # fmt: skip
        if kept and ahead and combines:
            return Verdict("reproduced", said)
        if kept or ahead:
            parts = [
                f"within 5 % of the full run: {kept}",
                f"ahead of re-spacing: {ahead}",
                f"with UniPC: {combines}",
            ]
            return Verdict("partly", f"{', '.join(parts)}; {said}")
        return Verdict("not reproduced", said)


def affine(model: Denoiser) -> AffineProcess:
    """The model's process, known to be affine."""
    assert isinstance(model.process, AffineProcess)
    return model.process


def even(n: int) -> list[float]:
    """Uniform in log-SNR down to 0.01, where the last call denoises."""
    return [HIGH * (0.01 / HIGH) ** (i / (n - 1)) for i in range(n)]


def run(
    model: Denoiser, y: Tensor, solver: Solver, levels: list[float], fit: GaussianFit | None = None
) -> Callable[[int], Tensor]:
    """The first k end points from y = x / alpha at `HIGH`, after a jump to the first level if there is a fit."""
    process = affine(model)
    times = [process.time_at(-math.log(level)) for level in levels]
    grid = TimeGrid.through([*times, 0.0])
    if fit is not None:
        grid = TimeGrid.through([process.time_at(-math.log(HIGH)), times[0]], solver=Teleport(fit)) + grid
    return lambda k: at(model, y[:k], Sampler(solver, grid=grid))


def at(model: Denoiser, y: Tensor, sampler: Sampler) -> Tensor:
    """Run a sampler from y = x / alpha at `HIGH`, whatever time its grid says it starts at."""
    process, grid = affine(model), sampler.grid
    assert isinstance(grid, TimeGrid)
    first = process.time_at(-math.log(HIGH))
    grid = TimeGrid([grid[0]._replace(t=first), *grid[1:]])
    x: Tensor = Sampler(sampler.solver, grid=grid)(
        model, process.at(first).alpha * y, label=torch.arange(len(y)) % 10
    )
    return x


claim = Teleportation()

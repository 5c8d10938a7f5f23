"""Are We Really Learning the Score Function? (Baptista et al. 2025, 2509.00336).

Measured here: the asymmetry |J - J^T| / |J| of the scores of trained networks, a small one in the plane and the U-Net
of the digits model, at five noise levels; the same of a network that is a gradient by construction, which is the
floor; how near the samples of both are to the data; and the exact score of a mixture with a gauge field added, whose
samples should stay as good while its asymmetry is of order 1. Stands in for the paper's image models: a plane of nine
blobs and 8x8 digits.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, diagnostics, metrics, networks, processes, solvers, training
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Denoiser, Sampler
from ornstein.data.plane import Blobs

LEVELS = (0.05, 0.2, 0.5, 1.0, 3.0)  # sigma / alpha
STEPS = {"smoke": 20, "quick": 1200, "full": 8000}
SAMPLES = {"smoke": 300, "quick": 3000, "full": 10_000}
FLOOR, LEAST, SHARE, NEAR = 10.0, 0.01, 0.1, 0.002


def _trained(denoiser: Denoiser, points: Tensor, steps: int, seed: int) -> Denoiser:
    held = points[: len(points) // 10]
    split = data.Dataset("plane", data.TensorSplit(points), data.TensorSplit(held), shape=(2,))
    options = {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 10**9, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit(
            denoiser, split, steps=steps, batch=256, seed=seed, out=folder, ema=0.99, **options
        )
        return run.denoiser.eval()


def _asymmetries(name: str, model: Denoiser, x: Tensor, seed: int, **options: int) -> dict[str, float]:
    """The root mean square over noised points, at each level."""
    process, found = model.process, {}
    z = orn.Keyed(seed, len(x)).normal(x)
    for level in LEVELS:
        t = process.time_at(-math.log(level))
        x_t = process.at(t).alpha * (x + level * z)
        value = diagnostics.asymmetry(model, x_t, t, seed=seed, **options)
        found[f"{name} asymmetry {level}"] = float(value.square().mean().sqrt())
    return found


class WassersteinFlow(Claim):
    slug = "wasserstein-flow"
    statement = (
        "Scores of trained networks are not gradients: in every seed, at each of five noise levels, their "
        f"asymmetry |J - J^T| / |J| is at least {LEAST:.0%} and over {FLOOR:.0f} times that of a network that "
        "is a gradient by construction, in the plane and for the digits model. Adding a gauge field to the "
        "exact score of a mixture brings its asymmetry above 1 and leaves the energy distance of samples to "
        f"the data, in every seed, within {NEAR:g} of the exact score's own and under {SHARE:.0%} of what the "
        "same field, frozen at one time, makes of it. Beside these two, "
        "which decide: asymmetry is larger at sigma / alpha = 0.05 than at 3, and free networks sample no worse "
        "than gradients trained for as many steps"
    )
    baseline = (
        "a PotentialDenoiser of more parameters, trained on the same points for as many steps, each of "
        "which costs it more: its asymmetry is that of rounding, so that the least asymmetry asked for is "
        "what decides; for the gauge, the exact score without it, by the same solver, steps and noise, and "
        "a field of the same size that is a gauge at one time only, which the distance must be able to see"
    )
    effects = (
        *(Effect(f"plane: asymmetry at {v}", of=f"plane asymmetry {v}") for v in LEVELS),
        *(Effect(f"digits: asymmetry at {v}", of=f"digits asymmetry {v}") for v in LEVELS),
        *(Effect(f"gradient: asymmetry at {v}", of=f"gradient asymmetry {v}") for v in LEVELS),
        *(
            Effect(
                f"{name}: asymmetry at 0.05 over 3",
                f"{name} asymmetry 0.05",
                f"{name} asymmetry 3.0",
                ratio=True,
            )
            for name in ("plane", "digits")
        ),
        *(
            Effect(f"{name}: smallest asymmetry{over}", of=f"{name} {of}")
            for over, of in ((" over floor", "above floor"), ("", "smallest"))
            for name in ("plane", "digits")
        ),
        Effect("seeds in which networks are no gradients", of="asymmetric"),
        Effect("seeds in which the gauge is harmless", of="harmless"),
        Effect("plane: distance of free network", of="free distance"),
        Effect("plane: distance, free less gradient", of="free distance", against="gradient distance"),
        Effect("gauge: asymmetry", of="gauge asymmetry"),
        Effect("gauge: distance, exact score", of="exact distance"),
        Effect("gauge: distance with gauge", of="gauge distance"),
        Effect("gauge: distance, with gauge less exact", of="gauge distance", against="exact distance"),
        Effect("gauge: distance with frozen field", of="frozen distance"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        n, steps = SAMPLES[budget], STEPS[budget]
        found = self._learned(n, steps, seed, progress)
        progress(0.7, "digits model")
        scans = data.load("digits").train.x_0
        rows = torch.randperm(len(scans), generator=torch.Generator().manual_seed(seed))[
            : 4 if budget == "smoke" else 16
        ]
        model = orn.load("digits").eval()
        found |= _asymmetries("digits", model, scans[rows], seed, probes=2)
        progress(0.85, "gauge")
        found |= _gauge(n, seed)
        return found | _decided(found)

    def _learned(self, n: int, steps: int, seed: int, progress: Callable[..., None]) -> dict[str, float]:
        blobs, process = Blobs(), processes.VariancePreserving()
        points, real, x = (
            blobs.sample(count, torch.Generator().manual_seed(10 * seed + i))
            for i, count in enumerate((20_000, n, 200))
        )
        scale = float(points.square().mean().sqrt())
        torch.manual_seed(seed)
        free = denoisers.NetworkDenoiser(networks.ResidualMLP(2, 64, 3), process, shape=(2,), scale=scale)
        gradient = denoisers.PotentialDenoiser(
            networks.Potential(2, 192, 3), process, shape=(2,), scale=scale
        )
        found: dict[str, float] = {}
        for i, (name, made) in enumerate((("plane", free), ("gradient", gradient))):
            progress(0.35 * i, f"training, {name}")
            model = _trained(made, points, steps, seed)
            found |= _asymmetries(name, model, x, seed)
            samples = Sampler(solvers.DPMSolverPP(), 40)(model, n, seed=seed)
            found["free distance" if i == 0 else "gradient distance"] = _distance(samples, real)
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        seen, harmless = (
            effects[f"seeds in which {what}"].value == 1.0
            for what in ("networks are no gradients", "the gauge is harmless")
        )
        share = (
            abs(effects["gauge: distance with gauge"].value)
            / effects["gauge: distance with frozen field"].value
        )
        beside = {
            "asymmetry grows towards the data in the plane": effects["plane: asymmetry at 0.05 over 3"].above(
                1.0
            ),
            "and for digits": effects["digits: asymmetry at 0.05 over 3"].above(1.0),
            "free networks sample no worse": effects["plane: distance, free less gradient"].low is not None
            and effects["plane: distance, free less gradient"].value < 0.002,
        }
        notes = "; ".join(f"{'yes' if yes else 'no'}: {what}" for what, yes in beside.items())
        least = min(effects[f"{name}: smallest asymmetry"].value for name in ("plane", "digits"))
        excess = effects["gauge: distance, with gauge less exact"].value
        text = (
            f"the smallest asymmetry is {least:.1%} in the mean, at least {LEAST:.0%} in every seed: "
            f"{'yes' if seen else 'no'}; with a gauge the distance is {excess:.2g} over the exact score's, within "
            f"{NEAR:g} in every seed: {'yes' if harmless else 'no'}, and {share:.1%} of the frozen field's; {notes}"
        )
        if seen and harmless:
            return Verdict("reproduced", f"networks are no gradients and a gauge is harmless: {text}")
        if seen or harmless:
            return Verdict("partly", f"{'only the asymmetry' if seen else 'only the gauge'} holds: {text}")
        return Verdict("not reproduced", text)


def _decided(found: Mapping[str, float]) -> dict[str, float]:
    """What one seed's numbers say of both parts of the statement."""
    made: dict[str, float] = {}
    for name in ("plane", "digits"):
        values = {v: found[f"{name} asymmetry {v}"] for v in LEVELS}
        made[f"{name} smallest"] = min(values.values())
        made[f"{name} above floor"] = min(
            a / (found[f"gradient asymmetry {v}"] + 1e-12) for v, a in values.items()
        )
    asymmetric = all(
        made[f"{name} above floor"] > FLOOR and made[f"{name} smallest"] >= LEAST
        for name in ("plane", "digits")
    )
    exact, gauge = found["exact distance"], found["gauge distance"]
    near = abs(gauge - exact) < NEAR and abs(gauge) < SHARE * found["frozen distance"]
    harmless = near and found["gauge asymmetry"] > 1
    return {**made, "asymmetric": float(asymmetric), "harmless": float(harmless)}


def _distance(x: Tensor, y: Tensor) -> float:
    return float(metrics.energy_distance(x, y, resamples=2).value)


def _gauge(n: int, seed: int) -> dict[str, float]:
    """Samples of the exact score, with a gauge, and with the gauge's field as it is at one time."""
    blobs, process = Blobs(), processes.VariancePreserving()
    centres = blobs.centres.double()
    truth = denoisers.MixtureDenoiser(torch.ones(9), centres, blobs.variance, process)
    generator = torch.Generator().manual_seed(seed)
    turns = torch.randn(9, generator=generator).double().reshape(9, 1, 1) * torch.tensor(
        [[0.0, 1.0], [-1.0, 0.0]]
    )
    field = denoisers.GaugeField(truth, 2.0 * turns)
    middle = process.time_at(0.0)
    level = process.at(middle)

    def frozen(x: Tensor, t: object, condition: object) -> Tensor:
        here = process.at(t)  # the middle's field, in the unit of this time's noise
        return field(level.sigma / here.sigma * x, middle) * (level.sigma / here.sigma)

    real = truth.sample_data(n, generator)
    sampler = Sampler(solvers.DDIM(), 200)
    found = {}
    models = {
        "exact": truth,
        "gauge": denoisers.Gauged(truth, field),
        "frozen": denoisers.Gauged(truth, frozen),
    }
    for name, model in models.items():
        found[f"{name} distance"] = _distance(sampler(model, n, seed=seed), real)
    x = level.alpha * real[:200] + level.sigma * orn.Keyed(seed, 200).normal(real[:200])
    asymmetry = diagnostics.asymmetry(models["gauge"], x, middle)
    return {**found, "gauge asymmetry": float(asymmetry.square().mean().sqrt())}


claim = WassersteinFlow()

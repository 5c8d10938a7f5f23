"""Dale meets Langevin: A Multiplicative Denoising Diffusion Model (Shetty et al. 2025, 2510.02730).

Measured here on digits (8x8) mapped to [1, 2], as a stand-in for the paper's image sets: geometric Brownian motion is
additive noise in the logarithm, so the same network is trained on the logarithm and on the pixels, with equal noise
for the spread of each, and the ambient multiplicative step is run beside the logarithm's at equal calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ornstein import data, denoisers, metrics, networks, objectives, processes, simulate, solvers, spaces
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import AffineProcess, Denoiser, Keyed, Sampler, TimeGrid

STEPS = {"smoke": 30, "quick": 2500, "full": 30000}  # of training
SAMPLES = {"smoke": 200, "quick": 1500, "full": 5000}
LONG = {"smoke": 40, "quick": 400, "full": 1000}  # steps of the stochastic samplers
SHORT = 25  # of DPM-Solver++
NOISE = 20.0  # at time 1, in standard deviations of the data
WITHIN = 0.1
UNIT = 2**0.5  # of the data: [1, 2] becomes [1 / sqrt 2, sqrt 2], so that logarithms are about 0


def scans(which: str) -> Tensor:
    """Digits as positive vectors of 64, in [1, 2] / sqrt 2."""
    return (getattr(data.load("digits"), which).x_0.flatten(1) + 3) / 2 / UNIT


def trained(process: AffineProcess, x: Tensor, steps: int, seed: int) -> Denoiser:
    """The same network, initial weights, batches and noise for both; noise levels log-normal, as in 2206.00364."""
    torch.manual_seed(seed)
    spread = float((x - x.mean(0)).square().mean().sqrt())
    network = networks.ResidualMLP(64, width=192, depth=3)
    model = denoisers.NetworkDenoiser(network, process, "edm", shape=(64,), scale=spread)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    loss, generator = objectives.Denoising(), torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(x), (128,), generator=generator)
        level = spread * torch.exp(1.2 * torch.randn(128, generator=generator, dtype=torch.float64) - 0.5)
        batch = {"x_0": x[rows], "time": process.time_at(-level.log()).clamp(1e-6, 1.0)}
        optimiser.zero_grad()
        loss(model, batch, Keyed(seed, 128).fold(step)).sample.mean().backward()
        optimiser.step()
        schedule.step()
    return model.eval()


class Multiplicative(Claim):
    slug = "multiplicative-diffusion"
    statement = (
        "Digits generated under multiplicative noise, that is in the logarithm, never change sign at any step size, "
        "and their Frechet distance (classifier features) equals that of the same network under additive noise on the "
        f"pixels to within {WITHIN:.0%}, by {SHORT} steps of DPM-Solver++"
    )
    baseline = (
        "the same network, initial weights, batches, noise, training and solver on the pixels, with as much noise for "
        "their spread; the paper's ambient multiplicative step beside ancestral steps in the logarithm at equal calls; "
        "the distance of the training scans to the test scans as a floor"
    )
    effects = (
        Effect("distance: logarithm", of="log"),
        Effect("distance: pixels", of="pixels"),
        Effect("distance: logarithm over pixels", of="log", against="pixels", ratio=True),
        Effect("distance: ancestral in the logarithm", of="ancestral"),
        Effect("distance: ambient over ancestral", of="ambient", against="ancestral", ratio=True),
        Effect("floor: training to test scans", of="floor"),
        Effect("signs changed: logarithm", of="log signs"),
        Effect("signs changed: logarithm, 2 steps", of="log signs coarse"),
        Effect("signs changed: pixels", of="pixels signs"),
        Effect("signs changed: pixels, 2 steps", of="pixels signs coarse"),
        Effect("signs changed: ambient", of="ambient signs"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        x = scans("train")
        found = {"floor": _distance(x)}
        mean = x.mean(0)
        for i, name in enumerate(("log", "pixels")):
            codec = spaces.LogCodec() if name == "log" else None
            codes = codec.encode(x) if codec else x - mean
            spread = float((codes - codes.mean(0)).square().mean().sqrt())
            process = processes.GeometricBrownian(NOISE * spread)  # Brownian motion, here without a drift
            process = spaces.Encoded(process, codec) if codec else process
            progress(0.4 * i, name)
            model = trained(process, codes, STEPS[budget], seed)
            for steps, suffix in ((SHORT, ""), (2, " coarse")):
                drawn = Sampler(solvers.DPMSolverPP(), steps)(model, SAMPLES[budget], seed=seed)
                drawn = drawn if codec else drawn + mean
                found[f"{name} signs{suffix}"] = float((drawn <= 0).double().mean())
                if not suffix:
                    found[name] = _distance(drawn)
            if codec:
                found |= self._ambient(model, budget, seed)
        return found

    def _ambient(self, model: Denoiser, budget: str, seed: int) -> dict[str, float]:
        """The ambient step, and ancestral steps in the logarithm, on one grid and from one start."""
        grid = TimeGrid.log_snr(LONG[budget], model.process)
        generator = torch.Generator().manual_seed(seed)
        start = model.process.at(1.0).sigma * torch.randn(SAMPLES[budget], 64, generator=generator)
        ancestral = Sampler(solvers.Ancestral(), grid=grid)(model, start, seed=seed)
        with torch.no_grad():
            path = simulate(denoisers.ambient(model), start.exp(), [1 - row.t for row in grid], seed=seed)
        ambient = path[-1].nan_to_num(0.0).clamp(-10, 10)  # a run that diverged stands as black or white
        return {
            "ancestral": _distance(ancestral),
            "ambient": _distance(ambient),
            "ambient signs": float((path[-1] <= 0).double().mean()),
        }

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        signs = effects["signs changed: logarithm"].value, effects["signs changed: logarithm, 2 steps"].value
        ratio = effects["distance: logarithm over pixels"]
        seen = f"the ratio of distances is {ratio}, the share of changed signs {max(signs):g}"
        if max(signs) > 0:
            return Verdict("not reproduced", seen)
        if ratio.above(1 - WITHIN) and ratio.below(1 + WITHIN):
            return Verdict("reproduced", seen)
        if ratio.above(1 + WITHIN):
            return Verdict(
                "not reproduced", f"the distances differ; no sign changes, by construction: {seen}"
            )
        return Verdict(
            "partly", f"the distances are shown neither equal nor different; no sign changes: {seen}"
        )


def _distance(x: Tensor) -> float:
    """To the test scans, in features of the digits classifier."""
    classifier = metrics.load_classifier("digits")
    sets = [(v * UNIT * 2 - 3).float().reshape(-1, 1, 8, 8) for v in (x, scans("held_out"))]
    features = [metrics.classifier_features(classifier, v) for v in sets]
    return float(metrics.frechet_distance(*features, resamples=2).value)


claim = Multiplicative()

"""Frame Interpolation with Consecutive Brownian Bridge Diffusion (Lyu et al. 2024, 2405.05953).

Measured here: the middle frame of procedurally moved real photographs (16x16 patches, train and test from different
parts of the photographs), with one U-Net and equal training and sampling compute for every method. The surrogates are
the data (no video benchmark), the size, the budget (minutes of a core), and pixels in place of latents: the paper's
decoder, which is given the warped neighbours, has no part in what is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, metrics
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Denoiser
from ornstein.objectives import BridgeDenoising
from ornstein.systems import frame_interpolation as system
from ornstein.training import fit

# triplets to train on, held out, steps, width of the U-Net
SIZES = {"smoke": (64, 8, 2, 8), "quick": (8192, 128, 200, 16), "full": (32_768, 512, 8000, 32)}
ROWS = 64  # of the network a step of training
CALLS = 8  # rows of the network for one frame; each call of a consecutive bridge takes two
RUNS = 8
CALMER = 3.0
ARMS = {
    "consecutive": "consecutive",
    "apart": "consecutive, noises apart",
    "bridge": "bridge",
    "ddpm": "ddpm",
    "regression": "bridge",
}


class Frames:
    """Triplets of one seed, and what is measured of guesses (runs, N, 1, H, W) of the middle one."""

    def __init__(self, budget: str, seed: int) -> None:
        count, held_out, _, _ = SIZES[budget]
        self.data = data.load("frames", count=count, held_out=held_out, seed=seed)
        split = self.data.held_out
        self.previous, self.next, self.middle = split.fields["previous"], split.fields["next"], split.x_0

    def scores(self, guesses: Tensor) -> dict[str, float]:
        """PSNR of one guess (dB), spread over runs at equal inputs, and distance of spectra."""
        spread = guesses.std(0).square().mean().sqrt() if len(guesses) > 1 else torch.zeros(())
        ratio = (_spectrum(guesses[0]) / _spectrum(self.middle)).log()
        return {
            "psnr": float(metrics.psnr(guesses[0].clamp(-1, 1), self.middle).mean()),
            "std": float(spread),
            "spectrum": float(ratio.abs().mean()),
        }

    def trained(self, name: str, budget: str, seed: int) -> Denoiser:
        """The network of one arm, after equal numbers of rows."""
        _, _, steps, width = SIZES[budget]
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(seed)
            model = system.model_for(self.data.shape, ARMS[name], width)
            sides = 2 if isinstance(model.shape, dict) else 1
            objective = BridgeDenoising(start=0.99) if name == "regression" else system.objective_for(model)
            run = fit(
                model, system.prepared(self.data, model), objective, steps=steps, out=folder, batch=ROWS // sides,
                seed=seed, learning_rate=2e-3, ema=0.99, evaluate_every=0, sample_every=0, checkpoint_every=steps,
                progress=False,
            )  # fmt: skip
        return run.denoiser

    def guesses(self, name: str, model: Denoiser) -> Tensor:
        """RUNS draws by ancestral steps; one call at the start for the regression."""
        steps = 1 if name == "regression" else CALLS // (2 if isinstance(model.shape, dict) else 1)
        runs = 1 if name == "regression" else RUNS
        return system.interpolate(model, self.previous, self.next, runs, steps=steps)

    def flowed(self, model: Denoiser) -> Tensor:
        """RUNS draws of the conditional model by the recommended solver of its probability flow."""
        given: dict[str, Any] = {"previous": self.previous, "next": self.next}
        given = {k: v.repeat(RUNS, 1, 1, 1) for k, v in given.items()}
        found: Tensor = orn.sample(model, RUNS * len(self.middle), steps=CALLS, **given)
        return found.reshape(RUNS, *self.middle.shape)


def _spectrum(images: Tensor) -> Tensor:
    """Mean power at each frequency but 0, of images less their mean."""
    centred = images - images.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(centred).abs().square().mean((0, 1))
    return power.flatten()[1:].clamp(min=1e-9)


class ConsecutiveBridges(Claim):
    slug = "brownian-bridge-vfi"
    statement = (
        f"With one U-Net and equal compute, frames of a consecutive Brownian bridge are at least {CALMER:g} times less "
        "variable between runs at equal inputs than those of conditional diffusion, and have a higher PSNR"
    )
    baseline = (
        "diffusion from noise conditioned on both frames, with the same U-Net, rows of training and rows of sampling, "
        "drawn by ancestral steps or by the recommended solver of its flow, whichever has the higher PSNR and, apart, "
        "whichever has the smaller spread; beside them direct regression, a bridge from the previous frame alone and "
        "the mean of both frames, none of which needs two sides"
    )
    effects = (
        Effect("spread, diffusion / consecutive", of="ddpm std", against="consecutive std", ratio=True),
        Effect("PSNR, consecutive - diffusion", of="consecutive psnr", against="ddpm psnr"),
        Effect("PSNR, consecutive - regression", of="consecutive psnr", against="regression psnr"),
        Effect("PSNR, consecutive - bridge from one side", of="consecutive psnr", against="bridge psnr"),
        Effect("PSNR, consecutive - mean of both frames", of="consecutive psnr", against="blend psnr"),
        Effect("PSNR, consecutive", of="consecutive psnr"),
        Effect("PSNR, noises apart in training - shared", of="apart psnr", against="consecutive psnr"),
        Effect("spread, noises apart / shared", of="apart std", against="consecutive std", ratio=True),
        Effect("spread, bridge from one side / consecutive", of="bridge std", against="consecutive std", ratio=True),
        Effect("distance of spectra, consecutive", of="consecutive spectrum"),
        Effect("distance of spectra, diffusion", of="ddpm spectrum"),
        Effect("distance of spectra, regression", of="regression spectrum"),
        Effect("distance of spectra, mean of both frames", of="blend spectrum"),
        Effect("distance of spectra, the other half of the truth", of="floor spectrum"),
    )  # fmt: skip

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        frames, found = Frames(budget, seed), {}
        for i, name in enumerate(ARMS):
            progress(i / len(ARMS), name)
            model = frames.trained(name, budget, seed)
            scores = frames.scores(frames.guesses(name, model))
            if name == "ddpm":
                other = frames.scores(frames.flowed(model))
                better = max(scores, other, key=lambda s: s["psnr"])
                scores = {**better, "std": min(scores["std"], other["std"])}
            found |= {f"{name} {k}": v for k, v in scores.items()}
        blend = frames.scores((0.5 * (frames.previous + frames.next))[None])
        half = len(frames.middle) // 2
        floor = (_spectrum(frames.middle[:half]) / _spectrum(frames.middle[half:])).log().abs().mean()
        return {**found, **{f"blend {k}": v for k, v in blend.items()}, "floor spectrum": float(floor)}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        calmer, better = effects["spread, diffusion / consecutive"], effects["PSNR, consecutive - diffusion"]
        beside = (
            f"spread of diffusion over that of the bridge: {calmer}; PSNR above diffusion's by {better} dB, above "
            f"regression's by {effects['PSNR, consecutive - regression']} dB, above the mean of both frames by "
            f"{effects['PSNR, consecutive - mean of both frames']} dB"
        )
        if calmer.above(CALMER) and better.above(0.0):
            return Verdict("reproduced", beside)
        if calmer.above(1.0) or better.above(0.0):
            return Verdict("partly", beside)
        return Verdict("not reproduced", beside)


claim = ConsecutiveBridges()

"""Super-resolution: a small image made large by a model that sees it.

`ornstein train super-resolution` trains the flow that ships as "super-resolution" (16x16 from 4x4, Fashion-MNIST).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Denoiser, Module, Noise, Process, Solver, suggest
from ornstein.data import Dataset, LowResolution, degraded, enlarged, load
from ornstein.denoisers import NetworkDenoiser
from ornstein.metrics import feature_distance, psnr, ssim
from ornstein.networks import Concatenated, UNet
from ornstein.objectives import Denoising
from ornstein.processes import MeanReverting, RectifiedFlow, VariancePreserving
from ornstein.solvers import sample
from ornstein.training import Run, fit

__all__ = ["PROCESSES", "model_for", "quality", "restore", "train"]

SCALE = 0.84  # root-mean-square of Fashion-MNIST's pixels in [-1, 1]
PROCESSES: dict[str, Callable[[], Process]] = {
    "flow": RectifiedFlow,
    "ddpm": lambda: VariancePreserving("cosine"),
    # between the image and its blurred version, with the noise of 2301.11699 (50 / 255 for pixels in [0, 1])
    "mean-reverting": lambda: MeanReverting(sigma_inf=100 / 255),
}


def model_for(data: Dataset, process: str = "flow", width: int = 24) -> NetworkDenoiser:
    """An untrained U-Net that sees the state and the small image, as a denoiser of one of `PROCESSES`.

    A mean-reverting process ends at the enlarged image itself, which is then the condition too (field `anchor`); the
    others see the measurement and start from noise.

    Raises:
        ValueError: an unknown process.
    """
    if process not in PROCESSES:
        raise ValueError(suggest(process, PROCESSES, "process"))
    law, channels = PROCESSES[process](), data.shape[0]
    unet = UNet(2 * channels + 1, out_channels=channels, width=width, multipliers=(1, 2, 2))
    network: Module = Concatenated(unet, channels, field="anchor" if law.anchored else "measurement")
    prediction = "velocity" if process == "flow" else "edm"
    return NetworkDenoiser(network, law, prediction, data.shape, SCALE)


def train(
    source: str | Dataset = "fashion-mnist",
    process: str = "flow",
    *,
    factor: int = 4,
    width: int = 24,
    steps: int = 4000,
    out: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Train a model of one of `PROCESSES`; other options are those of `fit`."""
    data = degraded(load(source) if isinstance(source, str) else source, LowResolution(factor))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_for(data, process, width)
    options = {"batch": 64, "sample_every": 0, **options}
    return fit(model, data, Denoising(drop=0.1), steps=steps, out=out, seed=seed, **options)


def restore(
    model: Denoiser,
    small: Tensor,
    *,
    steps: int = 10,
    solver: Solver | None = None,
    seed: int | Noise = 0,
) -> Tensor:
    """Large images of small ones (B, C, h, w), by the recommended solver; `seed` may be a shared start.

    Source of a start that serves all images: `alignment.search_boundary`.
    """
    if not {"measurement", "anchor"} & (model.fields | model.process.fields):
        raise ValueError("model: reads no small image; train one with super_resolution.train")
    if not isinstance(small, Tensor) or small.ndim != 4 or not small.is_floating_point():
        raise ValueError("small: expected images (B, C, h, w) of floating numbers in [-1, 1]")
    given = {"measurement": small, "anchor": enlarged(small, tuple(model.shape[1:]))}
    read: dict[str, Any] = {k: v for k, v in given.items() if k in model.fields | model.process.fields}
    images: Tensor = sample(model, len(small), steps=steps, solver=solver, seed=seed, **read)
    return images


def quality(images: Tensor, truth: Tensor, classifier: Any) -> dict[str, Tensor]:
    """PSNR (dB), SSIM and feature distance of every image, (B,) each."""
    images = images.clamp(-1, 1)
    return {
        "psnr": psnr(images, truth),
        "ssim": ssim(images, truth),
        "feature distance": feature_distance(classifier, images, truth),
    }

"""Frame interpolation: the picture between two others, by consecutive Brownian bridges.

Lyu et al., "Frame Interpolation with Consecutive Brownian Bridge Diffusion", 2024 (arXiv 2405.05953), in pixels: the
paper's latents are 32 times smaller a side, and its decoder sees both neighbours, warped by optical flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Denoiser, Noise, Objective, Sampler, suggest
from ornstein.data import Dataset, TensorSplit, load
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import Concatenated, Paired, UNet
from ornstein.objectives import BridgeDenoising, Denoising
from ornstein.processes import BrownianBridge, ConsecutiveBridge, VariancePreserving
from ornstein.solvers import Ancestral
from ornstein.training import Run, fit

__all__ = ["SIDES", "interpolate", "model_for", "objective_for", "prepared", "train"]

SIDES = ("previous", "next")
SCALE = 0.58  # root-mean-square of the pixels of data "frames" in [-1, 1]
POWER = SCALE**2  # of the bridges' noise: the paper's, whose latents have unit power, is 1
PROCESSES: dict[str, Callable[[], Any]] = {
    "consecutive": lambda: ConsecutiveBridge(POWER),
    "consecutive, noises apart": lambda: ConsecutiveBridge(POWER, shared=False),
    "bridge": lambda: BrownianBridge(POWER, "previous"),
    "ddpm": lambda: VariancePreserving("cosine"),
}


def model_for(
    shape: tuple[int, int, int] = (1, 16, 16), process: str = "consecutive", width: int = 24
) -> NetworkDenoiser:
    """An untrained U-Net as a denoiser of middle frames that sees both neighbours.

    "consecutive" has a side for each neighbour, in one network (`networks.Paired`); "consecutive, noises apart"
    does not let them share their noise in training, as they do not in sampling; "bridge" starts at the previous
    frame alone; "ddpm" starts from noise.

    Raises:
        ValueError: an unknown process.
    """
    if process not in PROCESSES:
        raise ValueError(suggest(process, PROCESSES, "process"))
    law, channels = PROCESSES[process](), shape[0]
    options: dict[str, Any] = {"out_channels": channels, "width": width, "multipliers": (1, 2, 2)}
    if process.startswith("consecutive"):
        paired = Paired(UNet(4 * channels, **options), SIDES)
        return NetworkDenoiser(paired, law, "mean", dict.fromkeys(SIDES, shape), SCALE)
    inner = Concatenated(UNet(3 * channels + 2, **options), 2 * channels + 1, "next")
    seeing = Concatenated(inner, channels, "previous")
    return NetworkDenoiser(seeing, law, "mean" if process == "bridge" else "edm", shape, SCALE)


def prepared(data: Dataset, model: Denoiser) -> Dataset:
    """The data as the model's state has them: a copy of the middle frame for each side of a consecutive bridge."""
    if not isinstance(model.shape, dict):
        return data
    splits: dict[str, Any] = {}
    for name in ("train", "held_out"):
        split = getattr(data, name)
        splits[name] = TensorSplit(dict.fromkeys(SIDES, split.x_0), split.fields)
    decode = data.decode
    return replace(data, **splits, shape=model.shape, decode=lambda x: {k: decode(v) for k, v in x.items()})


def objective_for(model: Denoiser) -> Objective:
    """Least squares in the frame, at time 1 too where runs begin at a point; both neighbours are always given."""
    return Denoising(drop=0.0) if isinstance(model.process, VariancePreserving) else BridgeDenoising()


def train(
    source: str | Dataset = "frames",
    process: str = "consecutive",
    *,
    width: int = 24,
    steps: int = 4000,
    out: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Train a model of one of `model_for`'s processes; other options are those of `fit`."""
    data = load(source) if isinstance(source, str) else source
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_for(data.shape, process, width)
    options = {"batch": 64, "sample_every": 0, **options}
    return fit(model, prepared(data, model), objective_for(model), steps=steps, out=out, seed=seed, **options)


def interpolate(
    model: Denoiser, previous: Tensor, following: Tensor, n: int = 1, *, steps: int = 8, seed: int | Noise = 0
) -> Tensor:
    """n frames between each pair (B, C, H, W), as (n, B, C, H, W), by ancestral steps uniform in time.

    Args:
        model: as `train` makes it.
        previous: frames before.
        following: frames after.
        n: how many draws of each.
        steps: network calls; of a consecutive bridge each is of two rows.
        seed: of the draws.

    Raises:
        ValueError: frames of two shapes.
    """
    if previous.ndim != 4 or previous.shape != following.shape:
        raise ValueError(
            "previous, following: expected two tensors of one shape (B, C, H, W), got "
            f"{tuple(previous.shape)} and {tuple(following.shape)}"
        )
    given = {k: v.repeat(n, 1, 1, 1) for k, v in zip(SIDES, (previous, following), strict=True)}
    found = Sampler(Ancestral(), steps, "uniform")(model, n * len(previous), seed=seed, **given)
    frame: Tensor = found["next"] if isinstance(found, dict) else found  # the side that the paper shows
    return frame.reshape(n, *previous.shape)

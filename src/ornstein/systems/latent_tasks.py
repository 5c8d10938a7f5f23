"""Latent diffusion given an image: holes are filled, small images made large, boxes made scenes.

One family (Rombach et al. 2021, 2112.10752, sections 4.3 to 4.5): codec, process and U-Net of the model without a
condition; what is given is brought to the latent's size and joined to it along the channels. A mean over pixels keeps
of a mask or a map how much of each place it covers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core import Denoiser, Keyed, Noise, suggest
from ornstein.data import Dataset, LowResolution, Split, TensorSplit
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import Concatenated, UNet
from ornstein.objectives import Denoising
from ornstein.processes import RectifiedFlow
from ornstein.solvers import sample
from ornstein.spaces import Codec, Encoded
from ornstein.training import Run, fit
from ornstein.training.codec import by_parts

__all__ = ["TASKS", "enlarge", "holes", "inpaint", "masked", "model_for", "paint", "pairs", "train"]

SIDES = (0.3, 0.6)  # least and largest side of a hole, in the image's


def holes(images: Tensor, noise: Noise) -> Tensor:
    """(B, 1, H, W), true in a rectangle with sides of 0.3 to 0.6 of the image's, anywhere in it."""
    u = noise.fold("holes").uniform(images.new_empty(len(images), 4))
    inside = []
    for axis, (start, side) in enumerate(((u[:, 0], u[:, 1]), (u[:, 2], u[:, 3]))):
        length = SIDES[0] + (SIDES[1] - SIDES[0]) * side
        pixels = images.shape[2 + axis]
        at = (torch.arange(pixels).to(images) + 0.5) / pixels - (start * (1 - length))[:, None]
        inside.append((at >= 0) & (at < length[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None]).unsqueeze(1)


def masked(codec: Codec, images: Tensor, hole: Tensor) -> Tensor:
    """What is known of images with holes, (B, c + 1, h, w): the latent of the image with grey (0) in its hole, and the
    share of each place that is hole. It does not depend on what the hole hides.
    """
    z = codec.encode(images.masked_fill(hole, 0.0))
    return torch.cat([z, _share(hole.to(z), z)], 1)


def _share(maps: Tensor, z: Tensor) -> Tensor:
    """Maps (B, k, H, W) as means over what each place of the latents covers, (B, k, h, w)."""
    return F.adaptive_avg_pool2d(maps, (z.shape[2], z.shape[3]))


def _holes_filled(codec: Codec, x: Tensor, z: Tensor, fields: Any, noise: Noise) -> Tensor:
    return masked(codec, x, holes(x, noise))


def _small(codec: Codec, x: Tensor, z: Tensor, fields: Any, noise: Noise) -> Tensor:
    return LowResolution(x.shape[-1] // z.shape[-1])(x)


def _boxes(codec: Codec, x: Tensor, z: Tensor, fields: Any, noise: Noise) -> Tensor:
    if "image" not in fields:
        raise ValueError("data: have no map in the field 'image'; load scenes with control='layout'")
    return _share(fields["image"], z)


TASKS: dict[str, Callable[[Codec, Tensor, Tensor, Any, Noise], Tensor]] = {
    "inpainting": _holes_filled, "super-resolution": _small, "layout": _boxes,
}  # fmt: skip
"""From a codec, images, their latents, their fields and a source of noise to the condition (B, k, h, w)."""


def pairs(data: Dataset, codec: Codec, task: str, seed: int = 0) -> Dataset:
    """The data in the codec's space, with what the task gives as the field "image", at the latents' size.

    A sample's hole is a function of the seed and of its index.

    Args:
        data: images (C, H, W); for "layout" with a map as the field "image".
        codec: trained.
        task: one of `TASKS`.
        seed: of the holes.

    Raises:
        ValueError: an unknown task, or data without a map.
    """
    if task not in TASKS:
        raise ValueError(suggest(task, TASKS, "task"))
    splits: dict[str, Any] = {
        name: _pairs(getattr(data, name), codec, task, Keyed(seed, len(getattr(data, name))).fold(name))
        for name in ("train", "held_out")
    }
    shape = tuple(splits["train"].batch(torch.arange(1))["x_0"].shape[1:])
    return replace(data, **splits, shape=shape)


def _pairs(split: Split, codec: Codec, task: str, noise: Noise) -> TensorSplit:
    def pair(record: dict[str, Any], rows: Tensor) -> tuple[Tensor, Tensor]:
        z = codec.encode(record["x_0"])
        return z, TASKS[task](codec, record["x_0"], z, record["fields"], noise[rows])

    codes, given = by_parts(split, codec, pair)
    return TensorSplit(codes, {"image": given})


def model_for(data: Dataset, codec: Codec, width: int = 48) -> NetworkDenoiser:
    """An untrained U-Net of latents, which sees the field "image" of the data if they have one, as a flow."""
    channels, fields = data.shape[0], data.train.fields
    given = fields["image"].shape[1] if "image" in fields else None
    seen = channels if given is None else channels + given + 1
    network: Any = UNet(
        seen, width=width, multipliers=(1, 2), blocks=2, attention=(1,), out_channels=channels
    )
    network = network if given is None else Concatenated(network, channels, field="image")
    return NetworkDenoiser(network, Encoded(RectifiedFlow(), codec), "velocity", data.shape, scale=1.0)


def train(
    task: str, data: Dataset, codec: Codec, *, steps: int, out: str | Path | None = None, width: int = 48,
    seed: int = 0, **options: Any,
) -> Run:  # fmt: skip
    """Train a model of one of `TASKS` in the codec's space; other options are those of `fit`."""
    given = pairs(data, codec, task, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_for(given, codec, width)
    options = {"sample_every": 0, "learning_rate": 2e-3, "batch": 64, **options}
    return fit(
        model, given, Denoising(weighting="target", drop=0.1), steps=steps, out=out, seed=seed, **options
    )


# ------------------------------------------------------------------------------------ what a trained model does


def inpaint(model: Denoiser, images: Tensor, hole: Tensor, steps: int = 10, seed: int | Noise = 0) -> Tensor:
    """Images (B, C, H, W) with their holes filled; all other pixels are those that were given.

    Args:
        model: trained for "inpainting".
        images: in [-1, 1].
        hole: booleans (B, 1, H, W), or one hole for all, (1, 1, H, W); true where to fill.
        steps: network calls.
        seed: of the noise.

    Raises:
        ValueError: a hole of another kind or shape.
    """
    codec: Any = model.process.codec
    sizes = [(n, 1, *images.shape[2:]) for n in (len(images), 1)]
    if hole.dtype != torch.bool or tuple(hole.shape) not in sizes:
        raise ValueError(
            f"hole: expected booleans of shape {sizes[0]} or {sizes[1]}, got {hole.dtype} of {tuple(hole.shape)}"
        )
    hole = hole.expand(sizes[0])
    with torch.no_grad():
        given = masked(codec, images, hole)
    return torch.where(hole, _drawn(model, given, steps, seed), images)


def enlarge(model: Denoiser, small: Tensor, steps: int = 10, seed: int | Noise = 0) -> Tensor:
    """Large images of small ones (B, C, h, w), which have the latents' size."""
    return _drawn(model, small, steps, seed)


def paint(model: Denoiser, layout: Tensor, steps: int = 10, seed: int | Noise = 0) -> Tensor:
    """Images of maps (B, k, H, W) such as `data.scenes.layout(scenes)`."""
    return _drawn(model, _share(layout, model.like(1)), steps, seed)


def _drawn(model: Denoiser, given: Tensor, steps: int, seed: int | Noise) -> Tensor:
    drawn: Tensor = sample(model, len(given), steps=steps, seed=seed, image=given)
    return drawn

"""What latent models make of pictures with holes, of small pictures and of boxes, beside what is had without one.

    OMP_NUM_THREADS=1 python -m benchmarks.latent_tasks [--steps N] [--count N] [--seeds N] [--tables FILE]

The codec that ships, 32x32 scenes, a U-Net of 1.3 million parameters for each task and seed. Held-out scenes and
their parser judge; a figure is the mean over seeds, with the least and the largest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ornstein as orn
from ornstein import data, metrics
from ornstein.core import Keyed
from ornstein.data import scenes as world
from ornstein.systems import latent_tasks

from .codecs import SEED

Judged = dict[str, Tensor]  # for each scene


def inpainting(model: Any, drawn: world.Scenes, real: Tensor, seed: int) -> Judged:
    """Error inside the hole, and whether the scene's objects are there again."""
    hole = latent_tasks.holes(real, Keyed(seed, len(real)))
    fills = {
        "": latent_tasks.inpaint(model, real, hole, seed=seed),
        ", filled with the commonest colour": torch.where(hole, commonest(real, hole), real),
        ", filled with the truth through the codec": torch.where(hole, through(model, real), real),
    }

    def error(images: Tensor) -> Tensor:
        return ((images - real) ** 2 * hole).mean((1, 2, 3)) / hole.double().mean((1, 2, 3))

    return {
        **{f"squared error in the hole{how}": error(images) for how, images in fills.items()},
        **{f"binding{how}": binding(drawn, images) for how, images in fills.items()},
        **{f"readable{how}": readable(images) for how, images in fills.items()},
    }


def commonest(images: Tensor, hole: Tensor) -> Tensor:
    """The colour (N, 3, 1, 1) of most known pixels of each image, such as its background's."""
    levels = ((images + 1) * 127.5).round().long().flatten(2)
    colours = (levels * torch.tensor([65536, 256, 1])[:, None]).sum(1)
    unknown = -1 - torch.arange(colours.shape[1])  # each hidden pixel is alone of its colour
    where = torch.where(hole.flatten(1), unknown, colours).mode(1).indices
    return images.flatten(2).gather(2, where[:, None, None].expand(-1, 3, 1))[..., None]


@torch.no_grad()
def through(model: Any, images: Tensor) -> Tensor:
    """The most that a model of the codec's latents can show."""
    codec = model.process.codec
    shown: Tensor = codec.decode(codec.encode(images))
    return shown


def super_resolution(model: Any, drawn: world.Scenes, real: Tensor, seed: int) -> Judged:
    """Signal to noise and what can be read, from 8x8 pixels."""
    small = F.avg_pool2d(real, 4)
    large = latent_tasks.enlarge(model, small, seed=seed)
    bicubic = F.interpolate(small, scale_factor=4, mode="bicubic")
    shown = {"": large, ", bicubic": bicubic, ", the truth through the codec": through(model, real)}
    return {
        **{f"PSNR (dB){how}": metrics.psnr(images.clamp(-1, 1), real) for how, images in shown.items()},
        **{f"binding{how}": binding(drawn, images) for how, images in shown.items()},
    }


def layout(model: Any, drawn: world.Scenes, real: Tensor, seed: int) -> Judged:
    """What is read where boxes asked for it, beside pictures of other boxes."""
    painted = latent_tasks.paint(model, world.layout(drawn), seed=seed).clamp(-1, 1)
    found = world.parse(painted)
    return {
        "binding": binding(drawn, painted),
        "binding, under other boxes": metrics.permuted_score(drawn, found).binding,
        "IoU of the boxes": metrics.layout_iou(drawn, found),
        "IoU, under other boxes": metrics.permuted_layout(metrics.layout_iou, drawn, found),
    }


TASKS: dict[str, Callable[[Any, world.Scenes, Tensor, int], Judged]] = {
    "inpainting": inpainting, "super-resolution": super_resolution, "layout": layout,
}  # fmt: skip


def readable(images: Tensor) -> Tensor:
    return world.parse(images.clamp(-1, 1)).readable.double()


def binding(drawn: world.Scenes, images: Tensor) -> Tensor:
    return metrics.scene_score(drawn, images.clamp(-1, 1)).binding


def judged(task: str, asked: argparse.Namespace, seed: int) -> Judged:
    """One trained model, on scenes that it has not seen."""
    codec: Any = orn.load("scenes-codec")
    learned = data.load("scenes", count=asked.scenes, control="layout")
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = latent_tasks.train(
            task, learned, codec.codec, steps=asked.steps, out=folder, seed=seed, batch=32, precision="bf16",
            ema=0.995, evaluate_every=0, checkpoint_every=asked.steps, progress=False,
        )  # fmt: skip
    print(f"{task}, seed {seed}: {time.process_time() - began:.0f} s of the processor", flush=True)
    drawn = world.draw_scenes(asked.count, SEED + seed, world.World(combinations="seen"))
    return TASKS[task](run.denoiser, drawn, world.render(drawn), seed)


def pooled(values: list[Tensor]) -> str:
    """The mean over scenes and seeds, with the least and the largest seed's."""
    means = [float(v.double().nanmean()) for v in values]
    return f"{sum(means) / len(means):.3g} ({min(means):.3g} to {max(means):.3g})"


def main() -> None:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--tables", type=Path)
    asked = parser.parse_args()
    lines = ["| task | measure | value |", "|---|---|---|"]
    for task in asked.only:
        found = [judged(task, asked, seed) for seed in range(asked.seeds)]
        lines += [f"| {task} | {name} | {pooled([v[name] for v in found])} |" for name in found[0]]
    print("\n".join(lines))
    if asked.tables is not None:
        asked.tables.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

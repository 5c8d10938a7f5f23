"""A small convolutional network that proposes the objects of a scene, and its recipe.

The shipped one was made, in about half an hour on one core, by

    OMP_NUM_THREADS=1 python -c "from ornstein.data.scenes import detector; \
        detector.save_detector(*detector.train_detector(), '.')"

from scenes whose places were drawn by an earlier rule, so that the same command now makes a slightly different one.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Keyed

from .render import coverage, render
from .world import MOST, Scenes, World, draw_scenes

__all__ = ["Detector", "Proposals", "corrupted", "load_detector", "save_detector", "train_detector"]

SIDE = 32  # pixels that the network reads: other sizes are resized
STRIDE = 4  # pixels of a cell; centres of objects that do not overlap never share one
HEADS = {"shape": 6, "colour": 8, "size": 2, "texture": 3, "style": 3}
CERTAIN = 0.15  # least probability of a proposal
NEAR = 0.08  # proposals nearer than this, in sides, are one object
SEEN = 0.3  # share of an object that must be visible for it to be asked for
RADIUS = 0.16  # the unit of radii in the network's output
_SHIPPED = Path(__file__).parent


class Proposals(NamedTuple):
    """What the network sees in N images, up to K objects each, the most certain first.

    Attributes:
        certainty: (N, K) probability that there is an object; 0 in empty slots.
        x, y, radius: (N, K) in sides of the image.
        logits: by name of attribute, (N, K, its number of values).
    """

    certainty: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    logits: dict[str, Tensor]


class Detector(nn.Module):
    """Images (N, 3, 32, 32) to a grid (N, 4 + 22, 8, 8): is a centre in this cell, where in it, how large, and what.

    3x3 convolutions with batch norm and ReLU, two of them halving the resolution, the last four residual.

    Args:
        widths: channels at 32, 16 and 8 pixels.
    """

    def __init__(self, widths: tuple[int, int, int] = (20, 40, 64)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(_layer(3, a), _layer(a, b, 2), _layer(b, b), _layer(b, c, 2))
        self.body = nn.ModuleList(_layer(c, c) for _ in range(4))
        self.head = nn.Conv2d(c, 4 + sum(HEADS.values()), 1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.stem(images)
        for layer in self.body:
            h = h + layer(h)
        return self.head(h)

    @torch.no_grad()
    def propose(self, images: Tensor, most: int = MOST + 2) -> Proposals:
        """The objects of images (N, 3, S, S) in [-1, 1]; up to `most`, so that too many are noticed."""
        grid = self(_resized(images)).flatten(2)
        n, cells = len(grid), SIDE // STRIDE
        certainty, at = grid[:, 0].sigmoid().topk(3 * most)
        found = grid.gather(2, at[:, None].expand(-1, grid.shape[1], -1))
        x = (at % cells + found[:, 1].sigmoid()) / cells
        y = (at // cells + found[:, 2].sigmoid()) / cells
        certainty = _once(certainty, x, y)
        certainty, order = certainty.topk(most)
        parts = found[:, 3:].gather(2, order[:, None].expand(-1, found.shape[1] - 3, -1)).movedim(1, 2)
        radius, *logits = parts.split([1, *HEADS.values()], -1)
        named = dict(zip(HEADS, logits, strict=True))
        rows = torch.arange(n)[:, None]
        return Proposals(certainty, x[rows, order], y[rows, order], RADIUS * radius[..., 0].exp(), named)


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _resized(images: Tensor) -> Tensor:
    if images.shape[-1] == SIDE:
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _once(certainty: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Certainties, the largest first, where proposals near one another are one object's: the most certain one
    stands for them with their sum, the others have 0. A centre at the border of cells is seen by each of them a little.
    """
    near = (x[:, :, None] - x[:, None]) ** 2 + (y[:, :, None] - y[:, None]) ** 2 < NEAR**2
    free, out = torch.ones_like(certainty, dtype=torch.bool), torch.zeros_like(certainty)
    for k in range(certainty.shape[1]):
        mine = near[:, k] & free & free[:, k : k + 1]
        out[:, k] = (certainty * mine).sum(1)
        free &= ~mine
    return out.clamp(max=1) * (out > CERTAIN)


def corrupted(images: Tensor, noise: Keyed) -> Tensor:
    """Images (N, 3, S, S) made worse, each in its own way and strength; three in ten stay as they are.

    A blur of up to 0.9 pixels, a loss of resolution, shifts of the colours, Gaussian noise of up to 0.3.
    """
    u = noise.fold("kinds").uniform(torch.empty(len(images), 8))[..., None, None, None]
    touched = u[:, 0] > 0.3
    out = torch.where(touched & (u[:, 1] < 0.4), _blurred(images, 0.9 * u[:, 2, 0, 0, 0]), images)
    coarse = F.interpolate(F.avg_pool2d(out, 2), scale_factor=2, mode="bilinear", align_corners=False)
    out = torch.where(touched & (u[:, 3] < 0.4), torch.lerp(out, coarse, u[:, 4]), out)
    shift = noise.fold("shift").normal(torch.empty(len(images), 3))[..., None, None]
    out = torch.where(touched & (u[:, 5] < 0.3), out + 0.08 * shift, out)
    grain = noise.fold("grain").normal(torch.empty_like(out))
    return torch.where(touched & (u[:, 6] < 0.5), out + 0.3 * u[:, 7] * grain, out)


def _blurred(images: Tensor, width: Tensor) -> Tensor:
    """Gaussian blur of a width (N,) in pixels of each image."""
    steps = torch.arange(-2, 3, dtype=images.dtype)
    line = torch.exp(-(steps**2) / (2 * width.clamp(min=0.05)[:, None] ** 2))
    line = (line / line.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
    flat = F.pad(images, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, line[:, None, :, None], groups=flat.shape[1])
    return F.conv2d(flat, line[:, None, None, :], groups=flat.shape[1]).reshape(images.shape)


def train_detector(
    steps: int = 4500, batch: int = 64, learning_rate: float = 4e-3, seed: int = 0
) -> tuple[Detector, dict[str, Any]]:
    """A detector trained on random scenes, half of which may overlap, at 16, 32 and 64 pixels; and its card.

    AdamW with a one-cycle learning rate, in single precision.

    Args:
        steps: of the optimiser.
        batch: images a step.
        learning_rate: at its peak.
        seed: of weights, scenes and corruptions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector()
    optimizer = torch.optim.AdamW(detector.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    for step in range(steps):
        images, scenes, seen = _lesson(seed, step, batch)
        loss = _loss(detector(images), scenes, seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    recipe = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    return detector.eval(), recipe


def _lesson(seed: int, step: int, batch: int) -> tuple[Tensor, Scenes, Tensor]:
    """Images as the network reads them, their scenes, and which objects are visible."""
    pixels = (SIDE, SIDE, 2 * SIDE, SIDE // 2)[step % 4]
    world = World(overlap=step // 4 % 2 == 1)
    ids = torch.arange(step * batch, (step + 1) * batch)
    scenes = draw_scenes(ids, seed, world)
    noise = Keyed(seed, ids).fold("corruption")
    images = corrupted(render(scenes, pixels), noise)
    return _resized(images), scenes, _visible(scenes) > SEEN


def _visible(scenes: Scenes) -> Tensor:
    """(N, K) the share of each object that nothing hides; 0 for none."""
    cover = coverage(scenes, SIDE)
    clear = (1 - cover).flip(1).cumprod(1).flip(1)  # of this slot and all in front
    clear = torch.cat([clear[:, 1:], torch.ones_like(clear[:, :1])], 1)
    return (cover * clear).sum((2, 3)) / cover.sum((2, 3)).clamp(min=1e-6)


def _loss(grid: Tensor, scenes: Scenes, seen: Tensor) -> Tensor:
    """Cross entropies of presence and attributes, squared errors of places in cells and of log radii."""
    cells = SIDE // STRIDE
    u, v = scenes.x * cells, scenes.y * cells
    column, row = u.long().clamp(0, cells - 1), v.long().clamp(0, cells - 1)
    n, k = seen.nonzero().T
    target = torch.zeros_like(grid[:, 0])
    ignored = torch.zeros_like(target, dtype=torch.bool)
    hidden = (scenes.present & ~seen).nonzero().T
    ignored[hidden[0], row[tuple(hidden)], column[tuple(hidden)]] = True
    target[n, row[n, k], column[n, k]] = 1
    loss = F.binary_cross_entropy_with_logits(grid[:, 0], target, reduction="none")
    total = loss[~ignored | (target > 0)].sum() / len(n)
    found = grid[n, :, row[n, k], column[n, k]]
    place = torch.stack([(u - column)[n, k], (v - row)[n, k]], 1)
    total = total + 4 * F.mse_loss(found[:, 1:3].sigmoid(), place)
    total = total + 4 * F.mse_loss(found[:, 3], (scenes.radius[n, k] / RADIUS).log())
    for name, logits in zip(HEADS, found[:, 4:].split(list(HEADS.values()), 1), strict=True):
        truth = scenes.style[n] if name == "style" else getattr(scenes, name)[n, k]
        total = total + 0.5 * F.cross_entropy(logits, truth)
    return total


def save_detector(detector: Detector, card: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write detector.safetensors, in half precision, and detector.json into a folder."""
    from safetensors.torch import save_file

    weights = {k: v.half() for k, v in detector.state_dict().items() if v.is_floating_point()}
    save_file(weights, Path(folder) / "detector.safetensors")
    (Path(folder) / "detector.json").write_text(json.dumps(card, indent=2) + "\n")


@cache
def load_detector(folder: str | os.PathLike[str] = _SHIPPED) -> Detector:
    """The detector that ships, or one that `save_detector` wrote: in eval mode, without gradients of its weights."""
    from safetensors.torch import load_file

    detector = Detector()
    weights = load_file(Path(folder) / "detector.safetensors")
    detector.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    return detector.eval().requires_grad_(False)

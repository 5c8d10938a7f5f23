"""Pairs of clean and degraded images, made of any image data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.noise import Keyed, Noise
from .dataset import Dataset, Split

__all__ = ["LowResolution", "Masked", "Noisy", "degraded", "enlarged", "super_resolution"]

Degradation = Callable[[Tensor, Noise], Tensor]
FIELDS = ("measurement", "anchor")


class LowResolution:
    """Means of factor x factor pixels: (B, C, H, W) -> (B, C, H / factor, W / factor)."""

    def __init__(self, factor: int = 4) -> None:
        if not isinstance(factor, int) or factor < 2:
            raise ValueError(f"factor: expected an integer of at least 2, got {factor!r}")
        self.factor = factor

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """The small image; nothing is drawn."""
        if x.ndim != 4 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"LowResolution: images (B, C, H, W) with sides divisible by {self.factor} are needed, got "
                f"{tuple(x.shape)}"
            )
        return F.avg_pool2d(x, self.factor)


class Noisy:
    """x + sigma z, z standard normal in every pixel; pixels are in [-1, 1]."""

    def __init__(self, sigma: float = 0.2) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma: expected a positive number, got {sigma!r}")
        self.sigma = float(sigma)

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """The noisy image."""
        return x + self.sigma * noise.normal(x)


class Masked:
    """A share of the pixels, drawn at random for each image, is set to `fill` in all channels."""

    def __init__(self, share: float = 0.5, fill: float = 0.0) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share: expected a number in (0, 1), got {share!r}")
        self.share, self.fill = float(share), float(fill)

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """The image with holes."""
        return torch.where(self.hidden(x, noise), self.fill, x)

    def hidden(self, x: Tensor, noise: Noise) -> Tensor:
        """(B, 1, ...), true where a pixel is hidden; the same for the same source of noise."""
        return noise.uniform(x[:, :1]) < self.share


def enlarged(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """An image (B, C, h, w) at another size (H, W), by bilinear interpolation; itself where it has that size."""
    if tuple(image.shape[2:]) == tuple(size):
        return image
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)


def degraded(data: Dataset, *degradations: Degradation, seed: int = 0) -> Dataset:
    """The same images, each with its degraded version as a condition.

    Fields are added to those of `data`: `measurement`, what the degradations, applied one after the other, leave of
    the image; and `anchor`, the measurement brought back to the image's size. An image's noise and mask are
    functions of the seed and of its index, so it is degraded alike each time it is seen.

    Args:
        data: images (C, H, W).
        *degradations: functions of images (B, C, H, W) and a source of noise, such as `LowResolution(4)`.
        seed: of what is drawn.

    Raises:
        ValueError: no degradation, or data that are not images.
    """
    if not degradations:
        raise ValueError("degradations: expected at least one, such as LowResolution(4)")
    if isinstance(data.shape, dict) or len(data.shape) != 3 or data.categories is not None:
        raise ValueError(f"data: expected images (C, H, W), got samples of shape {data.shape}")
    train = DegradedSplit(data.train, degradations, seed, "train")
    return replace(data, train=train, held_out=DegradedSplit(data.held_out, degradations, seed, "held_out"))


class DegradedSplit(Split):
    """The samples of a split, each with its degraded version; made when they are asked for."""

    def __init__(self, split: Split, degradations: tuple[Degradation, ...], seed: int, name: str) -> None:
        self.split, self.degradations, self.seed, self.name = split, degradations, seed, name
        self.fields = _Fields(self)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.split)

    def _states(self, indices: Tensor) -> Tensor:
        x_0: Tensor = self.split.batch(indices)["x_0"]
        return x_0

    def batch(self, indices: Tensor) -> dict[str, Any]:
        """The samples at `indices` (B,), with their fields."""
        record = self.split.batch(indices)
        return {**record, "fields": {**record["fields"], **self.pair(record["x_0"], indices)}}

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """The fields, which are made of the states."""
        fields: dict[str, Tensor] = self.batch(indices)["fields"]
        return fields

    def pair(self, x_0: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """What is left of images at `indices`: {"measurement": as it comes, "anchor": at the images' size}."""
        noise, left = Keyed(self.seed, torch.as_tensor(indices)).fold(self.name), x_0
        for step, degradation in enumerate(self.degradations):
            left = degradation(left, noise.fold(step))
        return {"measurement": left, "anchor": enlarged(left, tuple(x_0.shape[2:]))}


class _Fields(Mapping[str, Tensor]):
    """The fields of all samples by name; the degraded ones are computed when read."""

    def __init__(self, split: DegradedSplit) -> None:
        self.split = split

    def __getitem__(self, name: str) -> Tensor:
        if name not in FIELDS:
            return self.split.split.fields[name]
        return self.split.pair(self.split.x_0, torch.arange(len(self.split)))[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.split.split.fields, *FIELDS]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def super_resolution(source: str = "fashion-mnist", factor: int = 4) -> Dataset:
    """Images with their versions of low resolution: `degraded(load(source), LowResolution(factor))`.

    Args:
        source: an image data set by name.
        factor: how much smaller, a side.
    """
    from .load import load  # which names this function among its own

    return replace(degraded(load(source), LowResolution(factor)), name="super-resolution")

"""Ten ways to spoil an image, each in five severities: domains to adapt to, defects to repair.

They are degradations as `degraded` takes them, so they stack: `degraded(data, Corruption("haze"), Corruption("dark"))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.noise import Noise
from ..core.spec import suggest
from .degraded import Noisy

__all__ = ["CORRUPTIONS", "Corruption"]

Spoil = Callable[[Tensor, Noise, float], Tensor]  # images in [0, 1], a source of noise, a strength
_LUMINANCE = (0.299, 0.587, 0.114)
_AIR = 0.9  # brightness of haze
_BOX, _OPAQUE = 0.95, 0.65  # brightness and opacity of a watermark's box
_INK = 4.0  # how dark a step in brightness from one pixel to the next becomes in a sketch


class Corruption:
    """One corruption at one severity: a function of images (B, C, H, W) in [-1, 1] and a source of noise to images of
    the same shape in [-1, 1]. What is drawn at random (noise, the box's place, the haze's direction, the sign of a
    colour shift) is a function of each image's own key.

        noise        x + sigma z
        blur         convolved with a Gaussian, its standard deviation a share of each side along it
        haze         u t + 0.9 (1 - t), t = exp(-strength d), d = 1 + (a x + b y) / sqrt 2, (a, b) a drawn direction,
                     x and y from -1/2 to 1/2 across the image: at most from 0.5 to 1.5, from corner to corner
        grey         a share of the way to its luminance
        watermark    a light box at a drawn place, side a share of the image's, opacity 0.65
        dark         brightness times a factor
        contrast     about the image's own mean, times a factor
        pixelate     means of blocks; so many blocks a side as a share of the pixels
        colour       channels turned about the grey axis by an angle in degrees, either way
        sketch       a share of the way to dark lines on white, where brightness steps

    with u = (x + 1) / 2 in [0, 1] where brightness is spoken of. Results are clipped to [-1, 1].

    Args:
        name: one of `CORRUPTIONS`.
        severity: 1 to 5; 0 leaves the image as it is.

    Raises:
        ValueError: an unknown name, or a severity that is no integer from 0 to 5; when called, images of another shape
            than (B, C, H, W), or of other than three channels where colours are needed ("grey" and "colour").
    """

    def __init__(self, name: str, severity: int = 3) -> None:
        if name not in _STRENGTHS:
            raise ValueError(suggest(name, CORRUPTIONS, "corruption"))
        if isinstance(severity, bool) or not isinstance(severity, int) or not 0 <= severity <= 5:
            raise ValueError(f"severity: expected an integer from 0 to 5, got {severity!r}")
        self.name, self.severity = name, severity

    @property
    def strength(self) -> float:
        """The number that the severity stands for, see the table above; at severity 0 that which changes nothing."""
        return _STRENGTHS[self.name][1][self.severity]

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """The spoiled images."""
        if x.ndim != 4 or (self.name in ("grey", "colour") and x.shape[1] != 3):
            channels = "3" if self.name in ("grey", "colour") else "C"
            raise ValueError(f"{self.name}: images (B, {channels}, H, W) are needed, got {tuple(x.shape)}")
        if self.severity == 0:
            return x
        spoil = _STRENGTHS[self.name][0]
        return spoil((x + 1) / 2, noise, self.strength).clamp(0, 1) * 2 - 1

    def __repr__(self) -> str:
        return f"Corruption({self.name!r}, {self.severity})"


def _noise(u: Tensor, noise: Noise, sigma: float) -> Tensor:
    return Noisy(sigma / 2)(u, noise)  # sigma is of pixels in [-1, 1]


def _blur(u: Tensor, noise: Noise, share: float) -> Tensor:
    for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
        deviation = share * u.shape[shape.index(-1)]
        reach = math.ceil(3 * deviation)
        line = torch.arange(-reach, reach + 1, dtype=u.dtype, device=u.device)
        kernel = torch.softmax(-0.5 * (line / deviation) ** 2, 0)
        weight = kernel.reshape(shape).expand(u.shape[1], -1, -1, -1)
        pad = (reach, reach, 0, 0) if shape[3] == -1 else (0, 0, reach, reach)
        u = F.conv2d(F.pad(u, pad, mode="replicate"), weight, groups=u.shape[1])
    return u


def _haze(u: Tensor, noise: Noise, strength: float) -> Tensor:
    angle = 2 * math.pi * noise.uniform(u[:, 0, 0, 0])[:, None, None]
    y, x = _grid(u)
    depth = 1 + (angle.cos() * x + angle.sin() * y) / math.sqrt(2)
    through = torch.exp(-strength * depth)[:, None]
    return u * through + _AIR * (1 - through)


def _grid(u: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (H, 1) and (1, W) of the pixels' centres in [-1/2, 1/2]."""
    y, x = ((torch.arange(n, dtype=u.dtype, device=u.device) + 0.5) / n - 0.5 for n in u.shape[2:])
    return y[:, None], x[None]


def _luminance(u: Tensor) -> Tensor:
    if u.shape[1] != 3:
        return u.mean(1, keepdim=True)
    return (u * u.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)


def _grey(u: Tensor, noise: Noise, share: float) -> Tensor:
    return torch.lerp(u, _luminance(u).expand_as(u), share)


def _watermark(u: Tensor, noise: Noise, share: float) -> Tensor:
    corner = (1 - share) * noise.uniform(u.new_empty(len(u), 2)) - 0.5
    y, x = _grid(u)
    left, top = (c[:, None, None] for c in corner.unbind(1))
    inside = (x >= left) & (x < left + share) & (y >= top) & (y < top + share)
    return torch.where(inside[:, None], torch.lerp(u, torch.full_like(u, _BOX), _OPAQUE), u)


def _dark(u: Tensor, noise: Noise, factor: float) -> Tensor:
    return factor * u


def _contrast(u: Tensor, noise: Noise, factor: float) -> Tensor:
    return torch.lerp(u.mean((1, 2, 3), keepdim=True), u, factor)


def _pixelate(u: Tensor, noise: Noise, share: float) -> Tensor:
    height, width = (max(1, round(share * n)) for n in u.shape[2:])
    return F.interpolate(F.adaptive_avg_pool2d(u, (height, width)), size=u.shape[2:], mode="nearest")


def _colour(u: Tensor, noise: Noise, degrees: float) -> Tensor:
    sign = torch.where(noise.uniform(u[:, 0, 0, 0]) < 0.5, -1.0, 1.0).to(u.dtype)[:, None, None, None]
    angle = math.radians(degrees)
    mean = u.mean(1, keepdim=True)
    across = (u.roll(-1, 1) - u.roll(1, 1)) / math.sqrt(3)  # the axis times u
    return mean + (u - mean) * math.cos(angle) + sign * across * math.sin(angle)


def _sketch(u: Tensor, noise: Noise, share: float) -> Tensor:
    light = F.pad(_luminance(u), (0, 1, 0, 1), mode="replicate")
    right = light[..., :-1, 1:] - light[..., :-1, :-1]
    below = light[..., 1:, :-1] - light[..., :-1, :-1]
    lines = 1 - (_INK * (right**2 + below**2 + 1e-12).sqrt()).clamp(max=1)  # with a gradient at no step too
    return torch.lerp(u, lines.expand_as(u), share)


_STRENGTHS: dict[str, tuple[Spoil, tuple[float, ...]]] = {  # of severities 0 to 5
    "noise": (_noise, (0.0, 0.1, 0.2, 0.35, 0.5, 0.7)),
    "blur": (_blur, (0.0, 0.02, 0.03, 0.04, 0.055, 0.075)),
    "haze": (_haze, (0.0, 0.3, 0.5, 0.8, 1.2, 1.8)),
    "grey": (_grey, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    "watermark": (_watermark, (0.0, 0.2, 0.28, 0.36, 0.45, 0.55)),
    "dark": (_dark, (1.0, 0.75, 0.6, 0.45, 0.3, 0.2)),
    "contrast": (_contrast, (1.0, 0.75, 0.6, 0.45, 0.3, 0.18)),
    "pixelate": (_pixelate, (1.0, 0.75, 0.5, 0.375, 0.3, 0.25)),
    "colour": (_colour, (0.0, 15.0, 30.0, 50.0, 80.0, 120.0)),
    "sketch": (_sketch, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
}
CORRUPTIONS = tuple(_STRENGTHS)

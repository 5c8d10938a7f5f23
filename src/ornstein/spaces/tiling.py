"""A canvas as overlapping windows, and back by weights that add to 1; decoding a large latent in windows."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from ornstein.core import suggest

from .codec import Codec

__all__ = ["PROFILES", "Tiling", "decode_tiled", "whole"]

PROFILES = ("uniform", "gaussian")
BREADTH = 0.8  # standard deviation of the Gaussian profile, in half windows


def whole(name: str, value: Any, axes: int | None = None) -> tuple[int, ...]:
    """Whole numbers, one an axis; a single one stands for all where `axes` says how many there are.

    Raises:
        ValueError: anything else.
    """
    given = (value,) * axes if axes is not None and isinstance(value, int) else value
    try:
        return tuple(index(v) for v in given)
    except TypeError:
        alone = "" if axes is None else ", or one for all"
        raise ValueError(f"{name}: expected whole numbers, one an axis{alone}; got {value!r}") from None


class Tiling:
    """Windows of one shape over a canvas, and a partition of unity over them.

    Weights are w_k(p) / sum_j w_j(p) at every place p, with w_k the profile of window k, so that pasting what was cut
    gives the canvas back.

    Args:
        canvas: its size, one number an axis.
        window: the windows' size.
        stride: step from window to window, at most the window. A last window lies at the far border where the stride
            does not lead there.
        profile: "uniform", the plain mean of what overlaps, or "gaussian", higher in a window's middle.
        periodic: whether the canvas is a torus, whose windows go over the border.
        margin: places at each side of a window that weigh nothing, save where that side is the canvas's own. What is
            made of windows by a map that looks no farther is then what it makes of the canvas.

    Attributes:
        starts: (K, axes) the first place of every window.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(
        self,
        canvas: Sequence[int],
        window: Sequence[int],
        stride: int | Sequence[int],
        profile: str = "uniform",
        periodic: bool = False,
        margin: int = 0,
    ) -> None:
        self.canvas, self.window, self.profile = whole("canvas", canvas), whole("window", window), profile
        self.stride = whole("stride", stride, len(self.canvas))
        self.periodic, self.margin = periodic, margin
        if profile not in PROFILES:
            raise ValueError(suggest(profile, PROFILES, "profile"))
        self._check()
        firsts = [self._firsts(*sizes) for sizes in zip(self.canvas, self.window, self.stride, strict=True)]
        self.starts = torch.cartesian_prod(*firsts).reshape(-1, len(self.canvas))
        self.places = torch.stack([self._places(start) for start in self.starts])
        shares = self._profile() * torch.stack([self._counted(start) for start in self.starts])
        total = torch.zeros(self.size, dtype=shares.dtype).index_add(
            0, self.places.flatten(), shares.flatten()
        )
        self.weights = shares / total[self.places]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Number of places of the canvas."""
        return int(torch.Size(self.canvas).numel())

    @property
    def centres(self) -> Tensor:
        """(K, axes), the middle of every window in places; half-way between two for even windows."""
        return self.starts + (torch.tensor(self.window) - 1) / 2

    def cut(self, x: Tensor) -> Tensor:
        """(B, C, *canvas) -> (B, K, C, *window)."""
        if tuple(x.shape[2:]) != self.canvas:
            raise ValueError(f"x: expected a canvas of {self.canvas}, got {tuple(x.shape[2:])}")
        pieces = x.flatten(2)[:, :, self.places.to(x.device)]
        return pieces.transpose(1, 2).reshape(len(x), len(self), x.shape[1], *self.window)

    def paste(self, windows: Tensor) -> Tensor:
        """(B, K, C, *window) -> (B, C, *canvas), the weighted mean of what overlaps."""
        weights = self.weights.to(windows).unsqueeze(1)
        shares = (windows.flatten(3) * weights).transpose(1, 2).flatten(2)
        empty = windows.new_zeros(len(windows), windows.shape[2], self.size)
        places = self.places.to(windows.device).flatten()
        return empty.index_add(2, places, shares).reshape(*empty.shape[:2], *self.canvas)

    def enlarged(self, factor: int) -> Tiling:
        """The same windows where every place has become `factor` places a side."""
        canvas, window, stride = (
            [factor * v for v in values] for values in (self.canvas, self.window, self.stride)
        )
        return Tiling(canvas, window, stride, self.profile, self.periodic, factor * self.margin)

    def _check(self) -> None:
        if not len(self.canvas) == len(self.window) == len(self.stride):
            raise ValueError(
                f"canvas, window, stride: expected as many axes each, got {self.canvas}, {self.window}, {self.stride}"
            )
        for canvas, window, stride in zip(self.canvas, self.window, self.stride, strict=True):
            if not 1 <= stride <= window <= canvas:
                raise ValueError(
                    f"tiling: expected 1 <= stride <= window <= canvas on every axis, got {stride}, {window}, {canvas}"
                )
            bordered = window < canvas or self.periodic  # a window over all of a torus has margins too
            if self.margin < 0 or (bordered and stride > window - 2 * self.margin):
                raise ValueError(
                    f"margin: expected 0 to {(window - stride) // 2}, half of what windows overlap, got {self.margin}"
                )
            if self.periodic and canvas % stride:
                raise ValueError(f"stride: {stride} does not divide the periodic canvas's {canvas}")

    def _firsts(self, canvas: int, window: int, stride: int) -> Tensor:
        if self.periodic:
            return torch.arange(0, canvas, stride)
        firsts = list(range(0, canvas - window + 1, stride))
        return torch.tensor(firsts if firsts[-1] == canvas - window else [*firsts, canvas - window])

    def _places(self, start: Tensor) -> Tensor:
        """Flat indices of a window's places."""
        axes = zip(start.tolist(), self.window, self.canvas, strict=True)
        lines = [(first + torch.arange(window)) % canvas for first, window, canvas in axes]
        flat = torch.zeros((), dtype=torch.long)
        for line, canvas in zip(lines, self.canvas, strict=True):
            flat = flat.unsqueeze(-1) * canvas + line
        return flat.flatten()

    def _counted(self, start: Tensor) -> Tensor:
        """1 for a window's places that weigh, 0 for its margins, (places,)."""
        total = torch.ones((), dtype=torch.float64)
        for first, window, canvas in zip(start.tolist(), self.window, self.canvas, strict=True):
            line = torch.ones(window, dtype=torch.float64)
            line[: self.margin * (first > 0 or self.periodic)] = 0
            line[window - self.margin * (first + window < canvas or self.periodic) :] = 0
            total = total.unsqueeze(-1) * line
        return total.flatten()

    def _profile(self) -> Tensor:
        """The weight of every place of a window before normalising, (places,)."""
        total = torch.ones((), dtype=torch.float64)
        for window in self.window:
            line = torch.ones(window, dtype=torch.float64)
            if self.profile == "gaussian":
                offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
                line = (-0.5 * (offset / (BREADTH * window / 2)) ** 2).exp()
            total = total.unsqueeze(-1) * line
        return total.flatten()


def decode_tiled(
    codec: Codec,
    z: Tensor,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    profile: str = "gaussian",
    chunk: int = 16,
    margin: int = 0,
) -> Tensor:
    """Decode a large latent in windows and blend them: memory is that of `chunk` windows.

    Near a window's border a decoder sees less than on the whole canvas. Graikos et al. 2023 (arXiv 2312.07330) blend
    by a Gaussian, which hides it; a margin of the decoder's reach (`networks.Autoencoder.reach`) removes it: the result
    is then that of the whole canvas. A decoder with norms over the image, as most published ones, has no reach.

    Args:
        codec: decodes windows (n, c, *window) to images `factor` times larger a side.
        z: latents (B, c, *canvas).
        window: places a side of a window, of the latent.
        stride: from window to window.
        profile: as of `Tiling`.
        chunk: windows a call.
        margin: places of the latent at a window's sides that are decoded but not shown, see `Tiling`.

    Raises:
        ValueError: sizes that do not fit, or a codec that enlarges by no whole number.
    """
    sizes = whole("window", window, z.ndim - 2)
    tiling = Tiling(z.shape[2:], sizes, stride, profile, margin=margin)
    pieces = tiling.cut(z).flatten(0, 1)
    shown: Any = torch.cat([codec.decode(part) for part in pieces.split(chunk)])
    factor = shown.shape[-1] // sizes[-1]
    if tuple(shown.shape[2:]) != tuple(factor * v for v in sizes):
        raise ValueError(f"codec: decodes {sizes} to {tuple(shown.shape[2:])}, which is no whole multiple")
    return tiling.enlarged(factor).paste(shown.unflatten(0, (len(z), len(tiling))))

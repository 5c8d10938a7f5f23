"""A canvas as overlapping windows, and back by weights that add to 1; decoding a large latent in windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
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
        which = torch.cartesian_prod(*(torch.arange(len(first)) for first in firsts))
        self._which = which.reshape(-1, len(firsts))  # of each axis's windows
        self._lines = [self._line(*sizes) for sizes in zip(firsts, self.canvas, self.window, strict=True)]

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

    @cached_property
    def places(self) -> Tensor:
        """(K, places), the flat indices of every window's places."""
        return self._product(slice(None), 0)

    @cached_property
    def weights(self) -> Tensor:
        """(K, places), what they weigh."""
        return self._product(slice(None), 1)

    def cut(self, x: Tensor, which: slice | None = None) -> Tensor:
        """(B, C, *canvas) -> (B, K, C, *window), all windows or some of them."""
        if tuple(x.shape[2:]) != self.canvas:
            raise ValueError(f"x: expected a canvas of {self.canvas}, got {tuple(x.shape[2:])}")
        pieces = x.flatten(2)[:, :, self._table(0, which).to(x.device)]
        return pieces.transpose(1, 2).unflatten(3, self.window)

    def paste(self, windows: Tensor, which: slice | None = None, onto: Tensor | None = None) -> Tensor:
        """(B, K, C, *window) -> (B, C, *canvas), the weighted mean of what overlaps.

        Of some windows it is their share in it, which is added to `onto` where one is given, in place.
        """
        weights = self._table(1, which).to(windows).unsqueeze(1)
        shares = (windows.flatten(3) * weights).transpose(1, 2).flatten(2)
        made = windows.new_zeros(*shares.shape[:2], *self.canvas) if onto is None else onto
        made.flatten(2).index_add_(2, self._table(0, which).to(windows.device).flatten(), shares)
        return made

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

    def _line(self, firsts: Tensor, canvas: int, window: int) -> tuple[Tensor, Tensor]:
        """Places and weights of the windows of one axis, (windows, places): those of the canvas are their products."""
        at = torch.arange(window)
        places = (firsts.unsqueeze(1) + at) % canvas
        before = (firsts > 0) | self.periodic  # whether that side is within the canvas
        after = (firsts + window < canvas) | self.periodic
        hidden = (before.unsqueeze(1) & (at < self.margin)) | (
            after.unsqueeze(1) & (at >= window - self.margin)
        )
        shares = self._profile(window).expand(places.shape).masked_fill(hidden, 0.0)
        total = shares.new_zeros(canvas).index_add(0, places.flatten(), shares.flatten())
        return places, shares / total[places]

    def _profile(self, window: int) -> Tensor:
        """The weight of every place of one axis of a window before normalising, (places,)."""
        offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
        breadth = BREADTH * window / 2 if self.profile == "gaussian" else torch.inf
        return (-0.5 * (offset / breadth) ** 2).exp()

    def _table(self, kind: int, which: slice | None) -> Tensor:
        """Places (0) or weights (1): kept for all windows, made for some."""
        if which is None:
            return self.weights if kind else self.places
        return self._product(which, kind)

    def _product(self, which: slice, kind: int) -> Tensor:
        """Places (0) or weights (1) of some windows, (windows, places)."""
        chosen = self._which[which]
        made = torch.full((len(chosen), 1), kind, dtype=self._lines[0][kind].dtype)
        for lines, k, canvas in zip(self._lines, chosen.unbind(1), self.canvas, strict=True):
            line, outer = lines[kind][k].unsqueeze(1), made.unsqueeze(2)
            made = (outer * line if kind else outer * canvas + line).flatten(1)
        return made


def decode_tiled(
    codec: Codec,
    z: Tensor,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    profile: str = "gaussian",
    chunk: int = 16,
    margin: int = 0,
) -> Tensor:
    """Decode a large latent in windows and blend them, `chunk` windows at a time: memory is that of the result and of a
    few chunks, whatever the canvas.

    A place is decoded as often as windows hold it, about prod (window / stride) times over the axes: 4 times for a
    stride of half a window on a plane, 16 times for a quarter.

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
    return torch.cat([_blended(codec, rows, tiling, chunk // len(rows)) for rows in z.split(chunk)])


def _blended(codec: Codec, z: Tensor, tiling: Tiling, step: int) -> Tensor:
    """The decoded canvas, `step` windows of every row at a time."""
    canvas: Any = None
    larger = None
    for first in range(0, len(tiling), step):
        which = slice(first, first + step)
        pieces = tiling.cut(z, which)
        shown = codec.decode(pieces.flatten(0, 1))
        larger = larger or _enlarged(tiling, shown)
        canvas = larger.paste(shown.unflatten(0, pieces.shape[:2]), which, canvas)
    return canvas


def _enlarged(tiling: Tiling, shown: Tensor) -> Tiling:
    """The tiling of what windows are decoded to."""
    factor = shown.shape[-1] // tiling.window[-1]
    if tuple(shown.shape[2:]) != tuple(factor * v for v in tiling.window):
        raise ValueError(
            f"codec: decodes {tiling.window} to {tuple(shown.shape[2:])}, which is no whole multiple"
        )
    return tiling.enlarged(factor)

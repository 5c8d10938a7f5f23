"""Pictures of the demo, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ornstein.data.image import to_bytes

__all__ = ["beside_nearest", "labelled", "trajectory"]

_GAP, _INCH = 1, 0.7  # pixels between images; side of an image


def labelled(images: Tensor, classes: Sequence[str]) -> bytes:
    """Images (rows * classes, C, H, W), one column a class, named above."""
    return _drawn(images, classes, [""] * (len(images) // len(classes)))


def trajectory(states: Sequence[tuple[str, Tensor, Tensor]], names: Sequence[str]) -> bytes:
    """The steps of a run from left to right: (title, states (N, C, H, W), denoised estimates), two rows a sample."""
    kinds = [torch.stack([x for _, x, _ in states]), torch.stack([mean for _, _, mean in states])]
    rows = [kind[:, i] for i in range(len(names)) for kind in kinds]
    titles = [word for name in names for word in (f"{name}: state", "estimate")]
    return _drawn(torch.cat(rows), [title for title, *_ in states], titles)


def beside_nearest(samples: Tensor, nearest: Tensor) -> bytes:
    """Samples (N, C, H, W) above, the nearest training images below."""
    return _drawn(torch.cat([samples, nearest]), [""] * len(samples), ["sample", "nearest\nin training"])


def _drawn(images: Tensor, columns: Sequence[str], rows: Sequence[str]) -> bytes:
    """Images row by row in one figure, with names above the columns and before the rows.

    Raises:
        ValueError: there is not one image for each place.
    """
    from matplotlib.figure import Figure

    mosaic, step = _mosaic(images, len(rows), len(columns))
    figure = Figure((_INCH * len(columns) + 1, _INCH * len(rows) + 0.4), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.imshow(mosaic, cmap="gray", vmin=0, vmax=255)
    for side, names, size in ((axis.xaxis, columns, step[1]), (axis.yaxis, rows, step[0])):
        side.set_ticks([(i + 0.5) * size - 0.5 - _GAP / 2 for i in range(len(names))], names)
    axis.tick_params(length=0, labelsize=8, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _mosaic(images: Tensor, rows: int, columns: int) -> tuple[NDArray[Any], tuple[int, int]]:
    """One picture of all, white between them, and the distance from one to the next, down and across."""
    shown = to_bytes(images)
    if len(shown) != rows * columns:
        raise ValueError(f"images: expected {rows} x {columns}, got {len(shown)}")
    padded = np.pad(shown, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    _, height, width, channels = padded.shape
    grid = padded.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    mosaic = grid.reshape(rows * height, columns * width, channels)
    return (mosaic[..., 0] if channels == 1 else mosaic), (height, width)

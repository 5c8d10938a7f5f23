"""Three frames of a moving picture: the middle one is the state, its neighbours are conditions.

Frames come from real photographs that are moved procedurally, or from a video file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_least
from .dataset import Dataset, TensorSplit
from .image import from_bytes, to_bytes

__all__ = ["frames"]

Draw = Callable[[int, torch.Generator], Tensor]  # (n, generator) -> grey triplets (n, 3, size, size)

_CHUNK = 512  # scenes drawn at a time
_FINE = 2  # pixels of a photograph, a side, that make one of a frame: what moves does not alias
_TRAIN = 0.7  # share of a photograph's columns, or of a video's frames, that is trained on
_GREY = (0.299, 0.587, 0.114)  # luminance of red, green and blue


def frames(
    size: int = 16,
    count: int = 8192,
    held_out: int = 1024,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Grey middle frames (1, size, size) in [-1, 1], with their neighbours as fields "previous" and "next".

    By default the two photographs that scikit-learn ships (a temple and a flower), halved in size. A scene is a
    patch of one, and before it a blob with a soft edge cut from another place. Each moves on its own: up to 2
    pixels a frame, 6 degrees and 5 %, by a parabola that bends by about 0.3 pixels, so that the middle frame is
    not quite told by its neighbours. The left 70 % of the photographs are trained on, the rest is held out.

    Of a video, patches at random places of three frames in a row; the first 70 % of its frames are trained on,
    the rest is held out, so that no frame is on both sides.

    Args:
        size: side of a frame in pixels.
        count: triplets to train on.
        held_out: triplets held out.
        seed: of places and motions; the same seed gives the same triplets.
        path: a video file, read with the package av.

    Raises:
        ImportError: the package av is missing.
        ValueError: an argument out of range, or a file that is not such a video.
    """
    check_least(size=(size, 4), count=(count, 1), held_out=(held_out, 0))
    draws = _of_photographs(size) if path is None else _of_video(Path(path), size)
    triplets = [
        _chunked(draw, n, torch.Generator().manual_seed(2 * seed + i))
        for i, (draw, n) in enumerate(zip(draws, (count, held_out), strict=True))
    ]
    train, test = (TensorSplit(t[:, 1:2], {"previous": t[:, 0:1], "next": t[:, 2:3]}) for t in triplets)
    return Dataset("frames", train, test, shape=(1, size, size), decode=to_bytes)


def _chunked(draw: Draw, n: int, generator: torch.Generator) -> Tensor:
    parts = [draw(_CHUNK, generator) for _ in range(0, max(n, 1), _CHUNK)]
    return torch.cat(parts)[:n]  # fewer triplets are the first of more


# --------------------------------------------------------------------------------- photographs


def _of_photographs(size: int) -> list[Draw]:
    from sklearn.datasets import load_sample_images

    photographs = torch.from_numpy(np.stack(load_sample_images().images)).float() @ torch.tensor(
        _GREY, dtype=torch.float32
    )
    edge = int(_TRAIN * photographs.shape[2])
    regions = (photographs[..., :edge], photographs[..., edge:])
    least = min(min(region.shape[1:]) for region in regions)
    if size * _FINE > least:
        raise ValueError(f"size: expected at most {least // _FINE} pixels of these photographs, got {size}")
    return [partial(_scenes, from_bytes(region), size) for region in regions]


class _Layer(NamedTuple):
    """Where n layers are taken from, and how they move; lengths in pixels of a frame, (n,) or (n, 2)."""

    photograph: Tensor
    place: Tensor
    velocity: Tensor
    bend: Tensor
    turn: Tensor  # radians a frame
    growth: Tensor  # natural logarithm a frame

    @classmethod
    def drawn(cls, photographs: Tensor, n: int, size: int, g: torch.Generator) -> _Layer:
        count, *sides = photographs.shape
        room = torch.tensor(sides, dtype=torch.float32) / _FINE
        return cls(
            torch.randint(count, (n,), generator=g),
            _uniform(g, n, 2) * (room - size) + size / 2,
            4 * _uniform(g, n, 2) - 2,
            0.3 * torch.randn(n, 2, generator=g, dtype=torch.float32),
            math.radians(12) * (_uniform(g, n) - 0.5),
            0.1 * (_uniform(g, n) - 0.5),
        )

    def seen_from(self, points: Tensor, time: int) -> Tensor:
        """Points (P, 2) of the frame at a time, in the layer's own coordinates about its centre, (n, P, 2)."""
        moved = points - (self.velocity * time + self.bend * time**2)[:, None]
        angle, scale = (-self.turn * time)[:, None], (-self.growth * time).exp()[:, None]
        y, x = moved.unbind(-1)
        turned = (y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos())
        return torch.stack([scale * v for v in turned], -1)

    def colours(self, photographs: Tensor, points: Tensor) -> Tensor:
        """The photographs at the layer's own points, (n, P), by bilinear interpolation."""
        count, height, width = photographs.shape
        y, x = (_FINE * (self.place[:, None] + points) - 0.5).unbind(-1)
        y = y.clamp(0, height - 1) + height * self.photograph[:, None]  # one photograph below the other
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (count * height - 1) - 1], -1)
        canvas = photographs.reshape(1, 1, count * height, width)
        return F.grid_sample(canvas, grid[None], padding_mode="border", align_corners=True)[0, 0]


def _uniform(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float32)


def _scenes(photographs: Tensor, size: int, n: int, g: torch.Generator) -> Tensor:
    """n triplets (n, 3, size, size) of the photographs (count, height, width)."""
    back, front = (_Layer.drawn(photographs, n, size, g) for _ in range(2))
    centre = size * (_uniform(g, n, 1, 2) - 0.5)  # of the blob, from the middle of the frame
    radii = size * (0.2 + 0.3 * _uniform(g, n, 1, 2))
    fine = size * _FINE
    line = (torch.arange(fine, dtype=torch.float32) + 0.5) / _FINE - size / 2
    points = torch.cartesian_prod(line, line)
    shown = []
    for time in (-1, 0, 1):
        behind = back.colours(photographs, back.seen_from(points, time))
        own = front.seen_from(points - centre, time)
        before = front.colours(photographs, own)
        outside = ((own / radii).norm(dim=-1) - 1) * radii.mean(-1)  # about the distance from its edge
        shown.append(torch.lerp(behind, before, torch.sigmoid(-4 * outside)))
    return F.avg_pool2d(torch.stack(shown, 1).reshape(n, 3, fine, fine), _FINE)


# --------------------------------------------------------------------------------------- video


def _of_video(path: Path, size: int) -> list[Draw]:
    pictures = _read(path)
    count, height, width = pictures.shape
    edge = int(_TRAIN * count)
    if min(edge, count - edge) < 3:
        raise ValueError(f"video {str(path)!r}: holds {count} frames, at least 7 are needed")
    if size > min(height, width):
        raise ValueError(f"size: expected at most {min(height, width)} pixels of {str(path)!r}, got {size}")
    return [partial(_cut, part, size) for part in (pictures[:edge], pictures[edge:])]


def _cut(pictures: Tensor, size: int, n: int, g: torch.Generator) -> Tensor:
    """n patches of three frames in a row, (n, 3, size, size), of pictures (T, height, width) in bytes."""
    corners = [torch.randint(side, (n, 1, 1, 1), generator=g) for side in _corners(pictures, size)]
    steps = (torch.arange(3).reshape(3, 1, 1), torch.arange(size).reshape(size, 1), torch.arange(size))
    time, row, column = (corner + step for corner, step in zip(corners, steps, strict=True))
    return from_bytes(pictures[time, row, column])


def _corners(pictures: Tensor, size: int) -> tuple[int, int, int]:
    count, height, width = pictures.shape
    return count - 2, height - size + 1, width - size + 1


def _read(path: Path) -> Tensor:
    """All frames of a video file, grey, (T, height, width) in bytes."""
    av = _import_av()
    if not path.is_file():
        raise ValueError(f"path: no file {str(path)!r}")
    try:
        with av.open(str(path)) as container:
            pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"video {str(path)!r}: cannot be read ({error})") from error
    if len({picture.shape for picture in pictures}) != 1:
        raise ValueError(f"video {str(path)!r}: holds no frames of one size")
    return torch.from_numpy(np.stack(pictures))


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError('video files need the package "av": pip install "ornstein[video]"') from error
    return av

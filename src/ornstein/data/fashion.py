"""Fashion-MNIST: 70,000 grey pictures of clothes in ten classes.

Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms (2017), 1708.07747; MIT licence.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, TensorSplit
from .image import from_bytes, to_bytes

__all__ = ["CLASSES", "fashion_mnist"]

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_SIDE = 28
_SIZES = (16, 28, 32)


def fashion_mnist(size: int = 16, folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Clothes (1, size, size) in [-1, 1] with field "label"; 60,000 to train on, 10,000 held out.

    Args:
        size: 28 as published; 32 with a border of 2 black pixels; 16, the means of 2x2 pixels of those.
        folder: holds train-images-idx3-ubyte.gz and its three companions; by default where Debian's and
            Ubuntu's package `dataset-fashion-mnist` puts them.

    Raises:
        ValueError: another size, or files that are absent or not these.
    """
    if size not in _SIZES:
        raise ValueError(f"size: expected one of {_SIZES}, got {size!r}")
    home = _DEBIAN if folder is None else Path(folder)
    train, held_out = (_split(home, part, size) for part in ("train", "t10k"))
    return Dataset("fashion-mnist", train, held_out, shape=(1, size, size), classes=CLASSES, decode=to_bytes)


def _split(home: Path, part: str, size: int) -> TensorSplit:
    pixels = _read(home / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, _SIDE, _SIDE)
    labels = _read(home / f"{part}-labels-idx1-ubyte.gz", 8).long()
    return TensorSplit(_resized(pixels, size), {"label": labels}, from_bytes)


def _resized(pixels: Tensor, size: int) -> Tensor:
    if size == _SIDE:
        return pixels
    framed = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    if size == 32:
        return framed
    n = len(framed)
    quads = framed.reshape(n, 1, 16, 2, 16, 2).to(torch.int16).sum((3, 5))
    return ((quads + 2) // 4).to(torch.uint8)


def _read(path: Path, header: int) -> Tensor:
    if not path.is_file():
        raise ValueError(
            f"fashion-mnist: no file {path}. Install it with `apt install dataset-fashion-mnist`, give folder= "
            "with the four files of github.com/zalandoresearch/fashion-mnist (data/fashion), or use the hub's "
            "'zalando-datasets/fashion_mnist'"
        )
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"fashion-mnist: {path} is not a whole gzip file ({error})") from error
    axes = (header - 4) // 4
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, axes)):
        raise ValueError(f"fashion-mnist: {path} is not an idx file of bytes with {axes} axes")
    count, values = int.from_bytes(raw[4:8], "big"), len(raw) - header
    if values != count * (_SIDE**2 if header == 16 else 1):
        raise ValueError(f"fashion-mnist: {path} announces {count} entries but holds {values} bytes of them")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).copy())

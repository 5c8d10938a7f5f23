"""A folder of images, with classes as its subfolders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .image import image_dataset, open_header, picture_shape
from .partition import check_fraction, digests, held_out_mask

__all__ = ["HELD_OUT_NAMES", "IMAGE_SUFFIXES", "image_folder"]

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
HELD_OUT_NAMES = ("held_out", "test", "validation", "val", "valid", "dev")


def image_folder(
    path: str | os.PathLike[str],
    size: int | None = None,
    channels: int | None = None,
    held_out: float = 0.1,
) -> Dataset:
    """Images of a folder (C, size, size) in [-1, 1], decoded when they are first asked for.

    Subfolders are classes, sorted by name, and give the field "label". Subfolders "train" and
    "test" (or "validation", "val", "held_out") are splits instead, each with images or classes of
    its own.

    Args:
        path: the folder. Files that are not images by their suffix, and hidden ones, are left out.
        size: images are cropped to a centred square and resized to it; by default they must all be
            of one size, which is kept.
        channels: 1, 3 or 4; by default 1 where every image is grey, else 3.
        held_out: fraction to hold out by class, where the folder has no splits of its own.

    Raises:
        ValueError: no images, unreadable ones, sizes that differ, or images both beside and in the
            class folders. A damaged image shows when it is decoded; errors name the file.
    """
    root = Path(path)
    check_fraction(held_out)
    parts = _parts(root)
    found = {part: _images(folder) for part, folder in parts.items()}
    files = [file for part in found.values() for file in part]
    if not files:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"folder {str(root)!r} holds no images; accepted are {kinds}")
    names = [str(file) for file in files]
    shape = picture_shape([open_header(n, n) for n in names], names, size, channels)
    labels, classes = _labels([_class_of(f, parts[p]) for p, part in found.items() for f in part])
    held = np.repeat([part != "train" for part in found], [len(part) for part in found.values()])
    if "" in parts:
        held = held_out_mask(digests(map(_fingerprint, files)), held_out, labels)
    return image_dataset(str(path), lambda i: files[i].read_bytes(), names, labels, classes, held, shape)


def _parts(root: Path) -> dict[str, Path]:
    """The subfolders that are splits; where there is no second one, a single part "" to be divided."""
    folders = {entry.name: entry for entry in root.iterdir() if entry.is_dir()}
    second = next((name for name in HELD_OUT_NAMES if name in folders), None)
    if "train" in folders and second:
        return {"train": folders["train"], second: folders[second]}
    return {"": folders["train"] if list(folders) == ["train"] else root}


def _images(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _class_of(file: Path, folder: Path) -> str:
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _labels(names: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    classes, labels = np.unique(names, return_inverse=True)
    if len(classes) > 1 and classes[0] == "":
        raise ValueError(
            f"{int((labels == 0).sum())} images lie beside the class folders "
            f"{', '.join(map(str, classes[1:6]))}; move them into a class, or use a folder without"
        )
    return (labels, tuple(map(str, classes))) if classes[0] else (None, ())


def _fingerprint(file: Path) -> bytes:
    """Length and first 64 KiB: equal files agree, and files that agree may stay together."""
    with file.open("rb") as stream:
        return file.stat().st_size.to_bytes(8) + stream.read(2**16)

"""Samples in a .npy or .npz file."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.tree import select
from .dataset import Dataset, TensorSplit, as_arrays
from .image import from_bytes, to_bytes
from .partition import check_fraction, digests, held_out_mask

__all__ = ["Part", "array_file", "class_labels", "from_parts"]

_STATES = ("x", "images", "data")
_LABELS = ("y", "labels", "label")
_CHANNELS = (1, 3, 4)


class Part(NamedTuple):
    """Arrays of one split: states (N, ...) and, where there are any, labels (N,)."""

    x: NDArray[Any]
    y: NDArray[Any] | None


def array_file(
    path: str | os.PathLike[str],
    range: tuple[float, float] | None = None,
    discrete: bool = False,
    held_out: float = 0.1,
) -> Dataset:
    """Samples of a .npy or .npz file.

    An .npz file names its states "x", "images" or "data" and its labels "y" or "labels"; with
    "x_train" and "x_test" (or "train_images" and "test_images") it brings its own splits. States
    are images (N, C, H, W), (N, H, W, C) with C in 1, 3, 4, or grey (N, H, W); vectors (N, D); or
    longer shapes.

    Args:
        path: the file.
        range: the values that become -1 and 1. By default (0, 255) for bytes, while real numbers
            are left as they are and images of real numbers must lie in [-1, 1].
        discrete: the states are whole numbers 0..K-1 and are kept as ids.
        held_out: fraction to hold out by class, where the file has no splits of its own.

    Raises:
        ValueError: the file is damaged, holds pickled objects, lacks states, has rows that are not
            finite (the first is named), labels that do not fit, or values out of range.
    """
    check_fraction(held_out)
    return from_parts(str(path), _parts(_read(Path(path)), str(path)), range, discrete, held_out)


def from_parts(
    name: str,
    parts: Sequence[Part],
    range: tuple[float, float] | None = None,
    discrete: bool = False,
    held_out: float = 0.1,
) -> Dataset:
    """A data set of one part, to be divided by `held_out`, or of two: train and held out."""
    x = torch.from_numpy(_joined([_states(part.x, discrete) for part in parts]))
    labels, classes = class_labels([part.y for part in parts], [len(part.x) for part in parts])
    transform = _transform(x, range, discrete)
    held = np.repeat([False, True][: len(parts)], [len(part.x) for part in parts])
    if len(parts) == 1:
        held = held_out_mask(digests(row.tobytes() for row in x.numpy()), held_out, labels)
    fields = {} if labels is None else {"label": torch.from_numpy(labels)}
    train, test = (
        TensorSplit(x[rows], select(fields, rows), transform)
        for rows in (torch.from_numpy(~held), torch.from_numpy(held))
    )
    return Dataset(
        name,
        train,
        test,
        shape=tuple(x.shape[1:]),
        classes=classes,
        categories=int(x.max()) + 1 if discrete else None,
        decode=to_bytes if _are_images(x) and not discrete else as_arrays,
    )


def class_labels(
    given: Sequence[NDArray[Any] | None], sizes: Sequence[int]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels of all parts as class numbers (N,), and the names of the classes.

    Whole numbers keep their meaning (the classes are 0..max), strings are numbered by the alphabet.

    Raises:
        ValueError: some parts lack labels, or labels are of another length or kind, or negative.
    """
    labels = [np.asarray(y) for y in given if y is not None]
    if not labels:
        return None, ()
    if (found := [y.shape for y in labels]) != [(n,) for n in sizes]:
        raise ValueError(f"labels: expected one a sample, {list(sizes)} samples, got shapes {found}")
    y = np.concatenate(labels)
    if y.dtype.kind in "US":
        names, y = np.unique(y, return_inverse=True)
        return y, tuple(map(str, names))
    if y.dtype.kind not in "iub":
        raise ValueError(f"labels: expected class numbers or strings, got {y.dtype}")
    if y.min() < 0 or y.max() >= max(len(y), 1000):
        raise ValueError(f"labels: expected class numbers 0, 1, ..., got {y.min()} to {y.max()}")
    return y.astype(np.int64), tuple(map(str, np.arange(int(y.max()) + 1)))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"x": content}
            return {key: content[key] for key in content.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            reason = "it holds Python objects, which are never unpickled; save plain numbers"
        else:
            reason = str(error)
        raise ValueError(f"array file {str(path)!r} cannot be read: {reason}") from error


def _parts(arrays: Mapping[str, NDArray[Any]], name: str) -> list[Part]:
    for splits in (("",), ("train", "test")):
        states = [_pick(arrays, _STATES, split) for split in splits]
        labels = [_pick(arrays, _LABELS, split) for split in splits]
        if not any(x is None for x in states):
            return [Part(x, y) for x, y in zip(states, labels, strict=True) if x is not None]
    if len(arrays) == 1:
        return [Part(next(iter(arrays.values())), None)]
    raise ValueError(
        f"array file {name!r}: no states among its arrays {', '.join(arrays) or '(none)'}; "
        f"name them {', '.join(_STATES)}, or x_train and x_test"
    )


def _pick(arrays: Mapping[str, NDArray[Any]], keys: Sequence[str], split: str) -> NDArray[Any] | None:
    names = [n for k in keys for n in ((f"{k}_{split}", f"{split}_{k}") if split else (k,))]
    return next((arrays[name] for name in names if name in arrays), None)


def _states(x: NDArray[Any], discrete: bool) -> NDArray[Any]:
    """Checked states in the type they are stored in: uint8, float32, or int64 for ids."""
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"x: expected samples (N, ...) with N >= 1, got shape {x.shape}")
    if discrete:
        if x.dtype.kind not in "iub" or x.min() < 0:
            raise ValueError(f"x: discrete states are whole numbers 0..K-1, got {x.dtype}")
        return x.astype(np.int64)
    if x.dtype.kind not in "iuf":
        raise ValueError(f"x: expected real numbers or bytes, got {x.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused below
        stored = x if x.dtype == np.uint8 else x.astype(np.float32 if x.dtype.kind == "f" else np.int64)
    finite = np.isfinite(stored).reshape(len(x), -1).all(1)
    if not finite.all():
        row, count = int(np.argmin(finite)), int((~finite).sum())
        raise ValueError(f"x: row {row} holds NaN or infinity ({count} such rows of {len(x)})")
    if x.ndim == 3:
        return stored[:, None]
    channels_last = x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS
    return np.ascontiguousarray(np.moveaxis(stored, 3, 1) if channels_last else stored)


def _joined(states: list[NDArray[Any]]) -> NDArray[Any]:
    if len({(x.shape[1:], x.dtype) for x in states}) > 1:
        found = ", ".join(f"{x.dtype} {x.shape}" for x in states)
        raise ValueError(f"x: train and test need one shape and type, got {found}")
    return np.concatenate(states)


def _are_images(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] in _CHANNELS


def _transform(
    x: Tensor, range: tuple[float, float] | None, discrete: bool
) -> Callable[[Tensor], Tensor] | None:
    """From stored numbers to states; None where nothing is to be done."""
    if discrete:
        return None
    if range is not None:
        low, high = range
        if not low < high:
            raise ValueError(f"range: expected (low, high) with low < high, got {range!r}")
        return lambda rows: (rows.to(torch.float32) - low) * (2 / (high - low)) - 1
    if x.dtype == torch.uint8:
        return from_bytes
    least, most = float(x.min()), float(x.max())
    if not x.is_floating_point():
        raise ValueError(
            f"x: integers in [{least:g}, {most:g}]; give discrete=True for ids 0..K-1, "
            "or range=(low, high) for values to be scaled to [-1, 1]"
        )
    if _are_images(x) and max(-least, most) > 1.001:
        raise ValueError(
            f"x: images in [{least:g}, {most:g}], expected [-1, 1]; give range=(low, high) to "
            "scale them, or range=(-1, 1) to leave them as they are"
        )
    return None

"""Data sets of the Hugging Face hub, or of a local folder in its layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.spec import suggest
from .arrays import Part, class_labels, from_parts
from .dataset import Dataset
from .folder import HELD_OUT_NAMES
from .image import image_dataset, open_header, picture_shape
from .partition import check_fraction, digests, held_out_mask

__all__ = ["hub_dataset", "is_hub_layout"]

_SUFFIXES = (".parquet", ".arrow")
_MARKS = ("dataset_dict.json", "dataset_info.json", "metadata.csv", "metadata.jsonl")


def is_hub_layout(folder: Path) -> bool:
    """Whether a folder holds parquet or arrow files, or the files that describe a data set."""
    files = folder.rglob("*")
    return any(file.suffix in _SUFFIXES or file.name in _MARKS for file in files)


def hub_dataset(
    name: str,
    column: str | None = None,
    label: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    range: tuple[float, float] | None = None,
    discrete: bool = False,
    held_out: float = 0.1,
) -> Dataset:
    """A data set id ("owner/name") of the Hugging Face hub, or a local folder in its layout.

    Its split "train" is trained on; "test" or "validation", where there is one, is held out. No
    code of a data set is ever run.

    Args:
        name: the id or the folder.
        column: the states; by default the column of images, or the one named "x" or "data".
        label: the labels; by default the column of class labels, or the one named "label".
        config: which configuration of the data set.
        revision: branch, tag or commit of the data set's repository.
        size: side of the square that images are cropped and resized to.
        channels: 1, 3 or 4 channels of images.
        range: for columns of numbers, the values that become -1 and 1.
        discrete: a column of numbers holds ids 0..K-1.
        held_out: fraction to hold out by class, where there is no second split.

    Raises:
        ImportError: the `datasets` package is missing.
        ValueError: no such data set, configuration or column, or its samples cannot be used.
    """
    check_fraction(held_out)
    datasets = _import_datasets()
    tables = _tables(datasets, name, config, revision)
    features = tables[0].features
    column = _state_column(datasets, features, column)
    label = _label_column(datasets, features, label)
    labels = [None if label is None else _array(table, label) for table in tables]
    if isinstance(features[column], datasets.Image):
        numbers, classes = class_labels(labels, [len(table) for table in tables])
        held = np.repeat([False, True][: len(tables)], [len(table) for table in tables])
        rows = _Pictures(datasets, name, tables, column)
        shape = rows.shape(size, channels)
        if len(tables) == 1:
            held = held_out_mask(
                digests(rows.read(row) for row, _ in enumerate(rows.names)), held_out, numbers
            )
        dataset = image_dataset(name, rows.read, rows.names, numbers, classes, held, shape)
    else:
        parts = [Part(_array(t, column), y) for t, y in zip(tables, labels, strict=True)]
        dataset = from_parts(name, parts, range, discrete, held_out)
    if label is not None and isinstance(features[label], datasets.ClassLabel):
        return dataclasses.replace(dataset, classes=tuple(features[label].names))
    return dataset


def _import_datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            'data sets of the Hugging Face hub need the package "datasets": pip install "ornstein[hub]"'
        ) from error
    return datasets


def _tables(datasets: ModuleType, name: str, config: str | None, revision: str | None) -> list[Any]:
    """The split to train on and, where there is one, the split to hold out."""
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            splits = datasets.load_from_disk(name)
        else:
            splits = datasets.load_dataset(name, config, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data set {name!r} could not be loaded: {error}") from error
    if isinstance(splits, datasets.Dataset):
        return [splits]
    train = "train" if "train" in splits else next(iter(splits))
    second = next((s for s in HELD_OUT_NAMES if s in splits and s != train), None)
    return [splits[split] for split in (train, second) if split is not None]


def _state_column(datasets: ModuleType, features: Any, column: str | None) -> str:
    if column is not None:
        return _known(column, features)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    found = images or [name for name in ("x", "image", "images", "data") if name in features]
    if not found:
        raise ValueError(f"column: none holds images; give one of {', '.join(map(repr, features))}")
    return found[0]


def _label_column(datasets: ModuleType, features: Any, label: str | None) -> str | None:
    if label is not None:
        return _known(label, features)
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in ("label", "labels", "y") if name in features]
    return next(iter(named or typed), None)


def _known(column: str, features: Any) -> str:
    if column not in features:
        raise ValueError(suggest(column, features, "column"))
    return column


def _array(table: Any, column: str) -> NDArray[Any]:
    try:
        return np.asarray(table[column][:])
    except ValueError as error:
        raise ValueError(f"column {column!r} is not an array of one shape: {error}") from error


class _Pictures:
    """The encoded pictures of one column, of all splits one after another."""

    def __init__(self, datasets: ModuleType, name: str, tables: list[Any], column: str) -> None:
        table = datasets.concatenate_datasets(tables).select_columns([column])
        self._rows = table.cast_column(column, datasets.Image(decode=False))
        self._column = column
        self.names = [f"{name}[{row}]" for row in range(len(table))]

    def read(self, row: int) -> bytes:
        """The bytes as they are stored, in the table or in the file that it points to."""
        picture = self._rows[row][self._column]
        if picture is None:
            raise ValueError(f"image {self.names[row]!r} is missing")
        return picture["bytes"] or Path(picture["path"]).read_bytes()

    def shape(self, size: int | None, channels: int | None) -> tuple[int, int, int]:
        headers = [open_header(self.read(row), name) for row, name in enumerate(self.names)]
        return picture_shape(headers, self.names, size, channels)

"""Learning a codec, and encoding a data set with it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Objective, tree_map
from ornstein.data import Dataset, Split
from ornstein.denoisers import Reconstructor
from ornstein.denoisers.files import WEIGHTS, read_tensors, save_model
from ornstein.objectives import Reconstruction

from .fit import fit
from .run import Run
from .source import dataset

__all__ = ["by_parts", "encoded", "encoded_split", "fit_codec"]

ROWS = 1024  # encoded at a time, and calibrated on
SHOWN = 32  # samples of a sheet


def fit_codec(
    codec: Any, data: Any, objective: Objective | None = None, *, steps: int, **options: Any
) -> Run:
    """Train a codec in the one training loop, and calibrate its scale.

    Args:
        codec: such as `spaces.AutoencoderCodec(networks.Autoencoder(1, factor=4))`.
        data: a data set, or the name or path of one.
        objective: default `objectives.Reconstruction()`; its classifier, if it has one, should not be the one that
            later judges.
        steps: how many batches are seen.
        **options: those of `fit`: out, batch, learning_rate, seed, ... Sheets show held-out samples, each followed by
            its reconstruction.

    Returns:
        The run of a `denoisers.Reconstructor`. `run.denoiser.codec`, which `orn.load(run.folder).codec` reads from the
        folder, has averaged weights, is in evaluation mode and frozen, and its latents of these data have unit
        variance.
    """
    data = dataset(data)
    model, options = Reconstructor(codec, data.shape), {"draw": _pairs(data), **options}
    run = fit(model, data, objective or Reconstruction(), steps=steps, **options)
    learned: Any = run.denoiser
    learned.codec.eval().requires_grad_(False)
    first = data.train.batch(torch.arange(min(ROWS, len(data.train))))["x_0"]
    learned.codec.calibrate(first.to(_device(learned.codec)))
    _keep(learned, run.folder / "model")
    return run


def _keep(model: Reconstructor, folder: Path) -> None:
    """Write a model again whose codec has been calibrated since."""
    last = folder / WEIGHTS["raw"]
    raw = {**read_tensors(last), "codec.scale": model.codec.scale.cpu()} if last.exists() else None
    save_model(model, folder, raw=raw, strict=False)


def _pairs(data: Dataset) -> Callable[[Any], Tensor]:
    """What a sheet of a codec shows: samples of the held-out split, each followed by its reconstruction."""
    split = data.held_out if len(data.held_out) else data.train

    def draw(model: Any) -> Tensor:
        x = split.batch(torch.arange(min(SHOWN, len(split))))["x_0"]
        x = x.to(_device(model))
        return torch.stack([x, model(x, 0.0).mean], 1).flatten(0, 1)

    return draw


def encoded(data: Dataset, codec: Any) -> Dataset:
    """The data set in the codec's space: states are encoded once, fields, texts and what is shown of samples stay.

    Data are encoded where the codec lies, so many at a time, and codes are kept where the data lie. Fields are those of
    the data, read when a batch is.

    Train on it with `spaces.Encoded(process, codec)`: such a model learns codes, and its samples are data.
    """
    splits: dict[str, Any] = {
        name: encoded_split(getattr(data, name), codec) for name in ("train", "held_out")
    }
    return dataclasses.replace(data, **splits, shape=tuple(splits["train"].codes.shape[1:]))


def encoded_split(split: Split, codec: Any) -> Split:
    """One split as `encoded` has it."""
    return _Codes(split, *by_parts(split, codec, lambda record, rows: (codec.encode(record["x_0"]),)))


@torch.no_grad()
def by_parts(
    split: Split, codec: Any, make: Callable[[dict[str, Any], Tensor], tuple[Tensor, ...]]
) -> list[Tensor]:
    """What `make` makes of the samples and their indices, so many at a time: where the codec lies, then joined where
    the data lie.
    """
    parts, place = [], _device(codec)
    for rows in torch.arange(len(split)).split(ROWS):
        record = split.batch(rows)
        moved = tree_map(lambda v: v.to(place), record)
        parts.append([made.to(record["x_0"].device) for made in make(moved, rows)])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


class _Codes(Split):
    """A split whose states (N, ...) are codes; the rest is the split's own."""

    def __init__(self, split: Split, codes: Tensor) -> None:
        self.split, self.codes, self.fields = split, codes, split.fields

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def texts(self) -> Sequence[str] | None:
        return self.split.texts

    @property
    def twin_texts(self) -> Sequence[str] | None:
        """As of scenes with twins."""
        return getattr(self.split, "twin_texts", None)

    def _states(self, indices: Tensor) -> Tensor:
        return self.codes[indices]

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        return self.split.conditions(indices)


def _device(module: Any) -> torch.device:
    """Where a module lies; the CPU if it holds nothing."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next(tensors, torch.empty(0)).device

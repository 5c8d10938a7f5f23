"""Learning a codec, and encoding a data set with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.data import Dataset, Split, TensorSplit
from ornstein.denoisers import Reconstructor
from ornstein.objectives import Reconstruction

from .fit import fit
from .source import dataset

__all__ = ["encoded", "fit_codec"]

ROWS = 1024  # encoded at a time, and calibrated on


def fit_codec(
    codec: Any, data: Any, *, steps: int, classifier: nn.Module | None = None, **options: Any
) -> Any:
    """Train a codec by `objectives.Reconstruction` in the one training loop, and calibrate its scale.

    The run folder's model is a `denoisers.Reconstructor`, whose `codec` is as trained, before the calibration.

    Args:
        codec: such as `spaces.AutoencoderCodec(networks.Autoencoder(1, factor=4))`.
        data: a data set, or the name or path of one.
        steps: how many batches are seen.
        classifier: whose features are compared beside the pixels; it should not be the one that later judges.
        **options: those of `fit`: out, batch, learning_rate, seed, ...

    Returns:
        The codec with averaged weights, in evaluation mode and frozen.
    """
    data = dataset(data)
    objective = Reconstruction(classifier)
    model = Reconstructor(codec, data.shape)
    run = fit(model, data, objective, steps=steps, sample_every=0, **options)
    learned: Any = run.denoiser
    first = data.train.batch(torch.arange(min(ROWS, len(data.train))))["x_0"]
    return learned.codec.eval().requires_grad_(False).calibrate(first)


def encoded(data: Dataset, codec: Any) -> Dataset:
    """The data set in the codec's space: states are encoded once, fields and what is shown of samples stay.

    Train on it with `spaces.Encoded(process, codec)`: such a model learns codes, and its samples are data.
    """
    splits: dict[str, Any] = {
        name: _encoded_split(getattr(data, name), codec) for name in ("train", "held_out")
    }
    with torch.no_grad():
        shape = tuple(_codes(data.train, torch.arange(1), codec).shape[1:])
    return dataclasses.replace(data, **splits, shape=shape)


def _encoded_split(split: Split, codec: Any) -> TensorSplit:
    with torch.no_grad():
        parts = [_codes(split, rows, codec) for rows in torch.arange(len(split)).split(ROWS)]
    return TensorSplit(torch.cat(parts), dict(split.fields))


def _codes(split: Split, rows: Tensor, codec: Any) -> Tensor:
    codes: Tensor = codec.encode(split.batch(rows)["x_0"])
    return codes

"""The order in which samples are seen, as a function of the step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dataset import Split

__all__ = ["Batches"]


class Batches:
    """Endless batches of a split; batch k is a pure function of (seed, k).

    Nothing is remembered between batches, so training that restarts at step k sees what it would
    have seen. Each epoch is a new permutation of all samples; a batch at an epoch's end goes on
    into the next.

    Args:
        split: where samples come from.
        batch: samples a batch; it may exceed the split's size.
        seed: a non-negative integer.

    Raises:
        ValueError: the split is empty, or `batch` or `seed` is out of range.
    """

    def __init__(self, split: Split, batch: int, seed: int = 0) -> None:
        if len(split) == 0:
            raise ValueError("split: expected at least one sample, got an empty split")
        if batch < 1:
            raise ValueError(f"batch: expected at least 1 sample, got {batch}")
        if seed < 0:
            raise ValueError(f"seed: expected a non-negative integer, got {seed}")
        self.split, self.batch, self.seed = split, batch, seed

    def indices(self, step: int) -> Tensor:
        """Indices (batch,) of the samples of step `step` = 0, 1, ..."""
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        size = len(self.split)
        epochs, places = np.divmod(step * self.batch + np.arange(self.batch), size)
        orders = {epoch: _permutation(size, self.seed, int(epoch)) for epoch in np.unique(epochs)}
        return torch.tensor([orders[e][p] for e, p in zip(epochs, places, strict=True)])

    def __getitem__(self, step: int) -> dict[str, Any]:
        return self.split.batch(self.indices(step))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[step] for step in itertools.count())


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(size)

"""Batches as a function of the step: which samples, in which order, with which noise."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import ChainMap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Denoiser, Keyed, Noise, Tree, leaves, select, tree_map
from ornstein.data import Batches, Split, load

from .lesson import Given

__all__ = ["Source", "dataset", "tokenised", "tokenised_split"]


def dataset(data: Any) -> Any:
    """The data set itself, or the one of that name or path."""
    if isinstance(data, str | os.PathLike):
        return load(data)
    if not all(hasattr(data, part) for part in ("name", "train", "held_out")):
        raise TypeError(f"data: expected a name, a path or a Dataset, got {type(data).__name__}")
    return data


def tokenised(data: Any, denoiser: Denoiser) -> Any:
    """The data set with ids of its texts as the field "text", where the denoiser reads it and the data have texts; and
    of its `twin_texts` as "twin_text".

    The denoiser's own tokeniser makes them, of all texts at once; a field "text" that is there already stays.
    """
    splits: dict[str, Any] = {
        name: tokenised_split(getattr(data, name), denoiser) for name in ("train", "held_out")
    }
    return dataclasses.replace(data, **splits)


def tokenised_split(split: Any, denoiser: Denoiser) -> Any:
    """One split as `tokenised` has it."""
    texts = _texts(split)
    if not texts or "text" not in getattr(denoiser, "fields", ()) or "text" in split.fields:
        return split
    return _Tokenised(split, {field: denoiser.tokenise("text", said) for field, said in texts.items()})


def _texts(split: Any) -> dict[str, Sequence[str]]:
    """What a split says in words, by the field of the ids."""
    found = {field: getattr(split, f"{field}s", None) for field in ("text", "twin_text")}
    return {field: texts for field, texts in found.items() if texts is not None}


class _Tokenised(Split):
    """A split with the ids (N, L) of its texts as further fields."""

    def __init__(self, split: Split, ids: dict[str, Tensor]) -> None:
        self.split, self.ids = split, ids
        self.fields: Any = ChainMap(ids, split.fields)  # the split's own may be made as they are read

    def __len__(self) -> int:
        return len(self.split)

    @property
    def texts(self) -> Sequence[str] | None:
        return self.split.texts

    def _states(self, indices: Tensor) -> Tree:
        return self.split._states(indices)

    def batch(self, indices: Tensor) -> dict[str, Any]:
        record = self.split.batch(indices)
        return {**record, "fields": {**record["fields"], **select(self.ids, indices)}}

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        return {**self.split.conditions(indices), **select(self.ids, indices)}


class Source:
    """What each step sees: samples `Batches(train, batch, seed)` chooses, noise keyed by (seed, step, row).

    Nothing is remembered from step to step, so a run goes on at step k as if it had never stopped, and the
    rows of a batch are the same however they are shared out among processes.

    Args:
        data: a data set.
        batch: samples a step, of all processes together.
        seed: of the order and of the noise.
        accepted: names of the fields that become the condition.
        device: where batches go.
        rank: number of this process.
        processes: how many share a batch.

    Raises:
        ValueError: the batch cannot be shared out equally, or the data set is empty.
    """

    def __init__(
        self,
        data: Any,
        batch: int,
        seed: int,
        accepted: frozenset[str] = frozenset(),
        device: torch.device | str = "cpu",
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch % processes:
            raise ValueError(f"batch: {batch} samples cannot be shared equally by {processes} processes")
        self.split, self.accepted, self.device = data.train, accepted, torch.device(device)
        self.order = Batches(data.train, batch, seed)
        share = batch // processes
        self.rows = slice(rank * share, (rank + 1) * share)
        self.keys = Keyed(seed, torch.arange(batch)[self.rows]).fold("training")

    def given(self, start: int, stop: int, workers: int = 0) -> Iterator[Given]:
        """The batches of steps `start` ... `stop` - 1, read ahead by `workers` processes if there are any."""
        steps = range(start, stop)
        records = _read_ahead(self, steps, workers) if workers else map(self.read, steps)
        for step, record in zip(steps, records, strict=True):
            yield Given(record_of(record, self.accepted, self.device), self.noise(step))

    def read(self, step: int) -> dict[str, Any]:
        """The samples of one step, as the split gives them."""
        return self.split.batch(self.order.indices(step)[self.rows])

    def noise(self, step: int) -> Noise:
        """The noise of one step."""
        return self.keys.fold(step)

    def digest(self) -> str:
        """A fingerprint of the first samples, by which a resumed run knows its data again."""
        found = self.split.batch(torch.arange(min(16, len(self.split))))
        digest = hashlib.blake2b(digest_size=8)
        for leaf in leaves((found["x_0"], dict(sorted(found["fields"].items())))):
            digest.update(leaf.contiguous().numpy().tobytes())
        return digest.hexdigest()


def record_of(record: dict[str, Any], accepted: frozenset[str], device: torch.device) -> dict[str, Any]:
    """{"x_0", "condition"} on the device; fields that nothing reads are left out."""
    fields = {k: v for k, v in record["fields"].items() if k in accepted}
    condition = Condition(_moved(fields, device)) if fields else None
    return {"x_0": _moved(record["x_0"], device), "condition": condition}


def _moved(tree: Tree, device: torch.device) -> Tree:
    return tree if device.type == "cpu" else tree_map(lambda v: _to(v, device), tree)


def _to(value: Tensor, device: torch.device) -> Tensor:
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


class _Steps(torch.utils.data.Dataset[dict[str, Any]]):
    """A source as a map from step to samples, for torch's worker processes."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, step: int) -> dict[str, Any]:
        return self.source.read(step)


def _read_ahead(source: Source, steps: range, workers: int) -> Iterator[dict[str, Any]]:
    options: dict[str, Any] = {"batch_size": None, "num_workers": workers, "collate_fn": _as_it_is}
    return iter(torch.utils.data.DataLoader(_Steps(source), sampler=steps, **options))


def _as_it_is(record: dict[str, Any]) -> dict[str, Any]:
    return record

"""A data set: two splits of samples, what a sample is, and how to show one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.tree import Tree, batch_size, select, tree_map

__all__ = ["Dataset", "Split", "TensorSplit", "as_arrays"]


class Split(ABC):
    """Samples that are read by index.

    Attributes:
        fields: named conditions of all samples, each (N, ...), e.g. {"label": LongTensor (N,)}.
    """

    fields: dict[str, Tensor]

    @property
    def texts(self) -> Sequence[str] | None:
        """N strings that say what the samples are, or None; training makes a field "text" of ids of them."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples N."""

    @abstractmethod
    def _states(self, indices: Tensor) -> Tree:
        """The states (B, ...) at `indices`."""

    @property
    def x_0(self) -> Tree:
        """All N states at once; a split of files decodes every one of them."""
        return self._states(torch.arange(len(self)))

    def batch(self, indices: Tensor) -> dict[str, Any]:
        """The samples at `indices` (B,): {"x_0": state (B, ...), "fields": {name: (B, ...)}}.

        Raises:
            IndexError: an index is outside [0, N).
        """
        indices = torch.as_tensor(indices, dtype=torch.long)
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"indices: expected values in [0, {len(self)}), got {indices.tolist()}")
        return {"x_0": self._states(indices), "fields": self.conditions(indices)}

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """The fields at `indices` (B,), {name: (B, ...)}: `batch` without its states."""
        fields: dict[str, Tensor] = select(self.fields, indices)
        return fields


class TensorSplit(Split):
    """Samples held in memory.

    Args:
        stored: the states (N, ...) or a tree of them, in the form they are kept in.
        fields: named conditions (N, ...).
        transform: from stored rows to states, e.g. bytes to [-1, 1]; None where they are the same.
        texts: N strings, see `Split`.
    """

    def __init__(
        self,
        stored: Tree,
        fields: dict[str, Tensor] | None = None,
        transform: Callable[[Tree], Tree] | None = None,
        texts: Sequence[str] | None = None,
    ) -> None:
        self.fields, self._texts = dict(fields or {}), texts
        self._stored = stored
        self._transform = transform
        sizes = {"x_0": batch_size(stored), **{k: len(v) for k, v in self.fields.items()}}
        sizes |= {} if texts is None else {"texts": len(texts)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"fields: every field needs one row a sample, got {sizes}")

    def __len__(self) -> int:
        return batch_size(self._stored)

    @property
    def texts(self) -> Sequence[str] | None:
        """As they were given."""
        return self._texts

    def _states(self, indices: Tensor) -> Tree:
        rows = select(self._stored, indices)
        return self._transform(rows) if self._transform else rows


def as_arrays(x: Tree) -> Tree:
    """States as NumPy arrays, leaf by leaf."""
    return tree_map(lambda leaf: leaf.detach().cpu().numpy(), x)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Samples to learn from and samples to be judged by.

    Attributes:
        name: what it was loaded as.
        train: the split to train on.
        held_out: the split never trained on; it may be empty.
        shape: event shape of a state, without the batch; a tree where the state is one.
        classes: names of the label's values, empty where there is no label.
        categories: number of values K of a discrete state's ids, None for a continuous one; a tree
            where the state is one.
        decode: from states (B, ...) to what is shown: uint8 images (B, H, W, C), words, or arrays.
        options: what the loader was asked for, so that a run can be repeated from its record.

    Raises:
        ValueError: the split to train on is empty.
    """

    name: str
    train: Split
    held_out: Split
    shape: Tree
    classes: tuple[str, ...] = ()
    categories: Tree = None
    decode: Callable[[Tree], Any] = as_arrays
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.train):
            raise ValueError(f"data {self.name!r}: no samples are left to train on")

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, train={len(self.train)}, held_out={len(self.held_out)}, "
            f"shape={self.shape}, classes={len(self.classes)})"
        )

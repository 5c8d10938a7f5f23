"""Keys and values of tokens already seen: a value that its owner keeps, never state of a network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["KVCache", "Slot"]


class Slot:
    """One block's part of a cache during one pass.

    Args:
        keys: (B, heads, L, d) of earlier tokens, or None.
        values: of the same shape, or None.
        grows: whether the tokens of this pass stay.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, grows: bool = False) -> None:
        self.keys, self.values, self.grows = keys, values, grows

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Earlier and present keys and values, in this order."""
        if self.keys is not None and self.values is not None:
            keys, values = (torch.cat(v, dim=2) for v in ((self.keys, keys), (self.values, values)))
        if self.grows:
            self.keys, self.values = keys, values
        return keys, values


class KVCache(NamedTuple):
    """Keys and values of all blocks: a tree with the batch in front, so that it lies in a run's memory as it is.

    It is a value: `append` gives a new one and leaves the old one valid, so that runs can branch.
    """

    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.keys[0].shape[2] if self.keys else 0

    def read(self, blocks: int, grows: bool = False) -> list[Slot]:
        """A slot for each of `blocks` blocks; those of an empty cache are empty."""
        if not self.keys:
            return [Slot(grows=grows) for _ in range(blocks)]
        return [Slot(k, v, grows) for k, v in zip(self.keys, self.values, strict=True)]

    @classmethod
    def append(cls, slots: list[Slot]) -> KVCache:
        """The cache after a pass through slots that grow."""
        keys, values = [s.keys for s in slots], [s.values for s in slots]
        return cls(tuple(k for k in keys if k is not None), tuple(v for v in values if v is not None))

    def fork(self, copies: int) -> KVCache:
        """Every row `copies` times, one after the other: rows 0, 0, ..., 1, 1, ..."""
        return KVCache(*(tuple(v.repeat_interleave(copies, 0) for v in side) for side in self))

    def reorder(self, index: Tensor) -> KVCache:
        """The rows `index`."""
        return KVCache(*(tuple(v[index] for v in side) for side in self))

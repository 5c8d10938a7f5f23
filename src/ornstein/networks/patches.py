"""Arrays of 1, 2 or 3 axes as sequences of patches, and as blocks of patches."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Blocks", "folded", "from_patches", "per_axis", "to_patches", "unfolded"]


def per_axis(given: int | Sequence[int], dims: int, name: str) -> tuple[int, ...]:
    """One positive size for each axis.

    Raises:
        ValueError: another number of them, or one that is not positive.
    """
    sizes = tuple(given) if isinstance(given, Sequence) else (given,) * dims
    if len(sizes) != dims or any(not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(f"{name}: expected a positive integer or {dims} of them, got {given!r}")
    return sizes


def to_patches(x: Tensor, patch: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """(B, C, *size) -> patches (B, L, C prod(patch)), the last axis fastest, and how many lie along each axis.

    A size that is no multiple of the patch is filled up with zeros at its end.
    """
    gaps = [-n % p for n, p in zip(x.shape[2:], patch, strict=True)]
    if any(gaps):
        x = F.pad(x, [v for gap in reversed(gaps) for v in (0, gap)])
    sizes = tuple(n // p for n, p in zip(x.shape[2:], patch, strict=True))
    split = x.reshape(*x.shape[:2], *(v for pair in zip(sizes, patch, strict=True) for v in pair))
    dims = len(patch)
    order = [0, *(2 + 2 * i for i in range(dims)), 1, *(3 + 2 * i for i in range(dims))]
    return split.permute(order).reshape(len(x), prod(sizes), -1), sizes


def from_patches(tokens: Tensor, patch: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The inverse: patches to (B, C, *shape), what was filled up cut off."""
    dims = len(patch)
    split = tokens.reshape(len(tokens), *sizes, -1, *patch)
    order = [0, dims + 1, *(v for i in range(dims) for v in (1 + i, dims + 2 + i))]
    whole = split.permute(order)
    x = whole.reshape(*whole.shape[:2], *(n * p for n, p in zip(sizes, patch, strict=True)))
    for axis, n in enumerate(shape):
        x = x.narrow(2 + axis, 0, n)
    return x


def folded(x: Tensor, patch: int) -> Tensor:
    """(B, C, *size) -> (B, C patch^dims, *size / patch): squares of pixels as channels; zeros fill up sizes."""
    if patch == 1:
        return x
    tokens, sizes = to_patches(x, (patch,) * (x.ndim - 2))
    return tokens.transpose(1, 2).reshape(len(x), -1, *sizes)


def unfolded(x: Tensor, patch: int, shape: Sequence[int]) -> Tensor:
    """The inverse: (B, C patch^dims, *size / patch) -> (B, C, *shape), what was filled up cut off."""
    if patch == 1:
        return x
    return from_patches(x.flatten(2).transpose(1, 2), (patch,) * len(shape), x.shape[2:], shape)


class Blocks:
    """An array (C, *size) cut into blocks that come one after the other, the last axis fastest.

    Squares of an image, frames of a film (a grid of (frames, 1, 1)), windows of a signal. A time for every block is a
    tensor (B, T) or, aligned with the state, a map (B, 1, *size) that is constant in every block.

    Args:
        size: of the array.
        grid: blocks along each axis, divisors of the size.

    Raises:
        ValueError: a grid that does not divide the size.
    """

    def __init__(self, size: Sequence[int], grid: int | Sequence[int]) -> None:
        self.size, self.grid = tuple(size), per_axis(grid, len(size), "grid")
        if any(n % g for n, g in zip(self.size, self.grid, strict=True)):
            raise ValueError(f"grid: expected divisors of the size {self.size}, got {self.grid}")
        self.block = tuple(n // g for n, g in zip(self.size, self.grid, strict=True))
        self.count = prod(self.grid)

    def cut(self, x: Tensor) -> Tensor:
        """(B, C, *size) -> (B, T, C, *block)."""
        return to_patches(x, self.block)[0].unflatten(-1, (x.shape[1], *self.block))

    def join(self, blocks: Tensor) -> Tensor:
        """The inverse of `cut`."""
        return from_patches(blocks.flatten(2), self.block, self.grid, self.size)

    def spread(self, times: Tensor) -> Tensor:
        """Times (B, T) as a map (B, 1, *size)."""
        return self.join(
            times.reshape(*times.shape, *(1,) * (1 + len(self.size))).expand(-1, -1, 1, *self.block)
        )

    def times(self, t: float | Tensor) -> Tensor:
        """The time of every block, (B, T) or (1, T), in float64: of a number, of numbers (B,), or of a map.

        Raises:
            ValueError: a tensor of another shape.
        """
        given = torch.as_tensor(t, dtype=torch.float64)
        if given.ndim <= 1:
            return given.reshape(-1, 1).expand(-1, self.count)
        if given.shape[1:] != (1, *self.size):
            raise ValueError(f"t: expected a number, (B,), or (B, 1, {self.size}), got {tuple(given.shape)}")
        return self.cut(given).flatten(2)[..., 0]

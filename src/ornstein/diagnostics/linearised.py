"""The Jacobian of a map at a point as a linear operator: products with it and its transpose, and no matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core import Keyed
from ornstein.processes.divergence import pulled

__all__ = ["Linearised", "Singular", "leading"]

SPARE = 4  # directions iterated beyond those asked for: they make the last of those converge


class Linearised:
    """J = d f / d x at `x`, for a map (B, ...) -> (B, ...) whose rows do not depend on each other.

    The map is run once; every product is one reverse sweep through what it left. J u is the derivative in v of J^T v,
    which is linear in v: so networks need second derivatives but no rules of forward-mode differentiation (which
    fused attention lacks; here it runs unfused).

    Attributes:
        x: the point.
        value: f(x).
    """

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self.x = x.detach().clone().requires_grad_()
            self.value = f(self.x)
            self._slot = torch.zeros_like(self.value).requires_grad_()
        self._row: Tensor | None = None

    def pull(self, v: Tensor) -> Tensor:
        """J^T v for v like the value; for (M, B, ...) of each of M vectors."""
        return pulled(self.value, self.x, v, False, batched=v.ndim > self.value.ndim)

    def push(self, u: Tensor) -> Tensor:
        """J u for u like x; for (M, B, ...) of each of M vectors."""
        if self._row is None:
            with torch.enable_grad():
                self._row = pulled(self.value, self.x, self._slot, True, batched=False)
        return pulled(self._row, self._slot, u, False, batched=u.ndim > self.x.ndim)

    def matrix(self, rows: Tensor | None = None, chunk: int = 64) -> Tensor:
        """J itself, (B, outputs, inputs) over flattened events; or only the rows of these output coordinates.

        All of it costs the smaller of as many sweeps as there are outputs, and as there are inputs.
        """
        size, inputs = self.value[0].numel(), self.x[0].numel()
        if rows is None and inputs < size:
            unit = torch.eye(inputs).to(self.x.detach())
            vectors = unit.reshape(-1, 1, *self.x.shape[1:]).expand(-1, *self.x.shape)
            columns = [self.push(some).flatten(2) for some in vectors.split(chunk)]
            return torch.cat(columns).permute(1, 2, 0)
        index = torch.arange(size, device=self.value.device) if rows is None else rows
        found = []
        for some in index.split(chunk):
            unit = torch.nn.functional.one_hot(some, size).to(self.value)
            vectors = unit.reshape(-1, 1, *self.value.shape[1:]).expand(-1, *self.value.shape)
            found.append(self.pull(vectors).flatten(2))
        return torch.cat(found).movedim(0, 1)


class Singular(NamedTuple):
    """The leading singular values (B, r), descending, of a Jacobian, with its left directions (B, r, *outputs) and
    right ones (B, r, *inputs), orthonormal in each row.
    """

    values: Tensor
    left: Tensor
    right: Tensor


def leading(linear: Linearised, rank: int, iterations: int = 20, seed: int = 0) -> Singular:
    """The `rank` largest singular triples by subspace iteration (Halko, Martinsson and Tropp 2009, 0909.4061).

    Errors of the values fall as (value_{rank + 5} / value_rank)^(4 iterations); of no more than four directions
    beyond the rank, they are exact at once.

    Args:
        linear: the operator.
        rank: how many.
        iterations: products with J^T J, of rank + 4 directions each.
        seed: of the first directions, by row.

    Raises:
        ValueError: a rank or a number of iterations out of range.
    """
    size = min(linear.x[0].numel(), linear.value[0].numel())
    if not 1 <= rank <= size or iterations < 1:
        raise ValueError(
            f"rank, iterations: expected 1 to {size} and at least 1, got {rank} and {iterations}"
        )
    width = min(rank + SPARE, size)
    right = _orthonormal(Keyed(seed, len(linear.x)).normal(linear.x.detach(), (width,)))
    for _ in range(iterations if width < size else 1):
        right = _orthonormal(linear.pull(_orthonormal(linear.push(right))))
    u, values, turn = torch.linalg.svd(_columns(linear.push(right)), full_matrices=False)
    v = _columns(right) @ turn.mT
    left, right = (
        m.mT[:, :rank].reshape(len(m), rank, *like.shape[1:])
        for m, like in ((u, linear.value), (v, linear.x))
    )
    return Singular(values[:, :rank], left, right)


def _columns(directions: Tensor) -> Tensor:
    """(r, B, ...) as matrices (B, D, r)."""
    return directions.flatten(2).permute(1, 2, 0)


def _orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal directions of the same span, row by row."""
    turned = torch.linalg.qr(_columns(directions))[0].permute(2, 0, 1)
    return turned.reshape(directions.shape)

"""States are trees: a Tensor, or a dict / NamedTuple of them, with the batch in front.

`combine` is the one arithmetic of the core. Solvers are sums of such terms, so a tensor state pays one
multiply and one in-place add a term, and nothing for the existence of trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Time",
    "Tree",
    "accumulate",
    "align",
    "batch_size",
    "cat",
    "combine",
    "leaf_time",
    "leaves",
    "scaled",
    "select",
    "sum_event",
    "tree_map",
]

Tree = Any  # a Tensor, or a dict / NamedTuple / tuple of them, batch in front
Time = Any  # float | Tensor aligned from the left with its leaf | tree of them


def tree_map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`f` on every leaf of `tree` (and the same leaves of `rest`); None is an empty tree."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: tree_map(f, v, *(r[k] for r in rest)) for k, v in tree.items()}
    if isinstance(tree, tuple):
        mapped = [tree_map(f, *parts) for parts in zip(tree, *rest, strict=True)]
        return type(tree)(*mapped) if hasattr(tree, "_fields") else tuple(mapped)
    return f(tree, *rest)


def leaves(tree: Tree) -> list[Any]:
    """All leaves in order."""
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


def batch_size(tree: Tree) -> int:
    """Number of samples, read from the first leaf."""
    for leaf in leaves(tree):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    raise ValueError("state: expected a Tensor, or a dict of Tensors, with the batch in front")


def select(tree: Tree, index: Any) -> Tree:
    """The rows `index` of every leaf; numbers and 0-d tensors, shared by all rows, stay."""
    return tree_map(lambda x: x[index] if isinstance(x, Tensor) and x.ndim else x, tree)


def cat(trees: Sequence[Tree]) -> Tree:
    """Trees of equal structure joined along the batch."""
    return tree_map(lambda *xs: torch.cat(xs), *trees)


def align(t: Any, x: Tensor) -> Any:
    """Give a time-like tensor trailing axes, so that it broadcasts from the left against `x`.

    Numbers and 0-d tensors pass. The result has the dtype of a floating `x`, so that coefficients made
    in float64 do not promote a float32 state.
    """
    if not isinstance(t, Tensor) or t.ndim == 0:
        return t
    t = t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim < x.ndim else t
    return t.to(x.dtype) if x.is_floating_point() and t.is_floating_point() else t


def combine(a: Time, x: Tree, b: Time, y: Tree) -> Tree:
    """a x + b y; exactly `x` where a = 1 and b = 0."""
    if not isinstance(x, Tensor):
        ab = [c if isinstance(c, dict | tuple) else tree_map(lambda _, c=c: c, x) for c in (a, b)]
        return tree_map(combine, *(tree for pair in zip(ab, (x, y), strict=True) for tree in pair))
    if isinstance(a, float):
        if a == 1.0:
            return accumulate(x, b, y, inplace=False)
        return accumulate(torch.mul(x, a), b, y)
    return accumulate(x * align(a, x), b, y)


def scaled(a: Time, x: Tree) -> Tree:
    """a x."""
    if not isinstance(x, Tensor):
        return tree_map(scaled, a, x) if isinstance(a, dict | tuple) else tree_map(lambda x: scaled(a, x), x)
    return torch.mul(x, align(a, x))


def accumulate(x: Tree, b: Time, y: Tree, inplace: bool = True) -> Tree:
    """x + b y. By default in the memory of `x`, which must be a temporary of the caller's."""
    if not isinstance(x, Tensor):
        b = b if isinstance(b, dict | tuple) else tree_map(lambda _: b, x)
        return tree_map(lambda x, b, y: accumulate(x, b, y, inplace), x, b, y)
    if isinstance(b, float):
        if b == 0.0:
            return x
        if inplace and y.ndim <= x.ndim:
            return x.add_(y, alpha=b)
        return torch.add(x, y, alpha=b)
    return x + align(b, y) * y


def leaf_time(time: Time, name: str) -> Time:
    """The time of one leaf of a tree state: its own, or the one that all share."""
    return time[name] if isinstance(time, dict) else time


def sum_event(x: Tensor) -> Tensor:
    """Sum over all axes but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x

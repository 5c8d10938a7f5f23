"""The divergence of a vector field by automatic differentiation: exactly, or by random probes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ornstein.core import Noise, Space, suggest

__all__ = ["ESTIMATORS", "divergence", "gradient", "probes_of", "pulled"]

Draw = Callable[[Space, Tensor, Noise, int], Tensor]

ESTIMATORS: dict[str, Draw | None] = {
    "exact": None,
    "hutchinson": lambda space, x, noise, count: noise.uniform(x, (count,)).sub_(0.5).sign_(),
    "skilling": lambda space, x, noise, count: space.randn(x, noise, (count,)),
}


def probes_of(estimator: str, space: Space, x: Tensor, noise: Noise, count: int) -> Tensor | None:
    """Directions e with E[e e^T] = I, (count, B, ...): signs for "hutchinson" (1990), normal numbers of the space
    for "skilling" (1989); None for "exact".

    Raises:
        ValueError: unknown estimator, a count below 1, or signs and exact sums asked for outside Euclidean space,
            whose directions they do not respect.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(suggest(estimator, ESTIMATORS, "estimator"))
    if estimator != "skilling" and type(space) is not Space:
        raise ValueError(
            f"estimator {estimator!r}: sums over all coordinates, but states live in {space!r}; use 'skilling', "
            "whose probes are the space's own noise"
        )
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"probes: expected an integer of at least 1, got {count!r}")
    draw = ESTIMATORS[estimator]
    return None if draw is None else draw(space, x, noise, count)


def divergence(
    value: Tensor, x: Tensor, probes: Tensor | None = None, *, chunk: int = 64, create_graph: bool = False
) -> Tensor:
    """sum_i d value_i / d x_i, (1, B); or for every probe e its unbiased estimate e^T (d value / d x) e, (M, B).

    The graph of `value` is kept. Rows must not depend on each other.

    Args:
        value: f(x), with the graph that leads to `x`; (B, ...).
        x: (B, ...), which requires a gradient.
        probes: (M, B, ...), see `probes_of`; None is the exact sum.
        chunk: vector-Jacobian products taken at once: memory against speed; 1 for networks that cannot be batched so.
        create_graph: to differentiate through the result.
    """
    chunk = 1 if create_graph else chunk  # torch batches no second derivatives through interpolation
    if probes is not None:
        return torch.cat([_quadratic(value, x, some, create_graph) for some in probes.split(chunk)])
    size = value[0].numel()
    total = value.new_zeros(1, len(value))
    for first in range(0, size, chunk):
        unit = torch.eye(size, dtype=value.dtype, device=value.device)[first : first + chunk]
        rows = unit.reshape(-1, 1, *value.shape[1:]).expand(-1, *value.shape)
        total = total + _quadratic(value, x, rows, create_graph).sum(0, keepdim=True)
    return total


def _quadratic(value: Tensor, x: Tensor, directions: Tensor, create_graph: bool) -> Tensor:
    """e^T (d value / d x) e for each direction, (M, B), in one sweep."""
    single = len(directions) == 1  # then nothing needs batching, which some networks do not allow
    vector = directions[0] if single else directions
    products = pulled(value, x, vector, create_graph, batched=not single)
    return (directions * products).flatten(2).sum(2)


def gradient(value: Tensor, x: Tensor, create_graph: bool = True) -> Tensor:
    """The gradient of sum(value) in x; zeros where it does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(value.sum(), x, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def pulled(value: Tensor, x: Tensor, vector: Tensor, create_graph: bool, batched: bool) -> Tensor:
    """vector^T d value / d x, zeros where value does not depend on x; `batched`: vectors (M, B, ...), all in one sweep.

    The graph of `value` is kept.
    """
    empty = x.new_zeros(*vector.shape[: int(batched)], *x.shape)
    if not value.requires_grad:
        return empty
    (found,) = torch.autograd.grad(
        value,
        x,
        vector,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        is_grads_batched=batched,
    )
    return empty if found is None else found

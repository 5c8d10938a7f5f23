"""A denoiser as a vector field: its Jacobian, whether that is symmetric, its circulation, its divergence.

A score is a gradient, so that its Jacobian is symmetric and its integral around any loop is 0. What a network has
learned need not be one (2509.00336, 2402.03845). With J_D the Jacobian of the posterior mean,

    J_score = (alpha J_D - I) / sigma^2,    J_noise = -sigma J_score

so the antisymmetric parts of the views differ by the factors alpha / sigma^2 and -sigma alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Denoiser, Keyed, Time, suggest
from ornstein.processes.divergence import divergence, probes_of

from .clock import condition_of, inside
from .linearised import Linearised, Singular, leading

__all__ = ["VIEWS", "asymmetry", "circulation", "field", "field_divergence", "jacobian", "jacobian_svd"]

VIEWS = ("mean", "noise", "score", "velocity")


def field(
    denoiser: Denoiser, t: Time, view: str = "score", condition: Condition | None = None
) -> Callable[[Tensor], Tensor]:
    """x -> that view of the denoiser's posterior at time t.

    Raises:
        ValueError: unknown view.
    """
    if view not in VIEWS:
        raise ValueError(suggest(view, VIEWS, "view"))

    def value(x: Tensor) -> Tensor:
        found: Tensor = getattr(denoiser(x, t, condition), view)
        return found

    return value


def _linear(denoiser: Denoiser, x: Tensor, t: Time, view: str, condition: Any, fields: Any) -> Linearised:
    if view != "mean" and isinstance(denoiser.process, AffineProcess):
        inside(denoiser.process, t, view)
    return Linearised(field(denoiser, t, view, condition_of(denoiser, x, condition, fields)), x)


def jacobian(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    coordinates: int | Tensor | None = None,
    *,
    view: str = "score",
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """d field_i / d x_j of some coordinates i, j of the flattened event, (B, k, k), exactly: k reverse sweeps.

    Args:
        denoiser: guided or not, in the mode (training or evaluation) in which it is used.
        x: states, (B, ...).
        t: their time, a number or (B,).
        coordinates: which, (k,) integers; a number of them drawn at random; None is all.
        view: "score", "mean", "noise" or "velocity".
        seed: of the coordinates.
        condition: a ready Condition in place of fields.
        **fields: condition fields, as in sampling.

    Raises:
        ValueError: unknown view, or coordinates out of range.
    """
    index = _coordinates(coordinates, x, seed)
    rows = _linear(denoiser, x, t, view, condition, fields).matrix(index)
    return rows if index is None else rows[:, :, index]


def _coordinates(given: int | Tensor | None, x: Tensor, seed: int) -> Tensor | None:
    size = x[0].numel()
    if isinstance(given, int):
        if not 2 <= given <= size:
            raise ValueError(f"coordinates: expected 2 to {size} of them, got {given}")
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:given]
        return drawn.sort().values.to(x.device)
    if given is not None and not (given.ndim == 1 and bool(((given >= 0) & (given < size)).all())):
        raise ValueError(f"coordinates: expected integers from 0 to {size - 1}, got {given}")
    return given


def asymmetry(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    coordinates: int | Tensor | None = None,
    *,
    view: str = "score",
    probes: int = 0,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """|J - J^T| / |J| in Frobenius norms, (B,): 0 for a gradient, 2 for a field that only turns.

    Exact over the coordinates asked for; or, with `probes` normal directions u, over all of them from
    E|(J - J^T) u|^2 = |J - J^T|^2 and E|J u|^2 = |J|^2, at two products each. The published figures are of blocks of
    the Jacobian; their normalisation is not stated in the abstract (2509.00336), this one is ours.

    What is not named here is as in `jacobian`.

    Args:
        probes: number of directions; 0 is the exact value.

    Raises:
        ValueError: as in `jacobian`, or coordinates together with probes.
    """
    if not probes:
        options = {"view": view, "seed": seed, "condition": condition, **fields}
        full = jacobian(denoiser, x, t, coordinates, **options)
        return (full - full.mT).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)
    if coordinates is not None:
        raise ValueError("coordinates: probes see all of them; give one or the other")
    u = probes_of("skilling", denoiser.process.space, x, Keyed(seed, len(x)), probes)
    assert u is not None
    linear = _linear(denoiser, x, t, view, condition, fields)
    ahead, back = linear.push(u), linear.pull(u)
    turning, whole = ((v**2).flatten(2).sum((0, 2)) for v in (ahead - back, ahead))
    return (turning / whole).sqrt()


def field_divergence(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    estimator: str = "exact",
    *,
    view: str = "score",
    probes: int = 1,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """sum_i d field_i / d x_i, (B,): exactly, or its mean over random probes.

    What is not named here is as in `jacobian`.

    Args:
        estimator: "exact", "hutchinson" or "skilling", see `processes.divergence`.
        probes: how many, of an estimator that has any.
        seed: of the probes, by row.
    """
    directions = probes_of(estimator, denoiser.process.space, x, Keyed(seed, len(x)), probes)
    linear = _linear(denoiser, x, t, view, condition, fields)
    return divergence(linear.value, linear.x, directions).mean(0).detach()


def jacobian_svd(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    rank: int,
    *,
    view: str = "mean",
    iterations: int = 20,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Singular:
    """The largest singular values and directions of the Jacobian, by products alone: images too.

    Of the posterior mean near low-dimensional data the right directions span the local subspace: a step along one of
    them at an intermediate time edits the sample that follows (2409.02426).

    What is not named here is as in `jacobian`.

    Args:
        rank: how many.
        iterations: of `leading`; 2 (rank + 4) products each.
        seed: of the first directions.
    """
    return leading(_linear(denoiser, x, t, view, condition, fields), rank, iterations, seed)


def circulation(
    denoiser: Denoiser,
    vertices: Tensor,
    t: float,
    *,
    view: str = "score",
    nodes: int = 8,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """The integral of field . dx once around each closed polygon, (L,): 0 for a gradient, up to quadrature.

    Gauss-Legendre points on every edge: exact for a field that is polynomial of degree below 2 nodes along it.

    Args:
        denoiser: guided or not.
        vertices: corners in order, (L, V, *event), V >= 3; the last is joined to the first.
        t: the time.
        view: as in `jacobian`.
        nodes: points on each edge.
        condition: a ready Condition for L V nodes rows, in place of fields.
        **fields: condition fields, one value for all.

    Raises:
        ValueError: fewer than three corners, or no nodes.
    """
    if vertices.ndim < 3 or vertices.shape[1] < 3 or nodes < 1:
        raise ValueError(
            f"vertices: expected (loops, corners >= 3, *event) and nodes >= 1, got {tuple(vertices.shape)}, {nodes}"
        )
    edges = vertices.roll(-1, 1) - vertices
    places, weights = (vertices.new_tensor(v) for v in _gauss_legendre(nodes))
    along = places.reshape(-1, *[1] * (vertices.ndim - 2))
    points = vertices.unsqueeze(2) + edges.unsqueeze(2) * along  # (L, V, nodes, *event)
    rows = points.flatten(0, 2)
    given = condition_of(denoiser, rows, condition, fields)
    with torch.no_grad():
        values = field(denoiser, t, view, given)(rows).reshape(points.shape)
    work = (values * edges.unsqueeze(2)).flatten(3).sum(3)
    return (work * weights).flatten(1).sum(1)


def _gauss_legendre(nodes: int) -> tuple[Any, Any]:
    """Nodes and weights on [0, 1]."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return (places + 1) / 2, weights / 2

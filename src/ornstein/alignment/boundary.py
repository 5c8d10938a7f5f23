"""One start for every condition: the boundary condition of a sampler's ODE, searched on reference pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import (
    Condition,
    Denoiser,
    Keyed,
    Noise,
    Recorded,
    Sampler,
    Shared,
    Tree,
    batch_size,
    leaves,
)

__all__ = ["Boundary", "search_boundary", "shared_start"]

START = (-1, "normal", ())  # where the loop draws the noise of the prior


class Boundary(NamedTuple):
    """The start found.

    Attributes:
        draws: the noise of the prior, by where the loop draws it.
        chosen: which candidate it is.
        scores: mean metric on the references of every candidate, (N,).
        evaluations: network calls that the search took.
    """

    draws: dict[Any, Tensor]
    chosen: int
    scores: Tensor
    evaluations: int

    def source(self, seed: int = 0) -> Noise:
        """The noise of a run in which every row starts here, to be given as `seed=`; later draws are shared too."""
        return _shared(self.draws, seed)


def search_boundary(
    sampler: Sampler,
    denoiser: Denoiser,
    references: Mapping[str, Any],
    metric: Callable[[Tree, Tree], Tensor],
    candidates: int | Tensor = 64,
    *,
    seed: int = 0,
) -> Boundary:
    """The best start x_T for all conditions at once (Ma et al. 2023, 2305.15357).

    A deterministic solver makes a sample a map h(x_T, y) of its start and its condition. The start that is good for
    some y is good for others, so of N draws of the prior's noise z the one with the least

        (1 / R) sum_i metric(h(z, y_i), x_i)

    over R reference pairs (x_i, y_i) is kept, and used for every other y. What is chosen is the noise of the prior: a
    process with an anchor starts at its anchor and that noise, and guides act as ever. The cost is N R runs, once.
    Stochastic solvers are allowed, and forget their start the more noise they draw.

    Judge the start on pairs that were not references. With the squared error as the metric, the start 0 is best for
    Gaussian data, and any small one is good: compare with it, and use a metric of what one looks for.

    Args:
        sampler: a solver on a grid.
        denoiser: the model, guided or not.
        references: {"x_0": (R, ...), "fields": {name: (R, ...)}}, as a split's `batch` gives them; fields that the
            model does not read are left out.
        metric: metric(samples, x_0) -> (R,), less is better.
        candidates: how many, candidate i being the start of sample i of the seed; or standard normal noises
            (N, *event) of your own.
        seed: of the candidates and of later draws.

    Raises:
        ValueError: no references, no candidates, a metric of another shape, or a prior that is a point.
    """
    x_0, condition = _pairs(denoiser, references)
    found = list(_candidates(denoiser, condition, candidates, seed))
    scores, calls = [], 0
    for draws in found:
        source = _shared(draws, seed)
        for last in sampler.steps(denoiser, batch_size(x_0), seed=source, condition=condition):
            last.next  # noqa: B018  a step is drawn when its next state is read
        calls += _total(last.evaluations, batch_size(x_0))
        scores.append(_score(metric, last.readout(), x_0))
    table = torch.tensor(scores, dtype=torch.float64)
    best = int(table.argmin())
    return Boundary(found[best], best, table, calls)


def shared_start(noise: Tensor, seed: int = 0) -> Noise:
    """The source, to be given as `seed=`, of a run in which every row starts from this noise of the prior (*event)."""
    return _shared({START: noise.unsqueeze(0)}, seed)


def _shared(draws: dict[Any, Tensor], seed: int) -> Noise:
    return Shared(Recorded(dict(draws), Keyed(seed, 1)))  # a copy, since a record keeps what is drawn later


def _pairs(denoiser: Denoiser, references: Mapping[str, Any]) -> tuple[Tree, Condition]:
    read = denoiser.fields | denoiser.process.fields
    x_0, fields = references["x_0"], {k: v for k, v in references.get("fields", {}).items() if k in read}
    if not batch_size(x_0) or not fields:
        raise ValueError(
            f"references: expected pairs with one of the fields {sorted(read)}, got {batch_size(x_0)} of "
            f"{sorted(references.get('fields', {}))}"
        )
    return x_0, Condition.make(batch_size(x_0), fields, read, leaves(x_0)[0].device, denoiser.tokenise)


def _candidates(
    denoiser: Denoiser, condition: Condition, candidates: int | Tensor, seed: int
) -> Iterator[dict[Any, Tensor]]:
    if isinstance(candidates, Tensor):
        yield from ({START: z.unsqueeze(0)} for z in candidates)
        return
    if not isinstance(candidates, int) or candidates < 1:
        raise ValueError(
            f"candidates: expected a count of at least 1, or noises (N, *event); got {candidates!r}"
        )
    prior = denoiser.process.prior(denoiser.like(1), denoiser.prepare(condition.rows(slice(0, 1))))
    for i in range(candidates):
        record = Recorded(source=Keyed(seed, torch.tensor([i])))
        prior.sample(record.fold(-1))
        if not record.draws:
            raise ValueError(
                f"search_boundary: every run of {type(denoiser.process).__name__} starts at one point; there is no "
                "start to choose"
            )
        yield record.draws


def _score(metric: Callable[[Tree, Tree], Tensor], samples: Tree, x_0: Tree) -> float:
    values = metric(samples, x_0)
    if values.shape != (batch_size(x_0),):
        raise ValueError(
            f"metric: expected one number a sample, ({batch_size(x_0)},), got {tuple(values.shape)}"
        )
    return values.double().mean().item()


def _total(evaluations: Any, rows: int) -> int:
    return int(evaluations.sum()) if isinstance(evaluations, Tensor) else rows * int(evaluations)

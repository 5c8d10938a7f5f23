"""Does a sampler favour some values of an attribute that its prompts leave open?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .estimate import Estimate, bootstrap

__all__ = ["BiasReport", "attribute_entropy", "attribute_shift", "bias_report"]

Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BiasReport:
    """How far the shares p of an attribute's K values are from even, prompt by prompt.

    Attributes:
        bias: mean over prompts of 2 / (K (K - 1)) sum_{i<j} |p_i - p_j|, in [0, 1].
        distance: mean over prompts of ||p - p*||_2, p* the shares wanted.
        information: mutual information of value and prompt in bits.
        bias_floor, distance_floor, information_floor: the same numbers' means for a fair sampler with as many samples
            of each prompt: for two values and one prompt of N samples the first is about sqrt(2 / (pi N)).
        counts: (prompts, K) samples of each value.
    """

    bias: Estimate
    distance: Estimate
    information: Estimate
    bias_floor: float
    distance_floor: float
    information_floor: float
    counts: Tensor

    def __str__(self) -> str:
        return (
            f"bias {self.bias}, of a fair sampler {self.bias_floor:.3g}; distance {self.distance}, "
            f"{self.distance_floor:.3g}; information {self.information}, {self.information_floor:.3g}"
        )


def bias_report(
    values: Tensor,
    prompts: Tensor,
    number: int,
    wanted: Tensor | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> BiasReport:
    """The bias of an attribute over prompts that leave it open.

    Args:
        values: (N,) of the attribute in each sample, 0 to number - 1; negative ones (not there, not readable) are
            left out.
        prompts: (N,) class of each sample's prompt.
        number: K, how many values there are.
        wanted: (K,) shares p*; even ones by default.
        resamples: of the bootstrap, within prompts, and of the floors.
        seed: of both.

    Raises:
        ValueError: shapes that differ, values of K or more, fewer than two values, or nothing left to count.

    Source: the bias score of InvDiff (2412.08480), the distance of DiffLens (2503.20483).
    """
    cells, shape = _cells(values, prompts, number)
    even = torch.full((number,), 1 / number, dtype=torch.float64)
    shares = even if wanted is None else wanted.to("cpu", torch.float64) / float(wanted.sum())
    members = torch.nn.functional.one_hot(cells, shape[0] * number).double()
    counts = members.sum(0).reshape(shape)

    def estimate(statistic: Statistic) -> Estimate:
        count = lambda w: statistic((w @ members).reshape(-1, *shape))  # noqa: E731
        return bootstrap(count, (len(cells),), resamples, seed, strata=[cells // number])

    def floor(statistic: Statistic, law: Tensor) -> float:
        return float(statistic(_drawn(counts.sum(1), law, resamples, seed)).mean())

    distance = lambda counts: _distance(counts, shares)  # noqa: E731
    return BiasReport(
        estimate(_bias), estimate(distance), estimate(_information),
        floor(_bias, even), floor(distance, shares), floor(_information, counts.sum(0) / counts.sum()), counts,
    )  # fmt: skip


def attribute_shift(
    before: Tensor, after: Tensor, number: int, resamples: int = 500, seed: int = 0
) -> tuple[Estimate, float]:
    """Total variation 1/2 sum |p - q| between the shares of an attribute in two sets of samples, and its floor: the
    mean for two sets of these sizes from their pooled law. How much a change leaks into what it should not touch.

    Args:
        before: (N,) values, 0 to number - 1; negative ones are left out.
        after: (M,) values of the other set.
        number: of values.
        resamples: of the bootstrap and of the floor.
        seed: of both.

    Raises:
        ValueError: as `bias_report`.
    """
    sets = [_cells(v, torch.zeros_like(v), number)[0] for v in (before, after)]
    members = [torch.nn.functional.one_hot(v, number).double() for v in sets]
    found = bootstrap(
        lambda u, v: _variation(u @ members[0], v @ members[1]), tuple(map(len, sets)), resamples, seed
    )
    pooled = members[0].sum(0) + members[1].sum(0)
    sizes = torch.tensor([float(len(v)) for v in sets], dtype=torch.float64)
    both = _drawn(sizes, pooled / pooled.sum(), resamples, seed)
    return found, float(_variation(both[:, 0], both[:, 1]).mean())


def attribute_entropy(values: Tensor, number: int, resamples: int = 500, seed: int = 0) -> Estimate:
    """Entropy in bits of the shares of an attribute's values, (N,) in 0 to number - 1; negative ones are left out.

    At most log2 number; from few samples it is too small by about (number - 1) / (2 N ln 2) (Miller 1955).

    Raises:
        ValueError: as `bias_report`.
    """
    cells, _ = _cells(values, torch.zeros_like(values), number)
    members = torch.nn.functional.one_hot(cells, number).double()
    return bootstrap(lambda w: _entropy(w @ members), (len(cells),), resamples, seed)


def _cells(values: Tensor, prompts: Tensor, number: int) -> tuple[Tensor, tuple[int, int]]:
    """Each counted sample's number in the table of prompts and values, and the table's shape."""
    if values.ndim != 1 or values.shape != prompts.shape:
        raise ValueError(
            f"values and prompts: expected one shape (N,), got {tuple(values.shape)}, {tuple(prompts.shape)}"
        )
    if number < 2 or (values >= number).any():
        raise ValueError(f"number: expected at least 2 and more than the largest value, got {number}")
    values, prompts = values.cpu(), prompts.cpu()
    kept = values >= 0
    if not kept.any():
        raise ValueError("values: nothing to count, all are negative")
    classes, index = prompts[kept].unique(return_inverse=True)
    return index * number + values[kept].long(), (len(classes), number)


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True).clamp(min=1)


def _bias(counts: Tensor) -> Tensor:
    """From counts (R, prompts, K) to (R,)."""
    p, number = _shares(counts), counts.shape[-1]
    pairs = (p[..., :, None] - p[..., None, :]).abs().sum((-2, -1)) / 2
    return (2 / (number * (number - 1)) * pairs).mean(-1)


def _distance(counts: Tensor, wanted: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_shares(counts) - wanted, dim=-1).mean(-1)


def _information(counts: Tensor) -> Tensor:
    """H(value) - H(value | prompt)."""
    weight = counts.sum(-1) / counts.sum((-2, -1), keepdim=True)[..., 0]
    return (_entropy(counts.sum(-2)) - (weight * _entropy(counts)).sum(-1)).clamp(min=0)


def _entropy(counts: Tensor) -> Tensor:
    p = _shares(counts)
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)


def _variation(first: Tensor, second: Tensor) -> Tensor:
    return (_shares(first) - _shares(second)).abs().sum(-1) / 2


def _drawn(sizes: Tensor, shares: Tensor, resamples: int, seed: int) -> Tensor:
    """Counts (R, prompts, K) of independent draws with these shares."""
    generator = torch.Generator().manual_seed(seed)
    counts = []
    for size in sizes.tolist():
        drawn = torch.multinomial(shares.expand(resamples, -1), int(size), True, generator=generator)
        counts.append(torch.nn.functional.one_hot(drawn, len(shares)).sum(1).double())
    return torch.stack(counts, 1)

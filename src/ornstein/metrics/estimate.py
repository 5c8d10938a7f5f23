"""A measured number with its interval, and the two ways intervals are made here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Estimate", "Strata", "bootstrap", "rows", "wilson"]

Strata = Sequence[Tensor] | None
_NORMAL_QUANTILE = 1.959963984540054  # of 0.975: all intervals are of 95 %


class Estimate(NamedTuple):
    """A number measured on samples.

    Attributes:
        value: the statistic itself, never corrected.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: samples it rests on; of two sets, the smaller.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n:,})"


def rows(x: Tensor, name: str) -> Tensor:
    """Samples (N, ...) as float64 rows (N, D) without gradient.

    Raises:
        TypeError: not a tensor (a tree is measured leaf by leaf).
        ValueError: fewer than two samples, or one that is not finite; names the first.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a Tensor (N, ...), got {type(x).__name__}")
    if x.ndim < 1 or len(x) < 2:
        raise ValueError(f"{name}: expected at least 2 samples (N, ...), got {tuple(x.shape)}")
    flat = x.detach().reshape(len(x), -1).to("cpu", torch.float64)
    finite = flat.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"{name}: sample {int(finite.int().argmin())} holds NaN or infinity")
    return flat


def bootstrap(
    statistic: Callable[..., Tensor],
    sizes: tuple[int, ...],
    resamples: int,
    seed: int,
    least: float = 0.0,
    strata: Strata = None,
) -> Estimate:
    """A statistic of one or more independent sets of samples, with its bootstrap interval.

    The interval is value + quantiles(replicates - their mean): a percentile interval without the
    bias that resampling adds. It tells the sampling error of the statistic at these sizes, and so
    covers its expectation at these sizes: the true distance where the statistic is unbiased;
    otherwise compare values of equal sizes. Where two laws agree it is wider than need be.

    Args:
        statistic: from one weight matrix (R, N) a set, whose rows count how often each sample was
            drawn, to values (R,). A row of ones is the set itself.
        sizes: N of each set.
        resamples: replicates R - 1.
        seed: of the draws.
        least: the smallest value that the statistic can take; the interval ends there.
        strata: class numbers (N,) of each set. Samples are then redrawn within their class, as they
            must be where the share of each class was fixed and not drawn.

    Raises:
        ValueError: fewer than two resamples, or strata that do not fit the sets.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if resamples < 2:
        raise ValueError(f"resamples: expected at least 2, got {resamples}")
    generator = torch.Generator().manual_seed(seed)
    groups = _checked(strata, sizes)
    values = statistic(*(_weights(group, resamples, generator) for group in groups))
    value, replicates = float(values[0]), values[1:]
    levels = torch.tensor([0.025, 0.975], dtype=values.dtype)
    low, high = (value + (replicates - replicates.mean()).quantile(levels)).tolist()
    return Estimate(value, max(low, least), high, min(sizes))


def _checked(strata: Strata, sizes: tuple[int, ...]) -> list[Tensor]:
    if strata is None:
        return [torch.zeros(size, dtype=torch.long) for size in sizes]
    if (found := tuple(tuple(labels.shape) for labels in strata)) != tuple((n,) for n in sizes):
        raise ValueError(f"strata: expected class numbers of {sizes} samples, got shapes {found}")
    return [labels.cpu() for labels in strata]


def _weights(labels: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """A row of ones, then how often each sample is drawn when each class is redrawn from itself."""
    counts = torch.ones(1 + resamples, len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        places = torch.randint(len(members), (resamples, len(members)), generator=generator)
        drawn = torch.zeros(resamples, len(members), dtype=torch.float64)
        drawn.scatter_add_(1, places, torch.ones_like(drawn))
        counts[1:, members] = drawn
    return counts


def wilson(hits: int, n: int) -> Estimate:
    """A share hits / n with Wilson's score interval.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"expected 0 <= hits <= n and n >= 1, got hits {hits} of n {n}")
    share, z2 = hits / n, _NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low, high = centre - half, centre + half
    return Estimate(share, low if hits else 0.0, high if hits < n else 1.0, n)

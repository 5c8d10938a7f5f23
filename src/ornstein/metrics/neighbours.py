"""Memorisation: are samples nearer to the training data than new data would be?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .estimate import Estimate, bootstrap, rows, wilson

__all__ = ["MemorisationReport", "nearest_training_distance"]

_CHUNK = 1024


@dataclass(frozen=True)
class MemorisationReport:
    """Distances from samples to training data, against those from held-out data to training data.

    Attributes:
        samples: Euclidean distance of every sample to its nearest training item (N,).
        held_out: the same of every held-out item (M,).
        ratio: median of `samples` over median of `held_out`; near 1 where samples are as new as
            held-out data, near 0 where they are copies.
        closer: share of samples that are closer than 1 % of the held-out data are; about 0.01 where
            samples are as new as held-out data.
        duplicates: samples that equal a training item to within the tolerance, everywhere.
    """

    samples: Tensor
    held_out: Tensor
    ratio: Estimate
    closer: Estimate
    duplicates: int

    def __str__(self) -> str:
        return (
            f"nearest training distance over that of held-out data: {self.ratio}; "
            f"closer than 1 % of held-out data: {self.closer}; exact duplicates: {self.duplicates}"
        )


def nearest_training_distance(
    x: Tensor,
    train: Tensor,
    held_out: Tensor,
    tolerance: float = 1 / 255,
    resamples: int = 200,
    seed: int = 0,
) -> MemorisationReport:
    """Compare how near samples and held-out data lie to the training data, in Euclidean distance.

    Args:
        x: samples (N, ...).
        train: training data (K, ...).
        held_out: data from the same law that were not trained on (M, ...).
        tolerance: a duplicate differs by no more than this in any coordinate; by default by half a
            grey level of images in [-1, 1].
        resamples: bootstrap replicates, for the ratio.
        seed: of the bootstrap.

    Raises:
        TypeError: not tensors.
        ValueError: fewer than two samples, other event shapes, or values that are not finite.
    """
    sets = {"x": x, "train": train, "held_out": held_out}
    samples, known, others = (rows(z, name) for name, z in sets.items())
    if not x.shape[1:] == train.shape[1:] == held_out.shape[1:]:
        shapes = ", ".join(str(tuple(z.shape[1:])) for z in sets.values())
        raise ValueError(f"x, train, held_out: expected one event shape, got {shapes}")
    distances, gaps = _nearest(samples, known)
    reference, _ = _nearest(others, known)
    sizes = (len(distances), len(reference))
    return MemorisationReport(
        distances,
        reference,
        bootstrap(lambda a, b: _median(distances, a) / _median(reference, b), sizes, resamples, seed),
        wilson(int((distances < reference.quantile(0.01)).sum()), len(distances)),
        int((gaps <= tolerance).sum()),
    )


def _nearest(x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest known row, and the largest difference from it in any coordinate."""
    blocks = [
        torch.cdist(block, known, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for block in x.split(_CHUNK)
    ]
    nearest = known[torch.cat([block.indices for block in blocks])]
    return torch.cat([block.values for block in blocks]), (x - nearest).abs().amax(1)


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """Lower median under each row of counts (R, N)."""
    ordered, index = values.sort()
    below = weights[:, index].cumsum(1)
    return ordered[(below < below[:, -1:] / 2).sum(1)]

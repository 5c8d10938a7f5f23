"""Gaussian universality: whether a learner sees more of data than the mean and covariance of every class.

Of concentrated data a linear classifier errs as on Gaussians of the same class means and covariances (2501.07741).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["Universality", "gaussian_twin", "least_squares", "universality"]

Learner = Callable[[Tensor, Tensor, Tensor], Tensor]


class Universality(NamedTuple):
    """Shares of errors on test rows: of the data, and of their Gaussian twin."""

    data: float
    twin: float


def gaussian_twin(
    x: Tensor, y: Tensor, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`count` draws for each class from the Gaussian with that class's mean and full covariance.

    Args:
        x: data, (N, ...); more rows a class than numbers in an event, lest the covariance be far from its limit.
        y: classes, (N,) integers.
        count: rows of each class.
        generator: of the draws, which are made on its device.

    Returns:
        Draws (classes * count, ...) and their classes.
    """
    made, classes = [], y.unique()
    for label in classes:
        rows = x[y == label].flatten(1).double()
        values, axes = torch.linalg.eigh(rows.T.cov())
        where = x.device if generator is None else generator.device
        z = torch.randn(count, rows.shape[1], generator=generator, dtype=torch.float64, device=where).to(rows)
        made.append(rows.mean(0) + (z * values.clamp(min=0.0).sqrt()) @ axes.T)
    drawn = torch.cat(made).to(x).reshape(-1, *x.shape[1:])
    return drawn, classes.repeat_interleave(count)


def least_squares(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """The classes of `test` by the linear map without bias or ridge that fits one-hot classes best, of least norm."""
    known, targets = x.flatten(1).double(), one_hot(y).double()
    if x.device.type == "cpu":
        weights = torch.linalg.lstsq(known, targets, driver="gelsd").solution
    else:  # whose drivers need full rank
        weights = torch.linalg.pinv(known) @ targets
    return (test.flatten(1).double() @ weights).argmax(1)


def universality(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    learner: Learner = least_squares,
    generator: torch.Generator | None = None,
) -> Universality:
    """Test errors of one learner on data and on the Gaussian twin of the training data, with as many rows of each.

    Args:
        train: data (N, ...) and classes 0 ... K - 1, as many of each; the twin is fitted to these alone.
        test: others.
        learner: (x, y, test) -> classes of `test`.
        generator: of the twin's draws.

    Raises:
        ValueError: classes that are not equally frequent.
    """
    counts = []
    for _, labels in (train, test):
        share = labels.bincount()
        if int(share.min()) != int(share.max()):
            raise ValueError(f"train, test: expected as many rows of every class, got {share.tolist()}")
        counts.append(int(share[0]))
    twins = [gaussian_twin(*train, count, generator) for count in counts]
    errors = [
        float((learner(*known, x) != y.to(x.device)).double().mean())
        for known, (x, y) in ((train, test), (twins[0], twins[1]))
    ]
    return Universality(*errors)

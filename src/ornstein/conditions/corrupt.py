"""Wrong conditions in a data set: drawn once, the same each time a sample is seen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Keyed, Module, Noise, suggest

__all__ = ["CorruptLabels", "ShuffleCaptions", "corrupted"]


class CorruptLabels(Module):
    """A share eta of the labels is wrong (Chen et al. 2024, 2405.20494): round(eta N) of them, chosen at random, become
    another class, uniformly. "symmetric": any class; "asymmetric": only labels inside a subset of the classes are
    touched, and stay in it.

    Args:
        eta: share of wrong labels among those that may be touched, in [0, 1].
        kind: "symmetric" or "asymmetric".
        subset: the classes of the asymmetric kind, at least two.

    Raises:
        ValueError: a share outside [0, 1], an unknown kind, or a subset that does not go with it.
    """

    def __init__(self, eta: float, kind: str = "symmetric", subset: Sequence[int] | None = None) -> None:
        super().__init__()
        if kind not in ("symmetric", "asymmetric"):
            raise ValueError(suggest(kind, ("symmetric", "asymmetric"), "kind"))
        if (subset is None) != (kind == "symmetric") or (subset is not None and len(set(subset)) < 2):
            raise ValueError(
                f"subset: two classes or more for kind 'asymmetric', None for 'symmetric'; got {subset}"
            )
        self.eta, self.subset = _share(eta), None if subset is None else sorted(set(subset))

    def forward(self, labels: Tensor, noise: Noise) -> Tensor:
        """Labels (N,) with some of them wrong; `noise` has a key for each.

        Raises:
            ValueError: fewer than two classes.
        """
        classes = labels.unique() if self.subset is None else torch.tensor(self.subset)
        touched = torch.isin(labels, classes).nonzero().squeeze(1)
        if len(classes) < 2:
            raise ValueError(f"labels: expected at least two classes, got {classes.tolist()}")
        rows = touched[_chosen(len(touched), self.eta, noise[touched])]
        u = noise[rows].fold("class").uniform(torch.empty(len(rows), 1)).squeeze(1)
        step = 1 + (u * (len(classes) - 1)).long()  # to another class, all of them alike
        places = (torch.searchsorted(classes, labels[rows]) + step) % len(classes)
        return labels.index_copy(0, rows, classes[places].to(labels.dtype))


class ShuffleCaptions(Module):
    """A share eta of the items have each other's condition (caption, embedding): round(eta N) of them, in a random
    cycle, so that no chosen item keeps its own.

    Args:
        eta: in [0, 1].

    Raises:
        ValueError: a share outside [0, 1].
    """

    def __init__(self, eta: float) -> None:
        super().__init__()
        self.eta = _share(eta)

    def forward(self, values: Tensor, noise: Noise) -> Tensor:
        """Values (N, ...) with some rows exchanged; one row alone has none to exchange with."""
        rows = _chosen(len(values), self.eta, noise)
        return values.index_copy(0, rows, values[rows.roll(1)])


def corrupted(data: Any, seed: int = 0, **fields: Callable[[Tensor, Noise], Tensor]) -> Any:
    """The data set with fields of its training split changed once and for all; what is held out stays true.

    Args:
        data: a `data.Dataset`.
        seed: of what is drawn.
        **fields: {field: CorruptLabels(...), ShuffleCaptions(...) or a function of (values, noise)}.

    Raises:
        ValueError: a field that the data have not.
    """
    for name in fields:
        if name not in data.train.fields:
            raise ValueError(suggest(name, data.train.fields, "field of the data"))
    noise, split = Keyed(seed, len(data.train)).fold("corrupted"), copy.copy(data.train)
    changed = {name: change(split.fields[name], noise.fold(name)) for name, change in fields.items()}
    split.fields = {**split.fields, **changed}
    return replace(data, train=split)


def _chosen(n: int, eta: float, noise: Noise) -> Tensor:
    """round(eta n) of n rows, in random order."""
    ticket = noise.fold("chosen").uniform(torch.empty(n, 1)).squeeze(1)
    return ticket.argsort(stable=True)[: round(eta * n)]


def _share(eta: float) -> float:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: expected a share in [0, 1], got {eta}")
    return float(eta)

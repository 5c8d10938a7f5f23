"""Whether a denoiser, a data set and an objective fit, asked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ornstein.core import AffineProcess, Condition, Denoiser, Objective, Process, Tree, leaves
from ornstein.denoisers import GaussianFit
from ornstein.objectives.denoising import mark

from .lesson import Lesson
from .source import Source

__all__ = ["check", "completed", "fields_of"]

_FITTED = 1000  # samples that the Gaussian fit is made of, spread over the data
_NUMBERS = 2**24  # and numbers in all, so that large images cost no more than 128 MB


def check(denoiser: Any, data: Any, objective: Objective) -> None:
    """Refuse what cannot be trained; nothing is written.

    Raises:
        TypeError: no denoiser.
        ValueError: parts that do not fit.
    """
    if not isinstance(denoiser, Denoiser):
        kind = type(denoiser).__name__
        raise TypeError(f"denoiser: expected a Denoiser such as NetworkDenoiser(...), got {kind}")
    if not any(p.requires_grad for p in (*denoiser.parameters(), *objective.parameters())):
        raise ValueError(f"denoiser: {type(denoiser).__name__} has no parameter to train")
    shape = getattr(data, "shape", None)
    if None not in (denoiser.shape, shape) and _plain(denoiser.shape) != _plain(shape):
        raise ValueError(f"data: samples of {data.name!r} are {shape}, the denoiser's are {denoiser.shape}")
    _check_categories(denoiser.process, getattr(data, "categories", None), data.name)
    _check_fields(denoiser, data, objective)
    _check_batch(denoiser, data, objective)


def completed(denoiser: Denoiser, data: Any, objective: Objective) -> None:
    """Tell a denoiser what it does not know: the shape of samples, their Gaussian fit, and what it will estimate."""
    if any(part.estimates == "velocity" for part in objective.modules() if isinstance(part, Objective)):
        mark(denoiser)  # before its average is made
    shape = getattr(data, "shape", None)
    if denoiser.shape is None and shape is not None:
        denoiser.tell(shape=_plain(shape))
    if denoiser.fit is None and isinstance(denoiser.process, AffineProcess) and len(data.train) > 1:
        size = data.train.batch(torch.zeros(1, dtype=torch.long))["x_0"].numel()
        count = min(len(data.train), _FITTED, max(_NUMBERS // size, 2))
        every = torch.linspace(0, len(data.train) - 1, count).long()
        denoiser.fit = GaussianFit.of(data.train.batch(every)["x_0"])


def _plain(shape: Any) -> Any:
    return {k: _plain(v) for k, v in shape.items()} if isinstance(shape, dict) else tuple(shape)


def _check_categories(process: Process, categories: Any, name: str) -> None:
    parts: Mapping[Any, Any] = getattr(process, "parts", None) or {None: process}
    for leaf, part in parts.items():
        have = categories.get(leaf) if isinstance(categories, dict) else categories
        need = getattr(part, "categories", None)
        if have is not None and need != have:
            at, kind = f"data[{leaf!r}]" if leaf else "data", type(part).__name__
            raise ValueError(f"{at}: {name!r} has {have} categories, the process {kind} has {need or 'none'}")


def fields_of(denoiser: Denoiser, objective: Objective) -> frozenset[str]:
    """The fields of a data set that a training reads: the model's, the process's and the objective's own `fields`."""
    return denoiser.fields | denoiser.process.fields | _said(objective, "fields")


def _said(objective: Objective, what: str) -> frozenset[str]:
    """`fields` (read from the data) or `supplies` (made in every batch) of an objective and of those inside it."""
    parts = (m for m in objective.modules() if isinstance(m, Objective))
    return frozenset().union(*(getattr(m, what) for m in parts))


def _check_fields(denoiser: Denoiser, data: Any, objective: Objective) -> None:
    fields = data.train.fields
    lacking = sorted(denoiser.process.fields - set(fields) - _said(objective, "supplies"))
    if lacking:
        raise ValueError(f"data: {data.name!r} lacks what the process needs: {', '.join(lacking)}")
    if "level" in fields and "level" in _said(objective, "fields"):
        _check_levels(fields["level"])
    if "label" in denoiser.fields and "label" in fields:
        denoiser.prepare(Condition({"label": fields["label"]}))  # refuses labels it does not know


def _check_levels(level: Any) -> None:
    low, high = (float(v) for v in torch.as_tensor(level).double().aminmax())
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"level: the times at which items sit lie in [0, 1], 0 for clean ones; got {low:.3g} to {high:.3g}"
        )


def _check_batch(denoiser: Denoiser, data: Any, objective: Objective) -> None:
    """Try two samples."""
    given = next(Source(data, 2, 0, fields_of(denoiser, objective)).given(0, 1))
    if not _finite(given.batch["x_0"]):
        raise ValueError(f"data: samples of {data.name!r} hold NaN or infinite values")
    lesson = Lesson(denoiser, objective).on("cpu")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            total, _ = lesson(given)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"data: {type(objective).__name__} cannot be evaluated on samples of {data.name!r}: {error}"
        ) from error
    if total.ndim:
        raise ValueError(f"objective: expected one loss a batch, got a tensor of shape {tuple(total.shape)}")


def _finite(x_0: Tree) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves(x_0))

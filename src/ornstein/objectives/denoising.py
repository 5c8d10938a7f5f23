"""Denoising: the one loss under score matching, noise prediction, flow matching and masked prediction."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Gaussian,
    Losses,
    Noise,
    Objective,
    Posterior,
    Process,
    Tree,
    align,
    leaves,
    suggest,
    sum_event,
)
from ornstein.processes import DiscreteProcess, ProductProcess

from .batch import condition_of, weighed
from .coupling import Coupling, Independent
from .times import TimeSampler, UniformTime, later
from .weighting import WEIGHTINGS

__all__ = ["Denoising", "Seen", "mark"]

SAFE = 1e-3  # at least the time at which weights that count for nothing are evaluated: at 0 they are infinite


class Seen(NamedTuple):
    """One batch as the loss sees it: what terms of `Regularised` share with the loss of the data.

    Attributes:
        x_0: the data, or the items where they sit at a level of their own.
        t: times, aligned from the left with x_t.
        x_t: states.
        condition: what the model was told, after dropping.
        posterior: what it said.
        level: (B,) times at which the items sit, or None where all are clean.
        features: outputs of the network's layers that a term has asked for, by name.
    """

    x_0: Tree
    t: Any
    x_t: Tree
    condition: Condition | None
    posterior: Posterior
    level: Tensor | None = None
    features: dict[str, Tensor] = {}  # noqa: RUF012  never written to


class Denoising(Objective):
    """E_t E_z  w(t) |D(x_t, t) - x_0|^2 / dim, and cross-entropy for discrete states.

    The weight is written once, of the clean data's error; "target" is the one under which the network's own
    output is fitted by plain least squares (the simple loss of 2006.11239 for noise, flow matching of
    2210.02747 for velocity). For `Absorbing` the weight 1 / t over masked entries makes the loss the exact
    bound on -log p(x_0) per entry (2406.07524); for `UniformNoise` it is plain cross-entropy over all
    entries.

    Items that are noisy themselves say so in the batch: `level` (B,), or the data's field of that name, holds the time
    at which each sits, 0 for a clean one. Their times are clamped to t >= level, their state is noised further from the
    item, and what is compared with the item y = x_s is the mean of the bridge at the posterior's mean, E[x_s | x_t]
    (Ambient diffusion, 2411.02780):

        w(t) |bridge(x_t, D, t -> s).mean - y|^2 / dim

    whose minimiser is still the posterior mean of the clean data, at levels above the items' own.

    Args:
        weighting: "target", "snr" (the simple loss), "min-snr", "snr-power", "edm", "sigmoid" or "uniform".
        drop: probability that a condition is dropped in training, for classifier-free guidance (2207.12598).
        clean: for a tree state, probability that a leaf is shown clean (time 0), and again that it is left
            out (time 1), so that conditionals and marginals are learned exactly.
        first: smallest time drawn where `times` is None; the loss says nothing at time 0.
        coupling: which noise goes with which data; None is independent. A dependent one marks the model it trains:
            `estimates` becomes "velocity".
        times: how times are drawn; None is `UniformTime(first)`. With `PerBlock` the weight is each entry's own.

    Raises:
        ValueError: unknown weighting, or a probability outside [0, 1).
    """

    fields = frozenset({"level"})  # of the data, where they have it

    def __init__(
        self,
        weighting: str = "target",
        drop: float = 0.1,
        clean: float = 0.15,
        first: float = 1e-3,
        coupling: Coupling | None = None,
        times: TimeSampler | None = None,
    ) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(suggest(weighting, WEIGHTINGS, "weighting"))
        for name, value in (("drop", drop), ("clean", clean), ("first", first)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {value}")
        self.weighting, self.drop, self.clean, self.first = weighting, drop, clean, first
        self.coupling = Independent() if coupling is None else coupling
        self.sampler = UniformTime(first) if times is None else times
        for name, piece, kind in (
            ("coupling", self.coupling, Coupling),
            ("times", self.sampler, TimeSampler),
        ):
            if not isinstance(piece, kind):
                raise TypeError(f"{name}: expected a {kind.__name__} of ornstein.objectives, got {piece!r}")
        self.estimates = "velocity" if self.coupling.dependent else "posterior"

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        return self.judged(model, self.seen(model, batch, noise), batch.get("weight"))

    def seen(self, model: Any, batch: dict[str, Any], noise: Noise) -> Seen:
        """The batch noised, and what the model says of it."""
        x_0 = batch["x_0"]
        condition, level = _level_of(model, batch)
        if level is not None and self.coupling.dependent:
            raise ValueError("level: items that are noisy themselves need independent noise, not a coupling")
        z = self._coupled(model, x_0, condition, noise.fold("state"))
        t = batch["time"] if batch.get("time") is not None else self.times(model.process, x_0, noise)
        if level is None:
            law = model.process.marginal(x_0, t, condition)
        else:
            t, law = _from_items(model.process, (x_0, level, t), condition)
        x_t = law.sample(noise.fold("state")) if z is None else law.transform(z)
        if condition and self.drop:
            dropped = noise.fold("drop").uniform(_column(x_0)).squeeze(1) < self.drop
            own = sorted(set(condition) - self.undropped(model))
            condition = condition.dropped(dropped, *own) if own else condition
        return Seen(x_0, t, x_t, condition, self.predicted(model, x_t, t, condition, noise), level)

    def undropped(self, model: Any) -> frozenset[str]:
        """The condition's fields that stay whatever `drop` is, such as an anchor."""
        needs: frozenset[str] = getattr(model, "needs", frozenset())
        return needs | model.process.fields

    def predicted(
        self, model: Any, x_t: Tree, t: Any, condition: Condition | None, noise: Noise
    ) -> Posterior:
        """What the model says of the states."""
        posterior: Posterior = model(x_t, t, condition)
        return posterior

    def judged(self, model: Any, seen: Seen, weight: Tensor | None = None) -> Losses:
        """The losses of what was seen."""
        named = self.errors(model, model.process, seen)
        sample = torch.stack(list(named.values())).sum(0)
        heads = getattr(seen.posterior, "heads", None) or {}
        reported = heads.get("losses", {})  # by the network's own parts
        return Losses(weighed(sample, weight), named, reported)

    def _coupled(self, model: Any, x_0: Tree, condition: Condition | None, noise: Noise) -> Tensor | None:
        """The noise of a dependent coupling, drawn before times are; None where each law draws its own."""
        if not self.coupling.dependent:
            return None
        if not isinstance(model.process, AffineProcess) or not isinstance(x_0, Tensor):
            raise ValueError(
                f"coupling: {type(self.coupling).__name__} pairs tensors with Gaussian noise, which "
                f"{type(model.process).__name__} has not; leave it independent"
            )
        if model.training:
            mark(model)
        z: Tensor = self.coupling(x_0, noise, model.process.space, condition, together=model.training)
        return z

    def times(self, process: Process, x_0: Tree, noise: Noise) -> Any:
        """One time for every sample, or as the sampler says; and for every leaf of a tree state."""
        if isinstance(process, ProductProcess):
            return {
                k: self._leaf_times(p, leaves(x_0[k])[0], noise.fold(k)) for k, p in process.parts.items()
            }
        return self.sampler(process, leaves(x_0)[0], noise)

    def _leaf_times(self, process: Process, x_0: Tensor, noise: Noise) -> Tensor:
        t = self.sampler(process, x_0, noise)
        u = align(noise.fold("held").uniform(_column(x_0)).squeeze(1), t)
        t = torch.where(u < self.clean, 0.0, t)
        return torch.where(u > 1 - self.clean, 1.0, t)

    def errors(self, model: Any, process: Any, seen: Seen) -> dict[str, Tensor]:
        """The loss of every leaf, (B,) each."""
        if not isinstance(process, ProductProcess):
            kind = _entropy if isinstance(process, DiscreteProcess) else self._square
            return {"loss": kind(model, process, seen)}
        named = {}
        for name, part in process.parts.items():
            t = seen.t[name] if isinstance(seen.t, dict) else seen.t
            own = Seen(seen.x_0[name], t, seen.x_t[name], seen.condition, seen.posterior[name])
            named[name] = self.errors(model, part, own)["loss"]
        return named

    def _square(self, model: Any, process: Any, seen: Seen) -> Tensor:
        known = seen.t <= 0  # nothing to learn where the state shows its data
        times = torch.where(known, max(self.first, SAFE), seen.t)
        weight = WEIGHTINGS[self.weighting](model, process, times).to(seen.x_0.dtype)
        square, size = _gap(process, seen) ** 2, seen.x_0[0].numel()
        if times.ndim > 1:
            return sum_event(align(torch.where(known, 0.0, weight), square) * square) / size
        return torch.where(known, 0.0, weight * (sum_event(square) / size))


def _level_of(model: Any, batch: dict[str, Any]) -> tuple[Condition | None, Tensor | None]:
    """The condition, and the items' level: of the batch, or a field of the data that the model does not read."""
    condition, level = condition_of(batch), batch.get("level")
    if level is not None or condition is None or "level" not in condition or "level" in model.fields:
        return condition, level
    return condition.without("level") or None, condition["level"]


def _from_items(
    process: Any, items: tuple[Tensor, Tensor, Tensor], condition: Condition | None
) -> tuple[Tensor, Gaussian]:
    """Times not below the items' own, and the law of x_t given items (y, level, t): the marginal's for clean ones."""
    y, level, t = items
    if not isinstance(process, AffineProcess):
        raise ValueError(f"level: items of {type(process).__name__} cannot sit at a level; affine ones can")
    t = later(t, level)
    law, further = process.marginal(y, t, condition), process.kernel(y, align(level.to(t), t), t, condition)
    noisy = align(level > 0, y)
    mean = torch.where(noisy, further.mean, law.mean)
    return t, Gaussian(mean, torch.where(align(level > 0, t), further.scale, law.scale), law.space)


def _gap(process: Any, seen: Seen) -> Tensor:
    """D - x_0; for an item at a level, what is predicted of the item less the item."""
    gap: Tensor = seen.posterior.mean - seen.x_0
    if seen.level is None:
        return gap
    noisy = align(seen.level > 0, seen.t)
    s = torch.where(noisy, align(seen.level.to(seen.t), seen.t), seen.t)  # clean rows stay where they are
    item = process.bridge(seen.x_t, seen.posterior, seen.t, s, seen.condition).mean
    return torch.where(align(noisy, gap), item - seen.x_0, gap)


def mark(model: Any) -> None:
    """Say, also in what is saved, that a model under training estimates a velocity."""
    model.tell(estimates="velocity")


def _entropy(model: Any, process: Any, seen: Seen) -> Tensor:
    x_0, t = seen.x_0, seen.t
    probs: Tensor = seen.posterior.probs  # type: ignore[assignment]
    log_p = probs.clamp(min=1e-30).log().gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
    if hasattr(process, "mask"):
        log_p = torch.where(seen.x_t == process.mask, log_p, 0.0)
        weight = 1 / t.clamp(min=1e-3)
    else:
        weight = torch.where(t > 0, 1.0, 0.0)
    if t.ndim > 1:
        return -sum_event(log_p * align(weight.to(log_p.dtype), log_p)) / x_0[0].numel()
    return -sum_event(log_p) * weight.to(log_p.dtype) / x_0[0].numel()


def _column(x_0: Tree) -> Tensor:
    leaf = leaves(x_0)[0]
    return torch.empty(leaf.shape[0], 1, device=leaf.device)

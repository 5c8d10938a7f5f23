"""Denoising: the one loss under score matching, noise prediction, flow matching and masked prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Losses, Noise, Objective, Posterior, Process, Tree, leaves, suggest, sum_event
from ornstein.processes import DiscreteProcess, ProductProcess

__all__ = ["WEIGHTINGS", "Denoising"]


def _target_weight(model: Any, process: Any, t: Tensor) -> Tensor:
    """The weight of |D - x_0|^2 under which the network's own output has a plain squared error: 1 / c_out^2."""
    level = process.at(t)
    snr = (level.alpha / level.sigma) ** 2
    if model.prediction == "noise":
        return snr
    if model.prediction == "edm":
        return (level.alpha**2 * model.scale**2 + level.sigma**2) / (model.scale * level.sigma) ** 2
    if model.prediction == "score":
        return snr / level.sigma**2
    if model.prediction == "velocity":
        slope = process.slope(t)
        return (slope.alpha - slope.sigma * level.alpha / level.sigma) ** 2
    return torch.ones_like(t)


def _snr(model: Any, process: Any, t: Tensor) -> Tensor:
    level = process.at(t)
    return (level.alpha / level.sigma) ** 2


def _min_snr(model: Any, process: Any, t: Tensor) -> Tensor:
    """min(SNR, 5): Hang et al. 2023, 2303.09556, whatever the network predicts."""
    return _snr(model, process, t).clamp(max=5.0)


WEIGHTINGS: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "target": _target_weight,
    "snr": _snr,
    "min-snr": _min_snr,
    "uniform": lambda model, process, t: torch.ones_like(t),
}


class Denoising(Objective):
    """E_t E_z  w(t) |D(x_t, t) - x_0|^2 / dim, and cross-entropy for discrete states.

    The weight is written once, of the clean data's error; "target" is the one under which the network's own
    output is fitted by plain least squares (the simple loss of 2006.11239 for noise, flow matching of
    2210.02747 for velocity). For `Absorbing` the weight 1 / t over masked entries makes the loss the exact
    bound on -log p(x_0) per entry (2406.07524); for `UniformNoise` it is plain cross-entropy over all
    entries.

    Args:
        weighting: "target", "snr" (the simple loss), "min-snr" or "uniform".
        drop: probability that a condition is dropped in training, for classifier-free guidance (2207.12598).
        clean: for a tree state, probability that a leaf is shown clean (time 0), and again that it is left
            out (time 1), so that conditionals and marginals are learned exactly.
        first: smallest time drawn; the loss says nothing at time 0.

    Raises:
        ValueError: unknown weighting, or a probability outside [0, 1).
    """

    def __init__(
        self, weighting: str = "target", drop: float = 0.1, clean: float = 0.15, first: float = 1e-3
    ) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(suggest(weighting, WEIGHTINGS, "weighting"))
        for name, value in (("drop", drop), ("clean", clean), ("first", first)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {value}")
        self.weighting, self.drop, self.clean, self.first = weighting, drop, clean, first

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        x_0, condition = batch["x_0"], batch.get("condition")
        t = batch["time"] if batch.get("time") is not None else self.times(model.process, x_0, noise)
        x_t = model.process.marginal(x_0, t, condition).sample(noise.fold("state"))
        if condition and self.drop:
            dropped = noise.fold("drop").uniform(_column(x_0)).squeeze(1) < self.drop
            own = [name for name in condition if name not in model.process.fields]  # an anchor is not dropped
            condition = condition.dropped(dropped, *own) if own else condition
        posterior = model(x_t, t, condition)
        named = self.errors(model, model.process, posterior, x_0, x_t, t)
        sample = torch.stack(list(named.values())).sum(0)
        weight = batch.get("weight")
        return Losses(sample if weight is None else sample * weight, named, {})

    def times(self, process: Process, x_0: Tree, noise: Noise) -> Any:
        """Uniform times, stratified by nothing: one for every sample, and for every leaf of a tree state."""
        if isinstance(process, ProductProcess):
            return {k: self._leaf_times(x_0, noise.fold(k)) for k in process.parts}
        return self._uniform_times(x_0, noise)

    def _uniform_times(self, x_0: Tree, noise: Noise) -> Tensor:
        u = noise.fold("time").uniform(_column(x_0)).squeeze(1)
        return self.first + (1 - self.first) * u.double()

    def _leaf_times(self, x_0: Tree, noise: Noise) -> Tensor:
        t = self._uniform_times(x_0, noise)
        u = noise.fold("held").uniform(_column(x_0)).squeeze(1)
        t = torch.where(u < self.clean, 0.0, t)
        return torch.where(u > 1 - self.clean, 1.0, t)

    def errors(
        self, model: Any, process: Any, posterior: Posterior, x_0: Tree, x_t: Tree, t: Any
    ) -> dict[str, Tensor]:
        """The loss of every leaf, (B,) each."""
        if not isinstance(process, ProductProcess):
            kind = _entropy if isinstance(process, DiscreteProcess) else self._square
            return {"loss": kind(model, process, posterior, x_0, x_t, t)}
        named = {}
        for name, part in process.parts.items():
            own = (posterior[name], x_0[name], x_t[name], t[name] if isinstance(t, dict) else t)
            named[name] = self.errors(model, part, *own)["loss"]
        return named

    def _square(
        self, model: Any, process: Any, posterior: Posterior, x_0: Tensor, x_t: Tensor, t: Tensor
    ) -> Tensor:
        known = t <= 0  # nothing to learn where the state shows its data
        times = torch.where(known, self.first, t)
        weight = WEIGHTINGS[self.weighting](model, process, times).to(x_0.dtype)
        gap = posterior.mean - x_0
        error = sum_event(gap**2) / x_0[0].numel()
        return torch.where(known, 0.0, weight * error)


def _entropy(model: Any, process: Any, posterior: Posterior, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    probs: Tensor = posterior.probs  # type: ignore[assignment]
    log_p = probs.clamp(min=1e-30).log().gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
    if hasattr(process, "mask"):
        log_p = torch.where(x_t == process.mask, log_p, 0.0)
        weight = 1 / t.clamp(min=1e-3)
    else:
        weight = torch.where(t > 0, 1.0, 0.0)
    return -sum_event(log_p) * weight.to(log_p.dtype) / x_0[0].numel()


def _column(x_0: Tree) -> Tensor:
    leaf = leaves(x_0)[0]
    return torch.empty(leaf.shape[0], 1, device=leaf.device)

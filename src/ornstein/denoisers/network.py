"""A network as a denoiser: what it is told, and how its output is read as a posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ornstein.core import (
    AffineProcess,
    Condition,
    Posterior,
    Process,
    ProductPosterior,
    Step,
    Time,
    Tree,
    batch_size,
    cat,
    combine,
    leaf_time,
    scaled,
    suggest,
    tree_map,
)
from ornstein.processes import Absorbing, DiscreteProcess, ProductProcess

from .pretrained import Pretrained

__all__ = ["PREDICTIONS", "NetworkDenoiser"]

PREDICTIONS = ("mean", "noise", "velocity", "score", "edm")


class NetworkDenoiser(Pretrained):
    """A network, told x_t / sqrt((alpha + anchor_weight)^2 scale^2 + sigma^2) and the process's clock (half the
    log-SNR), whose output F is read as

        mean      D = F
        noise     D = (x - sigma F) / alpha
        velocity  D from dx/dt = F of the probability flow
        score     D = (x + sigma^2 F) / alpha
        edm       D = c_skip x + c_out F with unit-variance targets (Karras et al. 2022, 2206.00364), which is
                  v-prediction (2202.00512) where scale = 1 and the process preserves variance
        (discrete states: logits of the clean categories)

    Since the network is told the log-SNR and not the time, one network serves every affine process.

    Args:
        network: network(x, level, condition) -> output; `network.fields` names the conditions it reads.
        process: the process of its states.
        prediction: one of the above; for a tree state one name for all continuous leaves.
        shape: event shape, e.g. (1, 8, 8); a dict of them for a tree state.
        scale: root-mean-square of the data's entries.
        estimates: "posterior", or "velocity" after training under a dependent coupling.

    Raises:
        ValueError: unknown prediction, or one that cannot work with this process.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        prediction: str = "velocity",
        shape: Any = None,
        scale: float = 0.5,
        estimates: str = "posterior",
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(suggest(prediction, PREDICTIONS, "prediction"))
        if estimates not in ("posterior", "velocity"):
            raise ValueError(suggest(estimates, ("posterior", "velocity"), "estimates"))
        self.network, self.process, self.prediction = network, process, prediction
        self.scale, self.estimates = float(scale), estimates
        self.shape = tree_map_shape(shape)
        self.fields = frozenset(getattr(network, "fields", frozenset()))
        for part in process.parts.values() if isinstance(process, ProductProcess) else [process]:
            _check_prediction(part, prediction)

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """One network call."""
        condition = condition.at(t) if condition is not None else None
        n, like = batch_size(x), self._example()
        level = tree_map(lambda c: _level(c, n, like), self.process.clock(t))
        output, heads = self._output(self._input(self.process, x, t), level, condition)
        posterior = self._posterior(self.process, x, t, output, condition)
        posterior.heads = heads
        return posterior

    def _output(self, *given: Any, **options: Any) -> tuple[Tree, dict[str, Any] | None]:
        """The network's output, and in training the losses that its parts report, as the head "losses"."""
        collect: dict[str, list[Tensor]] = {}
        reports = self.training and getattr(self.network, "reports", False)
        output = self.network(*given, **options, **({"collect": collect} if reports else {}))
        dtype = self._example().dtype  # coefficients lose digits in half precision
        heads = (
            {"losses": {"balance": torch.stack(collect["balance"]).sum()}} if "balance" in collect else None
        )
        return tree_map(lambda v: v.to(dtype), output), heads

    def many(
        self, x: Tree, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """All conditions in one network call, stacked along the batch; it counts as one evaluation each."""
        k, n = len(conditions), batch_size(x)
        if k == 1 or any(not c for c in conditions):
            return super().many(x, t, conditions, step)
        stacked = Condition.cat([c for c in conditions if c is not None])
        times = tree_map(
            lambda v: v.repeat(k, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) and v.ndim else v, t
        )
        joint = self(cat([x] * k), times, stacked, step)
        return [joint[slice(i * n, (i + 1) * n)] for i in range(k)]

    def prepare(self, condition: Condition) -> Condition:
        """Refuse labels that the network has no embedding for, once a run."""
        labels = getattr(self.network, "labels", None)
        if labels and "label" in condition and len(condition["label"]):
            low, high = (int(v) for v in condition["label"].aminmax())
            if low < 0 or high >= labels:
                raise ValueError(f"label: expected 0 to {labels - 1}, got values from {low} to {high}")
        return condition

    def _input(self, process: Any, x: Tree, t: Time) -> Tree:
        if isinstance(process, ProductProcess):
            return {k: self._input(p, x[k], leaf_time(t, k)) for k, p in process.parts.items()}
        if not isinstance(process, AffineProcess):
            return x
        level = process.at(t)
        signal = (
            level.alpha + level.anchor if process.anchored else level.alpha
        )  # an anchor is much like the data
        size = (signal**2 * self.scale**2 + level.sigma**2) ** -0.5
        return scaled(size, x)

    def _posterior(
        self, process: Any, x: Tree, t: Time, output: Any, condition: Condition | None
    ) -> Posterior:
        if isinstance(process, ProductProcess):
            parts = {
                k: self._posterior(p, x[k], leaf_time(t, k), output[k], condition)
                for k, p in process.parts.items()
            }
            return ProductPosterior(process, x, t, parts, condition=condition)
        if isinstance(process, DiscreteProcess):
            return Posterior(process, x, t, probs=_clean_probs(process, x, output), condition=condition)
        mean = self._mean(process, x, t, output, condition)
        return Posterior(process, x, t, mean, condition=condition)

    def _mean(
        self, process: AffineProcess, x: Tensor, t: Time, output: Tensor, condition: Condition | None
    ) -> Tensor:
        if self.prediction == "mean":
            return output
        if self.prediction != "edm":
            return process.mean_from(self.prediction, x, output, t, condition)
        level, power = process.at(t), self.scale**2
        size = level.alpha**2 * power + level.sigma**2
        return combine(level.alpha * power / size, x, self.scale * level.sigma / size**0.5, output)


def tree_map_shape(shape: Any) -> Any:
    """Shapes as tuples, also where they were read from JSON lists."""
    if isinstance(shape, dict):
        return {k: tree_map_shape(v) for k, v in shape.items()}
    return None if shape is None else tuple(shape)


def _check_prediction(process: Process, prediction: str) -> None:
    if not isinstance(process, AffineProcess):
        return
    end = process.at(1.0)
    if prediction != "mean" and process.is_point(1.0):
        raise ValueError(
            f"prediction {prediction!r} says nothing at the point in which {type(process).__name__} ends; use 'mean'"
        )
    if prediction in ("noise", "score") and end.alpha == 0:
        raise ValueError(
            f"prediction {prediction!r} cannot be turned into data where {type(process).__name__} has no signal "
            "(alpha = 0 at time 1); use 'velocity', 'mean' or 'edm'"
        )


def _level(clock: Any, n: int, like: Tensor) -> Tensor:
    if isinstance(clock, Tensor) and clock.ndim:
        return clock.to(like.device, like.dtype)
    return torch.full((n,), float(clock), dtype=like.dtype, device=like.device)


def _clean_probs(process: DiscreteProcess, x: Tensor, logits: Tensor) -> Tensor:
    probs = logits.softmax(-1)
    if not isinstance(process, Absorbing):
        return probs
    known = one_hot(x, process.states)[..., :-1].to(probs.dtype)  # an entry that shows is known
    return torch.where((x == process.mask).unsqueeze(-1), probs, known)

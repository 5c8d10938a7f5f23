"""A denoiser that also says, by a head each, what other modalities of its sample are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Posterior,
    Process,
    Step,
    Time,
    Tree,
    align,
    combine,
    suggest,
)
from ornstein.processes import Aggregated

from .network import NetworkDenoiser

__all__ = ["LIKELIHOODS", "AggregatedMixture", "MultiTask"]

LIKELIHOODS = ("categorical", "gaussian")


class MultiTask(NetworkDenoiser):
    """A network of several heads (`networks.MultiHead`) as a denoiser of z_t whose posterior's `heads` tell of the
    other modalities: log p(class | z_t) (B, K) of a categorical head, E[x_i | z_t] of a Gaussian one.

    Under `Aggregated` the heads also say what was added to the chain: `end` = E(their means), and the network's own
    output is read with that taken off. MT-Diffusion (Chen et al. 2024, 2407.17571).

    To sample given a modality, take `guides.ClassifierGradient(model.log_prob("label"))`: the head is a classifier of
    noisy states.

    Args:
        network: (x, level, condition) -> {"state": ..., head: ...}.
        process: affine; `Aggregated` with `aggregate`.
        prediction: of "state", see `NetworkDenoiser`.
        shape: event shape.
        scale: root-mean-square of the data's entries.
        likelihoods: {head: "categorical" or "gaussian"}.
        aggregate: `spaces.Aggregate` of the heads' modalities.

    Raises:
        ValueError: an unknown likelihood; an aggregate without the process, or the process without it.
    """

    process: AffineProcess

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        prediction: str = "edm",
        shape: Any = None,
        scale: float = 0.5,
        likelihoods: dict[str, str] | None = None,
        aggregate: nn.Module | None = None,
    ) -> None:
        super().__init__(network, process, prediction, shape, scale)
        for kind in (likelihoods or {}).values():
            if kind not in LIKELIHOODS:
                raise ValueError(suggest(kind, LIKELIHOODS, "likelihood"))
        if isinstance(process, Aggregated) != (aggregate is not None):
            raise ValueError("aggregate: is needed with the process Aggregated, and with no other")
        self.likelihoods = dict(likelihoods or {})
        self.aggregate: Any = aggregate

    def log_prob(self, head: str) -> Any:
        """log p(condition[head] | x_t) of a categorical head, as `guides.ClassifierGradient` calls it."""

        def of(x: Tensor, t: Time, condition: Condition | None) -> Tensor:
            assert condition is not None
            rows: Tensor = self(x, t).heads[head]
            return rows.gather(1, condition[head].unsqueeze(1)).squeeze(1)

        return of

    def _output(self, *given: Any, **options: Any) -> tuple[Tree, dict[str, Any] | None]:
        """The network's output, categorical heads as log-probabilities, and the heads again by themselves."""
        output, reported = super()._output(*given, **options)
        read = {
            k: v.log_softmax(-1) if self.likelihoods.get(k) == "categorical" else v for k, v in output.items()
        }
        return read, {**(reported or {}), **{k: v for k, v in read.items() if k != "state"}}

    def _posterior(
        self, process: Any, x: Tree, t: Time, output: Any, condition: Condition | None
    ) -> Posterior:
        if self.aggregate is None:
            return super()._posterior(process, x, t, output["state"], condition)
        end = self.aggregate(
            {
                k: output[k].exp() if kind == "categorical" else output[k]
                for k, kind in self.likelihoods.items()
            }
        ).detach()  # heads learn by their own likelihoods
        u = combine(1.0, x, -process.at(t).anchor, end)
        mean = self._mean(process.process, u, t, output["state"], condition)
        return Posterior(process, x, t, mean, end=end, condition=condition)


class AggregatedMixture(Denoiser):
    """Exact posterior of a class and a state under `Aggregated`: class k with weight w_k, z_0 ~ N(m_k, v_k I), y = e_k,

        z_t | k ~ N(alpha m_k + c e_k, (alpha^2 v_k + sigma^2) I),    p(k | z_t) = the responsibilities.

    Args:
        weights: (K,), positive; they are normalised.
        means: (K, *event).
        variances: one number, or (K,).
        planes: (K, *event), what each class adds.
        process: `Aggregated`.
    """

    process: Aggregated
    log_weights: Tensor
    means: Tensor
    variances: Tensor
    planes: Tensor

    def __init__(self, weights: Any, means: Any, variances: Any, planes: Any, process: Aggregated) -> None:
        super().__init__()
        means, planes = torch.as_tensor(means), torch.as_tensor(planes)
        if not isinstance(process, Aggregated) or means.shape != planes.shape:
            raise ValueError(
                f"expected the process Aggregated, and means and planes of one shape; got {type(process).__name__}, "
                f"{tuple(means.shape)} and {tuple(planes.shape)}"
            )
        self.process, self.shape = process, tuple(means.shape[1:])
        weights = torch.as_tensor(weights, dtype=means.dtype)
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means.flatten(1))
        self.register_buffer("variances", torch.as_tensor(variances, dtype=means.dtype).expand(len(means)))
        self.register_buffer("planes", planes.flatten(1))

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact; the head "label" holds log p(k | z_t), (B, K)."""
        level = self.process.at(t)
        flat = x.flatten(1).unsqueeze(1)
        alpha, c, sigma = (align(torch.as_tensor(v), flat) for v in level)
        spread = alpha**2 * self.variances.unsqueeze(1) + sigma**2
        gap = flat - alpha * self.means - c * self.planes
        log_p = (-0.5 * (gap**2 / spread + (2 * math.pi * spread).log())).sum(-1) + self.log_weights
        means = self.means + alpha * self.variances.unsqueeze(1) / spread * gap
        share = log_p.softmax(1)
        mean = torch.einsum("bk,bkd->bd", share, means).reshape(x.shape)
        end = (share @ self.planes).reshape(x.shape)
        heads = {"label": log_p.log_softmax(1)}
        return Posterior(self.process, x, t, mean, end=end, heads=heads, condition=condition)

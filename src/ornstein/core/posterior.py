"""What a denoiser knows of x_0 given x_t: the denoising posterior, as an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .condition import Condition
from .noise import Noise
from .tree import Time, Tree, accumulate, align, combine, select

if TYPE_CHECKING:
    from .process import Process

__all__ = ["Posterior", "ProductPosterior", "average", "mix"]


class Posterior:
    """The law of x_0 given x_t, as far as it was computed.

    Attributes:
        mean: E[x_0 | x_t], (B, ...). Of a discrete state, its probabilities.
        variance: of x_0 given x_t, per entry (B, ...) or as a matrix (B, D, D), or None.
        probs: (B, ..., K) for a discrete state.
        heads: further named outputs of the network.
        end: the other end y of the process, or its posterior mean, where it is not the condition's anchor.
        evaluations: network calls that made it, one number or (B,) where the rows differ.

    `noise`, `score` and `velocity` are asked of the process when first read.
    """

    __slots__ = (
        "_views",
        "condition",
        "end",
        "evaluations",
        "heads",
        "mean",
        "probs",
        "process",
        "t",
        "variance",
        "x",
    )

    def __init__(
        self,
        process: Process,
        x: Tree,
        t: Time,
        mean: Tree = None,
        *,
        variance: Any = None,
        probs: Tensor | None = None,
        heads: dict[str, Any] | None = None,
        end: Tree = None,
        evaluations: Any = 1,
        condition: Condition | None = None,
    ) -> None:
        self.process, self.x, self.t = process, x, t
        self.mean: Any = probs if mean is None else mean
        self.variance, self.probs, self.heads, self.end = variance, probs, heads, end
        self.evaluations, self.condition = evaluations, condition
        self._views: dict[str, Tree] | None = None

    def _view(self, name: str) -> Tree:
        if self._views is None:
            self._views = {}
        if name not in self._views:
            self._views[name] = self.process.view(name, self)
        return self._views[name]

    @property
    def noise(self) -> Tree:
        """E[z | x_t], the predicted noise."""
        return self._view("noise")

    @property
    def score(self) -> Tree:
        """The gradient of log q_t at x_t."""
        return self._view("score")

    @property
    def velocity(self) -> Tree:
        """dx/dt of the probability flow."""
        return self._view("velocity")

    @property
    def mode(self) -> Tree:
        """The likeliest category of every entry; the mean of a continuous state."""
        return self.mean if self.probs is None else self.probs.argmax(-1)

    def with_mean(self, mean: Tree, **changes: Any) -> Posterior:
        """The same posterior with another mean; what no longer holds (the variance) is dropped."""
        kept: dict[str, Any] = {
            "heads": self.heads,
            "end": self.end,
            "evaluations": self.evaluations,
            "condition": self.condition,
            **changes,
        }
        if self.probs is not None:
            kept.setdefault("probs", mean)
        return Posterior(self.process, self.x, self.t, mean, **kept)

    def sample(self, noise: Noise, k: int = 1) -> Tree:
        """k draws of x_0, (k, B, ...).

        Raises:
            ValueError: only the mean is known.
        """
        if self.probs is not None:
            return (self.probs.log() + noise.gumbel(self.probs, (k,))).argmax(-1)
        if self.variance is None:
            raise ValueError("Posterior.sample: this denoiser gives a mean without a variance")
        drawn = noise.normal(self.mean, (k,))
        if self.variance.ndim == 3 and self.variance.shape[1:] == (self.mean[0].numel(),) * 2:
            root = torch.linalg.cholesky(self.variance)
            return self.mean + (root @ drawn.flatten(2).unsqueeze(-1)).reshape(drawn.shape)
        return self.mean + align(self.variance, self.mean).sqrt() * drawn

    def __getitem__(self, index: Any) -> Posterior:
        """The rows `index`, or the leaf of that name."""
        chosen = {
            "variance": select(self.variance, index),
            "heads": select(self.heads, index),
            "end": select(self.end, index),
            "evaluations": select(self.evaluations, index),
            "condition": self.condition.rows(index) if self.condition is not None else None,
        }
        if self.probs is not None:
            chosen["probs"] = self.probs[index]
        mean = select(self.mean, index)
        return Posterior(self.process, select(self.x, index), select(self.t, index), mean, **chosen)


class ProductPosterior(Posterior):
    """One posterior per leaf of a tree state; every view is a tree."""

    __slots__ = ("parts",)

    def __init__(
        self, process: Process, x: Tree, t: Time, parts: dict[str, Posterior], **options: Any
    ) -> None:
        means = {name: part.mean for name, part in parts.items()}
        super().__init__(process, x, t, means, **options)
        self.parts = parts

    def _view(self, name: str) -> Tree:
        return {k: getattr(part, name) for k, part in self.parts.items()}

    @property
    def mode(self) -> Tree:
        """Leaf by leaf."""
        return {k: part.mode for k, part in self.parts.items()}

    def with_mean(self, mean: Tree, **changes: Any) -> ProductPosterior:
        """Leaf by leaf; a leaf left out of `mean` stays."""
        parts = {k: p.with_mean(mean[k]) if k in mean else p for k, p in self.parts.items()}
        options = {"evaluations": self.evaluations, "condition": self.condition, **changes}
        return ProductPosterior(self.process, self.x, self.t, parts, **options)

    def sample(self, noise: Noise, k: int = 1) -> Tree:
        """Leaf by leaf."""
        return {name: part.sample(noise.fold(name), k) for name, part in self.parts.items()}

    def __getitem__(self, index: Any) -> Any:
        """The rows `index`, or the leaf of that name."""
        if isinstance(index, str):
            return self.parts[index]
        parts = {k: p[index] for k, p in self.parts.items()}
        condition = self.condition.rows(index) if self.condition is not None else None
        x, t, calls = select((self.x, self.t, self.evaluations), index)
        return ProductPosterior(self.process, x, t, parts, evaluations=calls, condition=condition)


def mix(posteriors: Sequence[Posterior], weights: Sequence[Any]) -> Posterior:
    """sum_i w_i posterior_i, for weights that add to 1 (numbers, or tensors (B,)).

    The result is then the same in every view (mean, noise, score, velocity). Discrete states are mixed as
    log-probabilities and normalised again, which is the same rule for their logits.
    """
    first = posteriors[0]
    calls = sum(p.evaluations for p in posteriors)
    if isinstance(first, ProductPosterior):
        parts = {k: mix([p[k] for p in posteriors], weights) for k in first.parts}
        options = {"evaluations": calls, "condition": first.condition}
        return ProductPosterior(first.process, first.x, first.t, parts, **options)
    if first.probs is not None:
        return first.with_mean(_mixed_probs(posteriors, weights), evaluations=calls)
    return first.with_mean(
        _sum(posteriors, weights, "mean"), end=_end(posteriors, weights), evaluations=calls
    )


def _sum(posteriors: Sequence[Posterior], weights: Sequence[Any], name: str) -> Tree:
    values = [getattr(p, name) for p in posteriors]
    total = combine(weights[0], values[0], weights[1], values[1])
    for value, weight in zip(values[2:], weights[2:], strict=True):
        total = accumulate(total, weight, value, inplace=False)
    return total


def _end(posteriors: Sequence[Posterior], weights: Sequence[Any]) -> Tree:
    """The other end's mean is mixed like that of x_0, where it is not known."""
    return None if posteriors[0].end is None else _sum(posteriors, weights, "end")


def average(posteriors: Sequence[Posterior], weights: Sequence[Any]) -> Posterior:
    """The mixture law sum_i w_i p_i(x_0 | x_t), for weights in [0, 1] that add to 1.

    Means and probabilities are averaged; a variance known of all becomes the mixture's own, which holds the
    spread of the means. For continuous states the mean is that of `mix`.
    """
    first = posteriors[0]
    calls = sum(p.evaluations for p in posteriors)
    if isinstance(first, ProductPosterior):
        parts = {k: average([p[k] for p in posteriors], weights) for k in first.parts}
        options = {"evaluations": calls, "condition": first.condition}
        return ProductPosterior(first.process, first.x, first.t, parts, **options)
    mean = _sum(posteriors, weights, "mean")
    made = first.with_mean(mean, end=_end(posteriors, weights), evaluations=calls)
    if first.probs is None and all(p.variance is not None for p in posteriors):
        made.variance = _mixture_variance(posteriors, weights, mean)
    return made


def _mixture_variance(posteriors: Sequence[Posterior], weights: Sequence[Any], mean: Tensor) -> Tensor:
    total: Any = 0.0
    for posterior, weight in zip(posteriors, weights, strict=True):
        gap = posterior.mean - mean
        spread = gap**2
        if posterior.variance.shape != mean.shape:  # a matrix over the flattened event
            flat = gap.flatten(1)
            spread = flat.unsqueeze(2) * flat.unsqueeze(1)
        total = total + align(weight, spread) * (posterior.variance + spread)
    return torch.as_tensor(total)


def _mixed_probs(posteriors: Sequence[Posterior], weights: Sequence[Any]) -> Tensor:
    def term(posterior: Posterior, weight: Any) -> Tensor:
        probs: Tensor = posterior.mean
        log_p = probs.clamp(min=torch.finfo(probs.dtype).tiny).log()
        return torch.as_tensor(align(weight, probs), dtype=probs.dtype) * log_p

    total = term(posteriors[0], weights[0])
    for posterior, weight in zip(posteriors[1:], weights[1:], strict=True):
        total = total + term(posterior, weight)
    possible = torch.stack([p.mean > 0 for p in posteriors]).all(0)
    return total.masked_fill(~possible, -torch.inf).softmax(-1)

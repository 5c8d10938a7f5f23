"""Guidance by gradients: of a classifier of noisy states, or of a reward of the clean estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Guide,
    Posterior,
    Step,
    Time,
    Tree,
    combine,
    scaled,
)

__all__ = ["ClassifierGradient", "RewardGradient"]


class _ScoreShift(Guide):
    """Adds a gradient g to the score: D = D + (sigma^2 / alpha) g, the same in every view."""

    def __init__(self, scale: float) -> None:
        self.scale = float(scale)

    def check(self, denoiser: Denoiser) -> None:
        """Gradients need a continuous state."""
        if not isinstance(denoiser.process, AffineProcess):
            raise ValueError(
                f"{type(self).__name__} needs an affine process, whose states have gradients; got "
                f"{type(denoiser.process).__name__}"
            )
        if denoiser.process.latent:
            raise ValueError(
                f"{type(self).__name__}: the gradient would move x_0 and leave y, which is latent in "
                f"{type(denoiser.process).__name__} and depends on it"
            )
        if denoiser.estimates != "posterior":
            raise ValueError(
                f"{type(self).__name__} shifts a score, and this model estimates a {denoiser.estimates} (it was "
                "trained under a dependent coupling), not a posterior"
            )

    @staticmethod
    def _time(denoiser: Denoiser, t: Time) -> Time:
        """t, or the last time with some signal: without any, the weight is infinite and the gradient 0."""
        process: Any = denoiser.process
        alpha, _, sigma = process.at(t)
        if not isinstance(t, Tensor):
            return t if alpha >= 1e-3 else float(process.time_at(math.log(1e-3 / (sigma or 1.0))))
        noise = torch.where(sigma > 0, sigma, 1.0)  # none at an end that is a point
        return torch.where(alpha >= 1e-3, t, process.time_at((1e-3 / noise).log()))

    def _shifted(self, posterior: Posterior, gradient: Tree) -> Posterior:
        process: Any = posterior.process
        level = process.at(posterior.t)
        weight = self.scale * level.sigma**2 / level.alpha
        return posterior.with_mean(combine(1.0, posterior.mean, weight, gradient))


class ClassifierGradient(_ScoreShift):
    """score + scale grad log p(label | x_t), for a classifier of noisy states (Dhariwal and Nichol 2021,
    2105.05233).

    Exact, at scale 1, for the exact classifier: the result is the score of the conditional law.

    Args:
        log_prob: log p(condition | x_t), called as log_prob(x, t, condition) -> (B,).
        scale: guidance scale.
        fields: condition fields that the classifier reads.
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor, Time, Condition | None], Tensor],
        scale: float = 1.0,
        fields: tuple[str, ...] = ("label",),
    ) -> None:
        super().__init__(scale)
        self.log_prob, self.fields = log_prob, frozenset(fields)

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """One network call, and the classifier's gradient."""
        t = self._time(denoiser, t)
        inner, keep = denoiser(x, t, condition, step), torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            value = self.log_prob(leaf, t, condition).sum()
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=keep)
        return self._shifted(inner, gradient)


class RewardGradient(_ScoreShift):
    """score + scale grad r(D(x_t)), towards data of high reward.

    Through the denoiser (the default) this is exact for Gaussian data and a linear reward, where the guided
    law is the data's tilted by exp(scale r), and an approximation elsewhere (2209.14687, 2105.05233).
    Without, the gradient is taken at the clean estimate and its Jacobian replaced by alpha: cheaper, and
    wrong by the posterior's variance.

    Args:
        reward: r(x_0, condition) -> (B,), differentiable.
        scale: guidance scale.
        through_denoiser: whether to differentiate through the network.
        fields: condition fields that the reward reads.
    """

    def __init__(
        self,
        reward: Callable[[Tensor, Condition | None], Tensor],
        scale: float = 1.0,
        through_denoiser: bool = True,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(scale)
        self.reward, self.through_denoiser, self.fields = reward, through_denoiser, frozenset(fields)

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """One network call, differentiated."""
        t = self._time(denoiser, t)
        if not self.through_denoiser:
            inner = denoiser(x, t, condition, step)
            at = inner.mean if inner.mean.requires_grad else inner.mean.detach().requires_grad_()
            gradient = self._gradient(at, at, condition, inner.mean.requires_grad)
            process: Any = inner.process
            alpha = process.at(t).alpha
            return self._shifted(inner, scaled(alpha, gradient))
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            inner = denoiser(leaf, t, condition, step)
            gradient = self._gradient(inner.mean, leaf, condition, keep)
        inner = inner if keep else inner.with_mean(inner.mean.detach())
        inner.x = x
        return self._shifted(inner, gradient)

    def _gradient(self, mean: Tensor, leaf: Tensor, condition: Condition | None, keep: bool) -> Any:
        with torch.enable_grad():
            value = self.reward(mean, condition).sum()
            return torch.autograd.grad(value, leaf, create_graph=keep)[0]

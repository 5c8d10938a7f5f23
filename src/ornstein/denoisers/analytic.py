"""Exact denoisers of affine processes: the truth that solvers, guides and networks are tested against.

All are conjugate-Gaussian: for x_t = alpha x_0 + sigma z and x_0 ~ N(m, C),

    D = m + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha m),    Var = sigma^2 C (alpha^2 C + sigma^2)^-1

Under a process with an anchor y they read u = x_t - anchor_weight y in place of x_t: the data do not depend on y.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

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
    sum_event,
)

__all__ = ["EmpiricalDenoiser", "GaussianDenoiser", "MixtureDenoiser"]


class MixtureDenoiser(Denoiser):
    """Exact posterior where the data are sum_k w_k N(m_k, C_k), with full covariances.

    Args:
        weights: (K,), positive; they are normalised.
        means: (K, *event).
        covariances: (K, D, D) with D the event's size; or (K,), or one number, for multiples of the identity.
        process: an affine process, whose anchor says nothing of the data.
        labels: (K,) integers, the class of every component: then `label` conditions on it.
        variance: whether the posterior carries Var(x_0 | x_t), (B, D, D).

    Raises:
        ValueError: shapes that do not fit, weights that are not positive, covariances that are not positive
            semi-definite, a process that is not affine.
    """

    process: AffineProcess
    log_weights: Tensor
    means: Tensor
    values: Tensor
    vectors: Tensor
    labels: Tensor | None

    def __init__(
        self,
        weights: Any,
        means: Any,
        covariances: Any,
        process: AffineProcess,
        labels: Any = None,
        variance: bool = False,
    ) -> None:
        super().__init__()
        _check_process(process)
        points = _points(means, "means")
        self.process, self.shape, self.variance = process, tuple(points.shape[1:]), variance
        values, vectors = _spectrum(covariances, points.flatten(1))
        self.register_buffer("log_weights", _log_weights(weights, points))
        self.register_buffer("means", points.flatten(1))
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)
        self.register_buffer("labels", None if labels is None else torch.as_tensor(labels))
        self.fields = frozenset() if labels is None else frozenset({"label"})

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact; heads hold the components' `responsibilities` (B, K)."""
        _, turned, spread = self._turned(x, t, condition)
        weights = self._log_joint(turned, spread, condition).softmax(-1)
        return self.given(x, t, weights, condition)

    def given(self, x: Tree, t: Time, weights: Tensor, condition: Condition | None = None) -> Posterior:
        """The posterior where the components have the responsibilities `weights` (B, K)."""
        alpha, turned, spread = self._turned(x, t, condition)
        means = self.means + self._back(alpha * self.values / spread * turned)  # (B, K, D)
        mean = (weights.unsqueeze(-1) * means).sum(1)
        variance = self._variance(weights, means, mean, alpha, spread) if self.variance else None
        return Posterior(
            self.process,
            x,
            t,
            mean.reshape(x.shape),
            variance=variance,
            heads={"responsibilities": weights},
            condition=condition,
        )

    def log_likelihoods(self, x: Tree, t: Time, condition: Condition | None = None) -> Tensor:
        """log q(x_t | component), (B, K)."""
        _, turned, spread = self._turned(x, t, condition)
        return self._log_joint(turned, spread, None) - self.log_weights

    def log_density(self, x: Tree, t: Time, condition: Condition | None = None) -> Tensor:
        """log q_t(x) of the noised data in nats, (B,)."""
        _, turned, spread = self._turned(x, t, condition)
        return self._log_joint(turned, spread, condition).logsumexp(-1)

    def whitened(self, x: Tree, t: Time, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """(alpha^2 C_k + sigma^2)^-1 (u - alpha m_k) of each component, (B, K, D), and responsibilities (B, K)."""
        _, turned, spread = self._turned(x, t, condition)
        return self._back(turned / spread), self._log_joint(turned, spread, condition).softmax(-1)

    def sample_data(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of the data themselves, (n, *event)."""
        which = torch.multinomial(self.log_weights.exp(), n, True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        turned = (self.values[which].sqrt() * z).unsqueeze(-1)
        return (self.means[which] + (self.vectors[which] @ turned).squeeze(-1)).reshape(n, *self.shape)

    def _turned(self, x: Tensor, t: Time, condition: Condition | None) -> tuple[Any, Tensor, Tensor]:
        """alpha, u - alpha m in each component's principal axes (B, K, D), and its variance there."""
        level = self.process.at(t)
        flat = self.process.add_anchor(x, -level.anchor, condition).flatten(1).unsqueeze(1)
        alpha, sigma = (align(v, flat) for v in (level.alpha, level.sigma))
        gap = flat - alpha * self.means
        turned = torch.einsum("bkd,kde->bke", gap, self.vectors)
        tiny = torch.finfo(x.dtype).tiny ** 0.5
        return alpha, turned, (alpha**2 * self.values + sigma**2).clamp(min=tiny)

    def _back(self, turned: Tensor) -> Tensor:
        return torch.einsum("bke,kde->bkd", turned, self.vectors)

    def _log_joint(self, turned: Tensor, spread: Tensor, condition: Condition | None) -> Tensor:
        log_p = -0.5 * (turned**2 / spread + (2 * math.pi * spread).log()).sum(-1) + self.log_weights
        if self.labels is None or not condition or "label" not in condition:
            return log_p
        asked = (condition["label"].unsqueeze(1) == self.labels) | ~condition.present["label"].unsqueeze(1)
        if not bool(asked.any(1).all()):
            raise ValueError(f"label: expected one of {sorted(set(self.labels.tolist()))}")
        # the classes' own weights do not count among rows of one class, so log_p stays a density given the label
        share = torch.where(asked, self.log_weights, -torch.inf).logsumexp(1, keepdim=True)
        return torch.where(asked, log_p - share, -torch.inf)

    def _variance(self, weights: Tensor, means: Tensor, mean: Tensor, alpha: Any, spread: Tensor) -> Tensor:
        own = self.values - (alpha * self.values) ** 2 / spread  # (B, K, D) in principal axes
        within = (self.vectors * own.unsqueeze(-2)) @ self.vectors.mT
        gap = means - mean.unsqueeze(1)
        within = within.expand(*weights.shape, *within.shape[-2:])
        between = torch.einsum("bk,bki,bkj->bij", weights, gap, gap)
        return torch.einsum("bk,bkij->bij", weights, within) + between


class GaussianDenoiser(MixtureDenoiser):
    """Exact posterior of Gaussian data N(mean, covariance), with its variance.

    Args:
        mean: (*event).
        covariance: (D, D), or a number for a multiple of the identity.
        process: an affine process, whose anchor says nothing of the data.
    """

    def __init__(self, mean: Any, covariance: Any, process: AffineProcess) -> None:
        mean = torch.as_tensor(mean)
        covariance = torch.as_tensor(covariance, dtype=mean.dtype)
        super().__init__(torch.ones(1), mean[None], covariance[None], process, variance=True)

    def flow(self, x: Tensor, t: Time, s: Time, condition: Condition | None = None) -> Tensor:
        """The exact probability-flow map from t to s: u - alpha_t m stretched by sqrt(spread_s / spread_t)
        along each principal axis.
        """
        _, turned, before = self._turned(x, t, condition)
        alpha, _, after = self._turned(x, s, condition)
        moved = (alpha * self.means[0] + self._back((after / before).sqrt() * turned))[:, 0].reshape(x.shape)
        return self.process.add_anchor(moved, self.process.at(s).anchor, condition)

    def log_det(self, t: Time, s: Time) -> Tensor:
        """log |det d flow(x, t, s) / d x| = sum_axes log(spread_s / spread_t) / 2, (1,) or (B,): the same for all x."""
        spread_t, spread_s = (self._spread(v) for v in (t, s))
        return 0.5 * sum_event((spread_s / spread_t).log())

    def _spread(self, t: Time) -> Tensor:
        level = self.process.at(t)
        alpha, sigma = (torch.as_tensor(align(v, self.values)) for v in (level.alpha, level.sigma))
        return alpha**2 * self.values + sigma**2


class EmpiricalDenoiser(Denoiser):
    """Exact posterior where the data are a finite set of points: what a network that memorises would learn.

    Args:
        data: (N, *event).
        process: an affine process, whose anchor says nothing of the data.
        labels: (N,) integers, the class of every point: then `label` conditions on it.
    """

    process: AffineProcess
    data: Tensor
    labels: Tensor | None

    def __init__(self, data: Any, process: AffineProcess, labels: Any = None) -> None:
        super().__init__()
        _check_process(process)
        points = _points(data, "data")
        self.process, self.shape = process, tuple(points.shape[1:])
        self.register_buffer("data", points.flatten(1))
        self.register_buffer("labels", None if labels is None else torch.as_tensor(labels))
        self.fields = frozenset() if labels is None else frozenset({"label"})

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The points averaged with weights softmax(-|x - alpha x_i|^2 / 2 sigma^2)."""
        level = self.process.at(t)
        flat = self.process.add_anchor(x, -level.anchor, condition).flatten(1)
        alpha, sigma = (align(v, flat) for v in (level.alpha, level.sigma))
        # |x - alpha x_i|^2 less |x|^2, which all points share
        distance = alpha**2 * (self.data**2).sum(1) - 2 * alpha * (flat @ self.data.T)
        precision = 0.5 / torch.as_tensor(sigma, dtype=x.dtype).square().clamp(min=1e-30)
        weights = self._asked(-distance * precision, condition).softmax(-1)
        mean = (weights @ self.data).reshape(x.shape)
        return Posterior(self.process, x, t, mean, heads={"responsibilities": weights}, condition=condition)

    def _asked(self, logits: Tensor, condition: Condition | None) -> Tensor:
        if self.labels is None or not condition or "label" not in condition:
            return logits
        asked = condition["label"].unsqueeze(1) == self.labels
        return torch.where(asked | ~condition.present["label"].unsqueeze(1), logits, -torch.inf)


def _check_process(process: Process) -> None:
    if not isinstance(process, AffineProcess):
        raise ValueError(f"process: expected an affine process, got {process!r}")


def _points(given: Any, name: str) -> Tensor:
    points = torch.as_tensor(given)
    points = points if points.is_floating_point() else points.to(torch.get_default_dtype())
    if points.ndim < 2 or not len(points) or not bool(torch.isfinite(points).all()):
        raise ValueError(f"{name}: expected finite numbers (K, *event), got shape {tuple(points.shape)}")
    return points


def _log_weights(weights: Any, points: Tensor) -> Tensor:
    weights = torch.as_tensor(weights, dtype=points.dtype)
    if weights.shape != points.shape[:1] or not bool((weights > 0).all()):
        raise ValueError(f"weights: expected {len(points)} positive numbers, got {weights.tolist()}")
    return (weights / weights.sum()).log()


def _spectrum(covariances: Any, points: Tensor) -> tuple[Tensor, Tensor]:
    """Principal variances (K, D) and axes (K, D, D)."""
    k, d = points.shape
    given = torch.as_tensor(covariances, dtype=points.dtype)
    if given.ndim < 2:
        axes = torch.eye(d, dtype=points.dtype).expand(k, d, d)
        values = given.expand(k).unsqueeze(1).expand(k, d).clone()
    elif given.shape == (k, d, d):
        values, axes = torch.linalg.eigh(given)
    else:
        raise ValueError(
            f"covariances: expected a number, ({k},) or ({k}, {d}, {d}); got {tuple(given.shape)}"
        )
    if bool((values < -1e-10 * values.abs().amax().clamp(min=1e-30)).any()):
        raise ValueError("covariances: not positive semi-definite")
    return values.clamp(min=0.0), axes

"""Denoisers of two-sided interpolants: exact between Gaussian mixtures, and networks for velocity and noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import (
    Condition,
    Denoiser,
    Posterior,
    Step,
    Time,
    Tree,
    align,
    batch_size,
    scaled,
    suggest,
)
from ornstein.processes import GaussianMixture, Interpolant

__all__ = ["InterpolantDenoiser", "InterpolantMixture"]


class InterpolantMixture(Denoiser):
    """Exact posterior between a mixture of Gaussians as data and one as base, drawn independently (2303.08797).

    For component i of the data, N(m_i, S_i), and j of the base, N(n_j, C_j),

        x_t ~ N(alpha m_i + beta n_j, S),    S = alpha^2 S_i + beta^2 C_j + gamma^2,    r = S^-1 (x_t - its mean)
        E[x_0] = m_i + alpha S_i r,    E[y] = n_j + beta C_j r,    score = -r

    averaged over the pairs by their responsibilities.

    Args:
        data: law of x_0.
        process: an Interpolant; its base is a `GaussianMixture`, or None for a standard normal.

    Raises:
        ValueError: a base given by samples, whose law is not known.
    """

    process: Interpolant

    def __init__(self, data: GaussianMixture, process: Interpolant) -> None:
        super().__init__()
        base, d = process.base, data.means.shape[1]
        if base is None:
            zero = torch.zeros(1, d, dtype=data.means.dtype)
            base = GaussianMixture([1.0], zero, 1.0)
        if not isinstance(base, GaussianMixture):
            raise ValueError(
                "process: its base must be a GaussianMixture for the exact posterior, not samples"
            )
        self.data, self.base, self.process, self.shape = data, base, process, (d,)

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact; heads also hold the pairs' `responsibilities` (B, K L)."""
        weights, pull, log_p = self._pairs(x, t)
        share = log_p.softmax(-1)
        means, covariances = self._paired()
        ends = [
            torch.einsum("bp,bpd->bd", share, m + _times(weight, (c @ pull.unsqueeze(-1)).squeeze(-1)))
            for m, c, weight in zip(means, covariances, weights, strict=True)
        ]
        score = -torch.einsum("bp,bpd->bd", share, pull)
        return self.process.posterior(
            x, t, (ends[0], ends[1]), score, condition=condition, responsibilities=share
        )

    def log_density(self, x: Tensor, t: Time) -> Tensor:
        """log q_t(x) in nats, (B,)."""
        return self._pairs(x, t)[2].logsumexp(-1)

    def sample_data(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of the data, (n, D)."""
        return self.data.sample(n, generator)

    def _paired(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Means (K L, D) of x_0 and y over pairs, and their covariances (K L, D, D)."""
        k, l = len(self.data.weights), len(self.base.weights)
        means = self.data.means.repeat_interleave(l, 0), self.base.means.repeat(k, 1)
        return means, (self.data.covariances.repeat_interleave(l, 0), self.base.covariances.repeat(k, 1, 1))

    def _pairs(self, x: Tensor, t: Time) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """alpha and beta, S^-1 (x less every pair's mean) (B, P, D), and log weight + log density (B, P)."""
        level = self.process.at(t)
        alpha, beta, gamma = (torch.as_tensor(v, dtype=x.dtype, device=x.device)[..., None] for v in level)
        (m, n), (s, c) = self._paired()
        gap = x.unsqueeze(1) - _times(alpha, m) - _times(beta, n)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        a, b, g = (v[..., None, None] ** 2 for v in (alpha, beta, gamma))  # against (P, D, D)
        root = torch.linalg.cholesky(a * s + b * c + g * eye)
        whiten = torch.linalg.solve_triangular(
            root, eye.expand_as(root), upper=False
        )  # once a time, not a row
        z = (whiten @ gap.unsqueeze(-1)).squeeze(-1)
        pull = (whiten.mT @ z.unsqueeze(-1)).squeeze(-1)
        volume = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_weight = (self.data.weights.log().unsqueeze(1) + self.base.weights.log()).flatten()
        log_p = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1) - volume + log_weight
        return (alpha, beta), pull, log_p


def _times(weight: Tensor, value: Tensor) -> Tensor:
    """weight (1,) or (B, 1) times values of pairs, (P, D) or (B, P, D)."""
    return weight.unsqueeze(-1) * value


VELOCITIES, NOISES = ("b", "v"), ("eta", "score")
EDGE = 1e-3  # a network's noise is read as a score no nearer to an end than this


class InterpolantDenoiser(Denoiser):
    """Two networks as a denoiser of an interpolant: one for the velocity, one for the latent noise.

    They are told x_t over its root-mean-square and the clock log((1 - t) / t) / 2. With b = E[dx_t/dt | x_t],
    v = E[alpha' x_0 + beta' y | x_t] and eta = E[z | x_t] (2303.08797),

        score = -eta / gamma,    b = v - gamma gamma' score

    and E[x_0 | x_t], E[y | x_t] follow by a 2x2 system. The sign of eta is that of z; the authors' code has the other.

    Args:
        velocity: network(x, level, condition) -> like x, read as `predictions[0]`.
        noise: network read as `predictions[1]`; None for a denoiser that follows the flow alone (epsilon = 0).
        process: an Interpolant.
        predictions: ("b" or "v", "eta" or "score").
        shape: event shape.
        scale: root-mean-square of the entries of data and base.

    Raises:
        ValueError: unknown predictions, or "v" without a network of the noise.
    """

    process: Interpolant

    def __init__(
        self,
        velocity: nn.Module,
        noise: nn.Module | None,
        process: Interpolant,
        predictions: tuple[str, str] = ("b", "eta"),
        shape: Any = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(process, Interpolant):
            raise ValueError(f"process: expected an Interpolant, got {process!r}")
        if len(predictions) != 2:
            raise ValueError(f"predictions: expected two names such as ('b', 'eta'), got {predictions!r}")
        for name, known in zip(predictions, (VELOCITIES, NOISES), strict=True):
            if name not in known:
                raise ValueError(suggest(name, known, "prediction"))
        if noise is None and predictions[0] == "v" and process.gamma != "zero":
            raise ValueError(
                "predictions: 'v' is a velocity only with the noise's network; use 'b', or give one"
            )
        if noise is not None and process.gamma == "zero":
            raise ValueError(
                "noise: an Interpolant with gamma 'zero' has no latent noise to predict; give None"
            )
        self.velocity, self.noise, self.process = velocity, noise, process
        self.predictions, self.scale = tuple(predictions), float(scale)
        self.shape = None if shape is None else tuple(shape)
        networks = [net for net in (velocity, noise) if net is not None]
        self.fields = frozenset().union(*(getattr(net, "fields", frozenset()) for net in networks))

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """One call of each network."""
        condition = condition.at(t) if condition is not None else None
        told = self._told(x, t)
        velocity = self.velocity(*told, condition)
        score = None if self.noise is None else self._score(self.noise(*told, condition), t)
        gg = self.process.slopes(t).sigma
        if self.predictions[0] == "v" and score is not None:
            velocity = velocity - align(gg, score) * score
        ends = self.process.solved(x, velocity, torch.zeros_like(x) if score is None else score, t)
        made = self.process.posterior(x, t, ends, score, velocity, condition)
        made.evaluations = 1 if self.noise is None else 2
        return made

    def _score(self, output: Tensor, t: Time) -> Tensor:
        if self.predictions[1] == "score":
            return output
        inside = t.clamp(EDGE, 1 - EDGE) if isinstance(t, Tensor) else min(max(t, EDGE), 1 - EDGE)
        return output / -align(self.process.at(inside).sigma, output)

    def _told(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        level = self.process.at(t)
        size = ((level.alpha**2 + level.anchor**2) * self.scale**2 + level.sigma**2) ** -0.5
        clock = torch.as_tensor(self.process.clock(t), dtype=x.dtype, device=x.device)
        return scaled(size, x), clock.expand(batch_size(x))

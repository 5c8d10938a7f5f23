"""Affine processes with something of y added on the way: shifted by all of it, or aggregating it over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Gaussian, Time, TimeGrid, Tree

from .tabulated import _cubics, _evaluated

__all__ = ["Aggregated", "Shifted"]


class Shifted(AffineProcess):
    """x_t = alpha x_0 + y + sigma z: a process moved by y at all times, so that its prior is N(y, sigma_1^2).

    The second formulation of DiffuseVAE (Pandey et al. 2022, 2201.00308), where y is an autoencoder's
    reconstruction of x_0. All of y is left at time 0, and the readout takes it off. In x_t - y this is the process
    that was given: the two differ only in what a network sees.

    Args:
        process: affine, without an anchor of its own.
        field: the condition field that holds y.

    Raises:
        ValueError: a process that is not affine, or has an anchor.
    """

    anchored = True

    def __init__(self, process: AffineProcess, field: str = "anchor") -> None:
        if not isinstance(process, AffineProcess) or process.anchored:
            raise ValueError(f"process: expected an affine process without an anchor, got {process!r}")
        super().__init__(process.space)
        self.process, self.anchor_field = process, field
        self.fields = process.fields | {field}

    @property
    def learned(self) -> bool:
        """As of the process that is moved."""
        return self.process.learned

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, 1, sigma."""
        alpha, _, sigma = self.process.schedule(t)
        return alpha, torch.ones_like(alpha), sigma

    def time_at(self, half_log_snr: Time) -> Any:
        """The process's."""
        return self.process.time_at(half_log_snr)

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """The process's."""
        return self.process.grid(kind, steps)

    def prior(self, like: Tree, condition: Condition | None = None) -> Gaussian:
        """N(anchor_weight_1 y, sigma_1^2): of the data nothing is assumed, y or not."""
        level = self.at(1.0)
        mean = self.add_anchor(torch.zeros_like(like), level.anchor, condition)
        return Gaussian(mean, level.sigma, self.space)


class Aggregated(Shifted):
    """The chain of MT-Diffusion (Chen et al. 2024, 2407.17571): every step adds a share of y = E(x), the sum of what
    the encoders of all modalities say,

        z_u | z_{u-1} ~ N(sqrt(a_u) (z_{u-1} + w_u y), 1 - a_u),        u = 1 ... N,

    so that z_t = alpha z_0 + c y + sigma z with c(u / N) = alpha(u / N) sum_{v <= u} w_v / alpha((v - 1) / N). Between
    the steps c / alpha is a monotone cubic. With weights of 0 this is the process that was given.

    y is not known when one samples: a denoiser's posterior carries `end` = E[y | z_t] (its heads, encoded), and the
    prior is N(0, sigma_1^2), right as far as c(1) is small: give weights that fall, as `fading` does.

    Args:
        process: affine, without an anchor of its own.
        weights: w_1 ... w_N, non-negative.
        field: the condition field that holds y where it is known, as in training.

    Raises:
        ValueError: no weights, or negative ones; a process with an anchor, or whose signal is gone before time 1.
    """

    latent = True

    def __init__(self, process: AffineProcess, weights: Sequence[float], field: str = "anchor") -> None:
        super().__init__(process, field)
        w = torch.tensor(list(weights), dtype=torch.float64)
        if not len(w) or not bool((w >= 0).all()):
            raise ValueError(
                f"weights: expected numbers of at least 0, one for each step; got {list(weights)}"
            )
        times = torch.linspace(0, 1, len(w) + 1, dtype=torch.float64)
        with torch.no_grad():
            before = process.schedule(times[:-1])[0]
        if not bool((before > 0).all()):
            raise ValueError("process: has no signal left at a step to which something is added")
        self.fields = process.fields  # y is the posterior's, unless training gives it
        self._times = times
        self._curve = _cubics(times, torch.cat([torch.zeros(1, dtype=torch.float64), (w / before).cumsum(0)]))

    @classmethod
    def fading(cls, process: AffineProcess, total: float = 1.0, steps: int = 10) -> Aggregated:
        """Weights w_v = (total / steps) alpha((v - 1) / steps), with which c(t) = total t alpha(t) falls with alpha."""
        before = [process.at(v / steps).alpha for v in range(steps)]
        return cls(process, [total / steps * float(alpha) for alpha in before])

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, alpha times the cubic of the interval that holds t, sigma."""
        alpha, _, sigma = self.process.schedule(t)
        times = self._times.to(t.device)
        index = (torch.searchsorted(times, t.detach().contiguous(), right=True) - 1).clamp(min=0)
        return alpha, alpha * _evaluated(self._curve, index, t - times[index]), sigma

    def prior(self, like: Tree, condition: Condition | None = None) -> Gaussian:
        """N(0, sigma_1^2), about c(1) y where y is given."""
        if condition is not None and self.anchor_field in condition:
            return super().prior(like, condition)
        return Gaussian(torch.zeros_like(like), self.at(1.0).sigma, self.space)

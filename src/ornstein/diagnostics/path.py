"""The geometry of sampling trajectories: the plane they lie in, and what is settled first.

Wang and Vastola 2023 (2303.02490): a trajectory turns from x_T to x_0 in the plane of the two, and the posterior mean
along it, the outline, settles along the principal components of the data in the order of their variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Denoiser, Sampler

from .clock import affine_process

__all__ = ["Path", "trajectory"]


@dataclass(frozen=True)
class Path:
    """Trajectories of a sampler with one network call a row.

    Attributes:
        half_log_snr: log(alpha / sigma) of each call, (T,) in float64.
        states: x at each call and at the end, (T + 1, B, ...).
        outlines: the posterior mean at each call, (T, B, ...).
    """

    half_log_snr: Tensor
    states: Tensor
    outlines: Tensor

    def plane_share(self) -> Tensor:
        """The share of each trajectory's variance over time that lies in the plane of its two ends, (B,).

        1 - sum_t |x_t - P x_t|^2 / sum_t |x_t - mean_t x_t|^2, P projecting on the span of x_T and x_0.
        """
        flat = self.states.flatten(2)
        plane = torch.linalg.qr(torch.stack([flat[0], flat[-1]], -1))[0]  # (B, D, 2)
        inside = torch.einsum("tbd,bdk->tbk", flat, plane)
        outside = flat.square().sum((0, 2)) - inside.square().sum((0, 2))
        return 1 - outside / (flat - flat.mean(0)).square().sum((0, 2))

    def settled_at(self, axes: Tensor) -> Tensor:
        """The half-log-SNR at which the outline has settled along each axis (K, D); (K,).

        That is where the mean square of what is still to come, a^T (outline - x_0), has fallen to half of its first
        value; between two calls linearly. Infinite where it has not within the calls made.
        """
        flat, end = self.outlines.flatten(2), self.states[-1].flatten(1)
        left = ((flat - end) @ axes.to(flat).T).square().mean(1)  # (T, K)
        return torch.stack([_crossing(self.half_log_snr, column) for column in (left / left[0]).T])


def trajectory(sampler: Sampler, denoiser: Denoiser, start: Any, **options: Any) -> Path:
    """Run a sampler and keep what it saw; the arguments are those of `Sampler.steps`.

    Raises:
        ValueError: a process without a log-SNR.
    """
    process = affine_process(denoiser, "trajectory")
    levels, states, outlines = [], [], []
    step = None
    for step in sampler.steps(denoiser, start, **options):
        if step.posterior is not None:
            levels.append(process.half_log_snr(step.t))
            states.append(step.x)
            outlines.append(step.posterior.mean)
    assert step is not None
    ends = torch.stack([*states, step.next])
    return Path(torch.tensor(levels, dtype=torch.float64), ends, torch.stack(outlines))


def _crossing(at: Tensor, left: Tensor) -> Tensor:
    """Where a falling curve first passes 1/2."""
    below = (left < 0.5).nonzero()
    if not len(below):
        return torch.tensor(torch.inf, dtype=torch.float64)
    i = int(below[0])
    if i == 0 or not bool(torch.isfinite(at[i - 1])):
        return at[i]
    share = (left[i - 1] - 0.5) / (left[i - 1] - left[i])
    return at[i - 1] + share.double() * (at[i] - at[i - 1])

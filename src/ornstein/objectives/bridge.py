"""Training of bridges, whose runs begin at a known point."""

from __future__ import annotations

from typing import Any

import torch

from ornstein.core import Noise, Process, Tree, leaves

from .denoising import Denoising

__all__ = ["BridgeDenoising"]


class BridgeDenoising(Denoising):
    """`Denoising` of a `BrownianBridge` or a `ConsecutiveBridge`,

        E_t E_z sum_k w(t) |D_k(x_t, t) - x_0|^2 / dim

    over the sides k, all at one time since they are sampled in lock-step. Its expectation is twice that of the
    choice of one side at random of Lyu et al. (2024, 2405.05953); whether sides share their noise z is the
    process's (`ConsecutiveBridge(shared=True)`). A run's first call is at time 1 exactly, where the log-SNR that a
    network is told is far from all others: so a share of the samples is trained on there.

    Args:
        weighting: as of `Denoising`.
        start: share of the samples at time 1, in [0, 1).

    Raises:
        ValueError: unknown weighting, or a share outside [0, 1).
    """

    def __init__(self, weighting: str = "uniform", start: float = 0.05) -> None:
        super().__init__(weighting, drop=0.0)
        if not 0 <= start < 1:
            raise ValueError(f"start: expected a number in [0, 1), got {start}")
        self.start = start

    def times(self, process: Process, x_0: Tree, noise: Noise) -> Any:
        """One uniform time for all leaves of a sample, and 1 where a run begins."""
        t = self.sampler(process, leaves(x_0)[0], noise) / (1 - self.start)
        return torch.where(t < 1, t, 1.0)

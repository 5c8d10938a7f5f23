"""The loss on held-out samples, by noise level, always with the same noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Denoiser, Keyed, Objective, Process
from ornstein.core.grid import LARGEST, SMALLEST

from .source import record_of

__all__ = ["HeldOut", "level_edges"]

BINS = 8
SAMPLES = 512
SEED = 20  # of the noise: the same in every run, so that runs can be compared


def level_edges(process: Process) -> tuple[str, list[float]]:
    """The clock, and the edges of 8 equal bins of it, from noisy to clean.

    Half the log-SNR for an affine process, from sigma / alpha = 80 (or the process's own at time 1, if less)
    to 0.01; else the time, from 1 to 0.
    """
    if not isinstance(process, AffineProcess):
        return "time", [1 - i / BINS for i in range(BINS + 1)]
    low, high = max(process.half_log_snr(1.0), -math.log(LARGEST)), -math.log(SMALLEST)
    return "half log-SNR", [low + (high - low) * i / BINS for i in range(BINS + 1)]


class HeldOut:
    """The objective's own loss on up to 512 held-out samples, each once in every bin of the noise level.

    Times are spread evenly over a bin, and the noise never changes, so that two reports differ by the weights
    alone.

    Args:
        split: held-out samples.
        objective: whose loss it is.
        process: whose levels they are.
        accepted: names of the fields that become the condition.
        device: where the model is.
        batch: samples a call.
    """

    def __init__(
        self, split: Any, objective: Objective, process: Process, accepted: frozenset[str],
        device: torch.device, batch: int,
    ) -> None:  # fmt: skip
        self.split, self.objective, self.process, self.accepted = split, objective, process, accepted
        self.device, self.batch = device, batch
        self.clock, self.edges = level_edges(process)
        count = min(len(split), SAMPLES)
        self.chosen = torch.arange(count) * len(split) // max(count, 1)

    def __len__(self) -> int:
        return len(self.chosen)

    @torch.no_grad()
    def losses(self, model: Denoiser) -> list[float]:
        """The mean loss in every bin, from noisy to clean."""
        totals = [torch.zeros((), device=self.device) for _ in range(BINS)]
        for first in range(0, len(self), self.batch):
            rows = torch.arange(first, min(first + self.batch, len(self)))
            record = record_of(self.split.batch(self.chosen[rows]), self.accepted, self.device)
            for b in range(BINS):
                noise = Keyed(SEED, rows).fold("held-out").fold(b)
                losses = self.objective(model, {**record, "time": self._times(rows, b)}, noise)
                totals[b] += losses.sample.float().sum()
        return [total / len(self) for total in torch.stack(totals).tolist()]

    def _times(self, rows: Tensor, index: int) -> Tensor:
        low, high = self.edges[index : index + 2]
        levels = low + (high - low) * (rows.double() + 0.5) / len(self)
        if isinstance(self.process, AffineProcess):
            levels = self.process.time_at(levels)
        return levels.to(self.device)

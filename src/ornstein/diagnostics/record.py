"""What is said of log p(x): a value for every row, how sure it is, and what it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Likelihood", "mean_and_error"]


@dataclass(frozen=True)
class Likelihood:
    """log p(x) of every row, or a lower bound on it.

    Attributes:
        nats: log-density, or log-probability of discrete and of quantised data, (B,).
        standard_error: of the estimate `nats`, (B,); 0 where nothing is random, NaN where one draw says nothing of its
            own error.
        parts: what adds up to `nats`, (B,) each. Of the flow: "prior" log p_1(x_1), "log_det", "remainder" (what was
            extrapolated near the data) and "volume" (of a lattice's cell, of a codec). Of the bound: "prior",
            "diffusion", "reconstruction" and "volume".
        evaluations: network calls for each row, without vector-Jacobian products.
        dim: numbers in a row.
    """

    nats: Tensor
    standard_error: Tensor
    parts: dict[str, Tensor]
    evaluations: int
    dim: int

    @property
    def bits_per_dim(self) -> Tensor:
        """-nats / (dim log 2), (B,)."""
        return -self.nats / (self.dim * math.log(2))

    def __repr__(self) -> str:
        bits = float(self.bits_per_dim.mean())
        return f"Likelihood({bits:.4f} bits/dim over {len(self.nats)} rows, {self.evaluations} evaluations)"


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first axis and its standard error, NaN where there is but one value."""
    count = len(values)
    if count == 1:
        return values[0], torch.full_like(values[0], math.nan)
    return values.mean(0), values.std(0) / count**0.5

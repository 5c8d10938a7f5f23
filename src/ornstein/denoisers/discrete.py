"""The exact denoiser of discrete data given as a weighted table of sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ornstein.core import Condition, Denoiser, Posterior, Step, Time, Tree, align
from ornstein.processes import DiscreteProcess

__all__ = ["TableDenoiser"]


def responsibilities(log_likelihoods: Tensor, log_weights: Tensor) -> Tensor:
    """p(component | x_t), (B, K).

    A factorised step can reach states that no component explains: there the weights are all that is known.
    """
    explained = torch.isfinite(log_likelihoods).any(1, keepdim=True)
    return (torch.where(explained, log_likelihoods, 0.0) + log_weights).softmax(1)


class TableDenoiser(Denoiser):
    """Posterior of every entry given all noisy entries, by Bayes' rule over the rows of a table.

        p(x_0 = row | x_t) is proportional to weight(row) prod_i q(x_t[i] | row[i])

    Args:
        sequences: (N, L) ids in 0 ... K-1; or (N,), for a single entry such as a label.
        weights: (N,), positive; they are normalised.
        process: a discrete process.

    Raises:
        ValueError: shapes that do not fit, ids outside the process's categories.
    """

    sequences: Tensor
    log_weights: Tensor
    process: DiscreteProcess

    def __init__(self, sequences: Any, weights: Any, process: DiscreteProcess) -> None:
        super().__init__()
        if not isinstance(process, DiscreteProcess):
            raise ValueError(f"process: expected a discrete process, got {process!r}")
        sequences = torch.as_tensor(sequences)
        if not sequences.ndim or int(sequences.min()) < 0 or int(sequences.max()) >= process.categories:
            raise ValueError(f"sequences: expected ids (N, ...) from 0 to {process.categories - 1}")
        weights = torch.as_tensor(weights, dtype=torch.get_default_dtype())
        if weights.shape != sequences.shape[:1] or not bool((weights > 0).all()):
            raise ValueError(f"weights: expected {len(sequences)} positive numbers")
        self.process, self.shape = process, tuple(sequences.shape[1:])
        self.register_buffer("sequences", sequences)
        self.register_buffer("log_weights", (weights / weights.sum()).log())

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact for single entries, which is what a factorised step uses; heads hold the `responsibilities`."""
        weights = responsibilities(self.log_likelihoods(x, t), self.log_weights)
        return self.given(x, t, weights, condition)

    def given(self, x: Tree, t: Time, weights: Tensor, condition: Condition | None = None) -> Posterior:
        """The posterior where the table's rows have the responsibilities `weights` (B, N)."""
        clean = one_hot(self.sequences, self.process.categories).to(weights.dtype)
        probs = torch.einsum("bn,n...->b...", weights, clean)
        heads = {"responsibilities": weights}
        return Posterior(self.process, x, t, probs=probs, heads=heads, condition=condition)

    def log_density(self, x: Tree, t: Time) -> Tensor:
        """log q_t(x), (B,)."""
        return self._log_joint(x, t).logsumexp(1)

    def log_likelihoods(self, x: Tensor, t: Time) -> Tensor:
        """log q(x_t | row), (B, N)."""
        clean = one_hot(self.sequences, self.process.categories).to(self.log_weights.dtype)
        # at time 1 what is intact anyway (a clamped entry) still tells of the rows: take the limit
        t = t.clamp(max=1 - 1e-9) if isinstance(t, Tensor) else min(t, 1 - 1e-9)
        noised = self.process.marginal(clean.unsqueeze(0), align(t, x.unsqueeze(1)))
        logits = noised.logits.expand(len(x), *noised.logits.shape[1:])  # (B, N, ..., states)
        seen = x.unsqueeze(1).unsqueeze(-1).expand(*logits.shape[:-1], 1)
        return logits.gather(-1, seen).flatten(2).sum(2)

    def _log_joint(self, x: Tensor, t: Time) -> Tensor:
        return self.log_likelihoods(x, t) + self.log_weights

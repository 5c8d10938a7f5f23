"""The exact denoiser of discrete data given as a weighted table of sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ornstein.core import Condition, Denoiser, Posterior, Step, Time, Tree, align
from ornstein.processes import DiscreteProcess

__all__ = ["TableDenoiser"]


class TableDenoiser(Denoiser):
    """Posterior of every entry given all noisy entries, by Bayes' rule over the rows of a table.

        p(x_0 = row | x_t) is proportional to weight(row) prod_i q(x_t[i] | row[i])

    Args:
        sequences: (N, L) ids in 0 ... K-1.
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
        if sequences.ndim != 2 or int(sequences.min()) < 0 or int(sequences.max()) >= process.categories:
            raise ValueError(f"sequences: expected ids (N, L) from 0 to {process.categories - 1}")
        weights = torch.as_tensor(weights, dtype=torch.get_default_dtype())
        if weights.shape != sequences.shape[:1] or not bool((weights > 0).all()):
            raise ValueError(f"weights: expected {len(sequences)} positive numbers")
        self.process, self.shape = process, tuple(sequences.shape[1:])
        self.register_buffer("sequences", sequences)
        self.register_buffer("log_weights", (weights / weights.sum()).log())

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """Exact; the posterior's mode and samples are of single entries, as a factorised step uses them."""
        rows = self.row_posterior(x, t)
        clean = one_hot(self.sequences, self.process.categories).to(rows.dtype)
        probs = torch.einsum("bn,nlk->blk", rows, clean)
        return Posterior(self.process, x, t, probs=probs, heads={"rows": rows}, condition=condition)

    def log_density(self, x: Tree, t: Time) -> Tensor:
        """log q_t(x), (B,)."""
        return self._log_joint(x, t).logsumexp(1)

    def row_posterior(self, x: Tensor, t: Time) -> Tensor:
        """p(row | x_t), (B, N)."""
        return self._log_joint(x, t).softmax(1)

    def _log_joint(self, x: Tensor, t: Time) -> Tensor:
        clean = one_hot(self.sequences, self.process.categories).to(self.log_weights.dtype)
        noised = self.process.marginal(clean.unsqueeze(0), align(t, x.unsqueeze(1)), None)
        logits = noised.logits.expand(len(x), *noised.logits.shape[1:])  # (B, N, L, states)
        seen = x[:, None, :, None].expand(-1, len(self.sequences), -1, 1)
        return logits.gather(-1, seen).squeeze(-1).sum(-1) + self.log_weights

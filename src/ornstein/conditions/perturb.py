"""Noise on the embedding of a condition, in training."""

from __future__ import annotations

from torch import Tensor

from ornstein.core import Module, Noise, suggest

__all__ = ["PerturbEmbedding"]


class PerturbEmbedding(Module):
    """c + delta with delta drawn anew for every row, every step and each of the d coordinates,

        uniform      U(-gamma / sqrt(d), gamma / sqrt(d))
        gaussian     N(0, gamma^2 / d)

    condition embedding perturbation (Chen et al. 2024, 2405.20494; the Gaussian's second argument is read as a
    standard deviation here). `objectives.Perturbed` applies it in training, before a condition is dropped: the vector
    that stands for "no condition" is never perturbed, and nothing is at sampling.

    Args:
        gamma: 0 changes nothing; the paper's default is 1.
        kind: "uniform" or "gaussian".

    Raises:
        ValueError: a negative gamma, or an unknown kind.
    """

    def __init__(self, gamma: float = 1.0, kind: str = "uniform") -> None:
        super().__init__()
        if kind not in ("uniform", "gaussian"):
            raise ValueError(suggest(kind, ("uniform", "gaussian"), "kind"))
        if not gamma >= 0:
            raise ValueError(f"gamma: expected at least 0, got {gamma}")
        self.gamma, self.kind = float(gamma), kind

    def forward(self, embedding: Tensor, noise: Noise) -> Tensor:
        """The embedding (B, ..., d), perturbed."""
        if self.kind == "gaussian":
            delta = noise.normal(embedding)
        else:
            delta = 2 * noise.uniform(embedding) - 1
        return embedding + self.gamma / embedding.shape[-1] ** 0.5 * delta

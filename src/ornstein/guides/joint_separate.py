"""Guidance of a joint model by what its streams say of each other."""

from __future__ import annotations

import math

import torch

from ornstein.core import Condition, Denoiser, Guide, Posterior, Step, Time, Tree, batch_size, leaves, mix

__all__ = ["JointSeparate"]


class JointSeparate(Guide):
    """D = D_separate + scale (D_joint - D_separate), of a joint model of two streams (UniCon, 2410.11439).

    "Separate" is the same model with its streams kept apart, the condition field `joint` at 0; both are asked in one
    network call. Where y is clean, the difference of scores is grad log p(x | y) - grad log p(x): classifier-free
    guidance with y as the condition. scale = 1 is the joint model, 0 two independent ones.

    Args:
        scale: w_c of the paper, where 1 leaves the joint model as it is.

    Raises:
        ValueError: a scale that is not finite, or a model that does not read `joint`.
    """

    def __init__(self, scale: float = 2.0) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale: expected a finite number, got {scale}")
        self.scale = float(scale)

    def check(self, denoiser: Denoiser) -> None:
        """The model must be able to keep its streams apart."""
        if "joint" not in denoiser.fields:
            raise ValueError(
                f"JointSeparate: {type(denoiser).__name__} does not read the field 'joint' that keeps its streams "
                "apart; adapters.JointAttention makes such a network"
            )

    def posterior(
        self, denoiser: Denoiser, x: Tree, t: Time, condition: Condition | None, step: Step | None
    ) -> Posterior:
        """The mixture of the joint and the separate posterior."""
        if self.scale == 1.0:
            return denoiser(x, t, condition, step)
        ones = torch.ones(batch_size(x), device=leaves(x)[0].device)
        given = Condition() if condition is None else condition
        branches = [given.replace(joint=ones), given.replace(joint=0 * ones)]
        joint, separate = denoiser.many(x, t, branches, step)
        return mix([joint, separate], [self.scale, 1.0 - self.scale])

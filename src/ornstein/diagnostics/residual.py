"""How far a learned score is from that of any noised data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ornstein.core import Condition, Denoiser, Keyed, Time
from ornstein.processes.divergence import probes_of
from ornstein.processes.fokker_planck import log_density_residual, score_residual

from .clock import affine_process, condition_of

__all__ = ["fokker_planck_residual"]


def fokker_planck_residual(
    denoiser: Denoiser,
    x: Tensor,
    t: Time,
    estimator: str = "exact",
    *,
    log_density: Callable[[Tensor, Tensor], Tensor] | None = None,
    probes: int = 1,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """What the Fokker-Planck equation of the process leaves over at (x, t), see `processes.fokker_planck`.

    Of a score a tensor like x, which is 0 for the score of noised data of any law; of a potential (B,).

    Args:
        denoiser: of an affine process, guided or not: a guided score is seldom one of noised data.
        x: states, (B, ...).
        t: their time, a number or (B,), inside (0, 1).
        estimator: of the Laplacian: "exact", "hutchinson" or "skilling".
        log_density: u(x, t) -> (B,), a potential to ask in place of the denoiser's score.
        probes: how many, of an estimator that has any.
        seed: of the probes, by row.
        condition: a ready Condition in place of fields.
        **fields: condition fields, as in sampling.
    """
    process = affine_process(denoiser, "fokker_planck_residual")
    given = condition_of(denoiser, x, condition, fields)
    directions = probes_of(estimator, process.space, x, Keyed(seed, len(x)), probes)
    if log_density is not None:
        return log_density_residual(process, log_density, x, t, probes=directions, condition=given)

    def score(place: Tensor, time: Tensor) -> Tensor:
        found: Tensor = denoiser(place, time, given).score
        return found

    return score_residual(process, score, x, t, probes=directions, condition=given)

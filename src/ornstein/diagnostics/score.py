"""What a score is made of: how much of it a simpler one explains, and how much work its flow does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Denoiser, Keyed, sum_event
from ornstein.denoisers import Converted

from .clock import affine_process, condition_of
from .record import mean_and_error

__all__ = ["Measured", "explained_variance", "kinetic_energy"]


class Measured(NamedTuple):
    """A mean over samples with its standard error."""

    value: float
    standard_error: float


def explained_variance(
    denoiser: Denoiser,
    ansatz: Denoiser,
    x: Tensor,
    levels: Sequence[float],
    *,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """1 - E|s - s'|^2 / E|s|^2 of a score s and a simpler one s', at noised `x` of each level; (levels,).

    The ladder of Wang and Vastola (2412.09726): s' of an isotropic Gaussian, of the Gaussian of the data's mean and
    covariance, of a mixture of low rank, of the training points themselves.

    Args:
        denoiser: whose score is explained.
        ansatz: a denoiser that explains it; its process may be another.
        x: clean data, (B, ...); held-out ones, lest the training points explain too much.
        levels: sigma / alpha, each > 0.
        seed: of the noise, by row; the same for all levels.
        condition: a ready Condition in place of fields, for both.
        **fields: condition fields.

    Raises:
        ValueError: a level outside the reach of a process.
    """
    process = affine_process(denoiser, "explained_variance")
    other = ansatz if ansatz.process is process else Converted(ansatz, process)
    given = condition_of(denoiser, x, condition, fields)
    z = Keyed(seed, len(x)).normal(x)
    found = []
    for level in levels:
        t = _time_of_level(process, level)
        x_t = process.add_anchor(process.at(t).alpha * (x + level * z), process.at(t).anchor, given)
        with torch.no_grad():
            score, simple = (rule(x_t, t, given).noise for rule in (denoiser, other))
        found.append(1 - (score - simple).square().mean() / score.square().mean())
    return torch.stack(found)


def _time_of_level(process: AffineProcess, level: float) -> float:
    if not math.exp(-process.half_log_snr(1.0)) >= level > 0:
        raise ValueError(f"levels: {type(process).__name__} does not reach sigma / alpha = {level}")
    return float(process.time_at(-math.log(level)))


def kinetic_energy(
    process: AffineProcess,
    denoiser: Denoiser,
    x: Tensor,
    *,
    points: int = 64,
    first: float = 1e-4,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Measured:
    """The work of the marginal flow, int_0^1 E|v(x_t, t)|^2 dt / dim (2306.06626), by one time drawn in each stratum.

    Args:
        process: whose path is judged; a denoiser of another is converted.
        denoiser: of any affine process.
        x: clean data, (B, ...).
        points: strata of time.
        first: smallest time; where sigma has an infinite slope at 0, what is below counts little.
        seed: of all draws, by row.
        condition: a ready Condition in place of fields.
        **fields: condition fields.
    """
    if denoiser.process is not process:
        denoiser = Converted(denoiser, process)
    given = condition_of(denoiser, x, condition, fields)
    noise = Keyed(seed, len(x))
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    width = (1 - first) / points
    for point in range(points):
        drawn = noise.fold(point)
        share = drawn.uniform(x.new_empty(len(x), 1, dtype=torch.float64))[:, 0]
        t = first + width * (point + share)
        law = process.marginal(x, t, given)
        with torch.no_grad():
            velocity = denoiser(law.sample(drawn), t, given).velocity
        total = total + width * sum_event(velocity**2) / x[0].numel()
    value, error = mean_and_error(total)
    return Measured(float(value), float(error))

"""The intrinsic dimension of data near a point, read off a score at little noise.

Near a k-dimensional manifold the score is that of the D - k normal directions, -(distance) / sigma^2, and small along
the others. Three readings:

    normal_space  singular values of scores at many noisy copies of a point (Stanczuk et al. 2022, 2212.12611), here
                  less their mean: D - k of them are large
    jacobian      singular values of the score's Jacobian at the point: D - k of them are large (2402.03845)
    divergence    D + sigma^2 (div s + |s|^2) (FLIPD, Kamkari et al. 2024, 2406.03537), a number that need not be whole

The first two take the largest ratio of neighbouring singular values as the border. Parts of a field that change no
density (`denoisers.GaugeField`) blur the first and the last. Making the Jacobian symmetric is no cure: of A Sigma^-1
with antisymmetric A it leaves (A Sigma^-1 - Sigma^-1 A) / 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Denoiser, Keyed, align, suggest, sum_event

from .clock import affine_process, condition_of, inside
from .field import field, field_divergence, jacobian

__all__ = ["intrinsic_dimension", "large_values"]

METHODS = ("normal_space", "jacobian", "divergence")
ROWS = 4096  # noisy copies in one call


def intrinsic_dimension(
    denoiser: Denoiser,
    x: Tensor,
    t: float,
    method: str = "jacobian",
    *,
    draws: int | None = None,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Tensor:
    """The dimension of the data at each point, (B,): whole numbers from 1 to D - 1, but for "divergence".

    Args:
        denoiser: of an affine process.
        x: clean points, (B, ...), on or near the data.
        t: a time at which sigma is small beside the data's curvature and large beside their thickness.
        method: "normal_space", "jacobian" or "divergence".
        draws: noisy copies of each point, for "normal_space"; 4 D by default.
        seed: of the copies, by row.
        condition: a ready Condition in place of fields.
        **fields: condition fields.

    Raises:
        ValueError: unknown method, or fewer draws than coordinates.
    """
    if method not in METHODS:
        raise ValueError(suggest(method, METHODS, "method"))
    size = x[0].numel()
    draws = 4 * size if draws is None else draws
    if draws < size:
        raise ValueError(f"draws: expected at least {size}, one for each coordinate; got {draws}")
    process = affine_process(denoiser, "intrinsic_dimension")
    inside(process, t, "intrinsic_dimension")
    given = condition_of(denoiser, x, condition, fields)
    if method == "normal_space":
        return _normal_space(process, denoiser, x, t, given, draws, seed)
    return (_jacobian if method == "jacobian" else _divergence)(process, denoiser, x, t, given)


def large_values(values: Tensor) -> Tensor:
    """How many of descending values (B, D) stand before the largest ratio of neighbours, (B,)."""
    logs = values.clamp(min=torch.finfo(values.dtype).tiny).log()
    return (logs[:, :-1] - logs[:, 1:]).argmax(1) + 1


def _place(process: AffineProcess, x: Tensor, t: float, given: Condition | None) -> Tensor:
    level = process.at(t)
    placed: Tensor = process.add_anchor(level.alpha * x, level.anchor, given)
    return placed


def _jacobian(
    process: AffineProcess, denoiser: Denoiser, x: Tensor, t: float, given: Condition | None
) -> Tensor:
    full = jacobian(denoiser, _place(process, x, t, given), t, condition=given)
    return x[0].numel() - large_values(torch.linalg.svdvals(full))


def _normal_space(
    process: AffineProcess,
    denoiser: Denoiser,
    x: Tensor,
    t: float,
    given: Condition | None,
    draws: int,
    seed: int,
) -> Tensor:
    copies = process.marginal(x, t, given).sample(Keyed(seed, len(x)), (draws,))
    rows = torch.arange(len(x), device=x.device).repeat(draws)
    with torch.no_grad():
        parts = [
            field(denoiser, t, "score", None if given is None else given.rows(some))(place)
            for some, place in zip(rows.split(ROWS), copies.flatten(0, 1).split(ROWS), strict=True)
        ]
    scores = torch.cat(parts).reshape(draws, len(x), -1)
    centred = scores - scores.mean(0)  # the density's slope along the manifold is no direction across it
    return x[0].numel() - large_values(torch.linalg.svdvals(centred.transpose(0, 1)))


def _divergence(
    process: AffineProcess, denoiser: Denoiser, x: Tensor, t: float, given: Condition | None
) -> Tensor:
    place = _place(process, x, t, given)
    with torch.no_grad():
        square = sum_event(field(denoiser, t, "score", given)(place) ** 2)
    found = field_divergence(denoiser, place, t, condition=given) + square
    return x[0].numel() + align(process.at(t).sigma ** 2, square) * found

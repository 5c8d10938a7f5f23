"""The variational bound on log p(x) of a denoiser: a sum of Kullback-Leibler divergences of steps, or their limit.

    -log p(x_0) <= KL(q(x_1 | x_0) || p_1) + sum_rows KL(q(x_s | x_t, x_0) || p(x_s | x_t)) - log p(x_0 | x_last)

For Gaussian steps a row's term is (SNR_s - SNR_t) / 2 |x_0 - D|^2, and the limit of many rows the integral of
|x_0 - D|^2 e^(2 lambda) over half the log-SNR, which depends on the process through its ends alone (Kingma et al.
2021, 2107.00630).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Condition,
    Denoiser,
    Keyed,
    Noise,
    Posterior,
    TimeGrid,
    Tree,
    align,
    batch_size,
    leaf_time,
    leaves,
)
from ornstein.core.sampler import check_shape

from .clock import condition_of, tau_at, tau_of_level, time_of, times_between
from .quantised import Quantised, dequantised
from .record import Likelihood, mean_and_error

__all__ = ["elbo"]


def elbo(
    denoiser: Denoiser,
    x: Tree,
    *,
    steps: int | None = None,
    grid: TimeGrid | None = None,
    repeats: int = 4,
    points: int = 32,
    quantised: Quantised | None = None,
    level: float = 1e-3,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Likelihood:
    """A lower bound on log p(x), where p is what ancestral steps draw.

    Args:
        denoiser: of any process with a bridge; it has to estimate a posterior.
        x: data, (B, ...) or a tree of them.
        steps: of ancestral sampling, whose own bound this is; None is the limit of many steps, which only affine
            processes have here.
        grid: the rows of that sampling, in place of a number of them; from time 1 to 0.
        repeats: independent estimates, from which the standard error comes; each calls the network `points` times
            (once a row for a discrete bound) and once more to reconstruct.
        points: strata of the integral, evenly spaced in the clock of `clock.py`.
        quantised: the lattice that continuous data are on; a new dequantisation for every repeat.
        level: sigma / alpha of the last row, from which x_0 is drawn as N(D, level^2).
        seed: of all draws, by row.
        condition: a ready Condition in place of fields.
        **fields: condition fields, as in sampling.

    Raises:
        ValueError: the denoiser estimates a velocity, or the process has no limit of many steps or no density.
    """
    _check(denoiser, steps, grid, repeats, points, level)
    check_shape(denoiser, x, "x")
    given = condition_of(denoiser, x, condition, fields)
    rows = grid or (_rows(denoiser.process, steps, level) if steps is not None else None)
    found = []
    for repeat in range(repeats):
        noise = Keyed(seed, batch_size(x)).fold(repeat)
        y, volume = (
            (x, torch.zeros(batch_size(x), device=leaves(x)[0].device))
            if quantised is None
            else dequantised(quantised, x, noise)
        )
        with torch.no_grad():
            found.append({**_once(denoiser, y, rows, points, level, noise, given), "volume": volume})
    parts = {name: torch.stack([torch.as_tensor(part[name]) for part in found]) for name in found[0]}
    nats, error = mean_and_error(torch.stack(list(parts.values())).sum(0))
    calls = repeats * (points + 1 if rows is None else len(rows))
    size = sum(leaf[0].numel() for leaf in leaves(x))
    return Likelihood(nats, error, {k: v.mean(0) for k, v in parts.items()}, calls, size)


def _check(
    denoiser: Denoiser, steps: Any, grid: TimeGrid | None, repeats: int, points: int, level: float
) -> None:
    if denoiser.estimates != "posterior":
        raise ValueError(
            f"elbo: {type(denoiser).__name__} estimates a {denoiser.estimates} (it was trained under a dependent "
            "coupling), not a posterior, so its ancestral steps have no such bound; log_likelihood's flow has a density"
        )
    process = denoiser.process
    if steps is None and grid is None and not isinstance(process, AffineProcess):
        raise ValueError(
            f"elbo: the limit of many steps needs an affine process, got {process!r}; give steps="
        )
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps: expected an integer of at least 1, or None, got {steps!r}")
    if min(repeats, points) < 1 or not level > 0:
        raise ValueError(
            f"repeats, points, level: expected at least 1, 1 and above 0; got {repeats}, {points}, {level}"
        )
    for part in getattr(process, "parts", {"": process}).values():
        if isinstance(part, AffineProcess) and part.at(1.0).sigma == 0:
            raise ValueError(f"elbo: {type(part).__name__} ends at a point, which has no density")


def _rows(process: Any, steps: int, level: float) -> TimeGrid:
    """Evenly spaced rows down to `level`, and the one that reconstructs."""
    parts = getattr(process, "parts", None)
    if parts:
        return TimeGrid.product(**{k: _rows(p, steps, level) for k, p in parts.items()})
    if not isinstance(process, AffineProcess):
        return process.grid(None, steps)
    last = float(time_of(process, torch.tensor(tau_of_level(level))))
    return TimeGrid.through([*times_between(process, 1.0, last, steps - 1), 0.0] if steps > 1 else [1.0, 0.0])


def _once(
    denoiser: Denoiser,
    x_0: Tree,
    rows: TimeGrid | None,
    points: int,
    level: float,
    noise: Noise,
    condition: Condition,
) -> dict[str, Any]:
    """One estimate of every part."""
    process: Any = denoiser.process
    found = {"prior": -process.marginal(x_0, 1.0, condition).kl(process.prior(x_0, condition))}
    if rows is None:
        last = float(time_of(process, torch.tensor(tau_of_level(level))))
        found["diffusion"] = -_integral(denoiser, x_0, points, last, noise, condition)
        rows = TimeGrid([(last, 0.0)])
    else:
        found["diffusion"] = 0.0 * found["prior"]
    for index, row in enumerate(rows):
        law = process.marginal(x_0, row.t, condition)
        z = law.noise(noise.fold(index))
        x_t = law.transform(z)
        posterior = denoiser(x_t, row.t, condition)
        term = _gap(process, x_0, x_t, posterior, row.t, row.s, condition)
        if index == len(rows) - 1 and isinstance(process, AffineProcess):
            term = term - 0.5 * _excess(process, z)
        part = "reconstruction" if index == len(rows) - 1 else "diffusion"
        found[part] = found.get(part, 0.0) - term
    return found


def _gap(process: Any, x_0: Tree, x_t: Tree, posterior: Any, t: Any, s: Any, condition: Condition) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or -log p(x_0 | x_t) for the last row of a continuous leaf, (B,)."""
    parts = getattr(process, "parts", None)
    if parts:
        leafwise = [
            _gap(p, x_0[k], x_t[k], posterior[k], leaf_time(t, k), leaf_time(s, k), condition)
            for k, p in parts.items()
        ]
        return torch.stack(leafwise).sum(0)
    if isinstance(process, AffineProcess) and process.at(s).sigma == 0:
        return _reconstruction(process, x_0, posterior, t)
    true = process.bridge(x_t, x_0, t, s, condition)
    gap: Tensor = true.kl(process.bridge(x_t, posterior, t, s, condition))
    return gap


def _reconstruction(process: AffineProcess, x_0: Tensor, posterior: Posterior, t: Any) -> Tensor:
    """-log N(x_0; D, (sigma_t / alpha_t)^2)."""
    level = process.at(t)
    variance = (level.sigma / level.alpha) ** 2
    gap = x_0 - posterior.mean
    return 0.5 * (
        process.space.inner(gap, gap) / variance + process.space.dim(gap) * math.log(2 * math.pi * variance)
    )


def _integral(
    denoiser: Denoiser, x_0: Tensor, points: int, last: float, noise: Noise, condition: Condition
) -> Tensor:
    """The integral of |x_0 - D|^2 e^(2 lambda) dlambda = |x_0 - D|^2 cos(theta) / sin(theta)^2 dtau, by one point drawn
    in each stratum of tau, (B,).
    """
    process: Any = denoiser.process
    low, high = tau_at(process, last), tau_at(process, 1.0)
    width = (high - low) / points
    total = torch.zeros(len(x_0), dtype=x_0.dtype, device=x_0.device)
    for point in range(points):
        own = noise.fold(f"point {point}")
        share = own.uniform(torch.empty(len(x_0), 1, dtype=torch.float64, device=x_0.device))[:, 0]
        tau = low + width * (point + share)
        t = time_of(process, tau)
        law = process.marginal(x_0, t, condition)
        z = law.noise(own)
        gap = denoiser(law.transform(z), t, condition).mean - x_0
        weight = -torch.sinh(tau) * torch.cosh(tau)  # = cos(theta) / sin(theta)^2
        known = -(torch.tanh(tau) ** 3) * _excess(process, z)
        total = total + width * (align(weight, total) * process.space.inner(gap, gap) - align(known, total))
    return total


def _excess(process: AffineProcess, z: Tensor) -> Tensor:
    """|z|^2 - dim, of mean 0: what an error of the denoiser owes to the noise, so that less of it is left to chance.

    Its weights are those under which it removes all that is quadratic in z for data of unit variance.
    """
    return process.space.inner(z, z) - process.space.dim(z)

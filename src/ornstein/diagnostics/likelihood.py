"""The likelihood of data under the probability flow of a denoiser (Song et al. 2020, 2011.13456, section 4.3).

log p(x_0) = log p_1(x_1) + log |det d x_1 / d x_0|,    d/dt log |det| = div v(x_t, t)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Denoiser, Keyed, Solver
from ornstein.core.sampler import check_shape
from ornstein.processes.divergence import probes_of
from ornstein.spaces import Codec

from .augmented import carried_on_grid
from .clock import Flow, affine_process, condition_of, tau_at, tau_of_level
from .integrate import carried, slope_and_divergence
from .quantised import Quantised, dequantised
from .record import Likelihood, mean_and_error

__all__ = ["log_likelihood"]


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    estimator: str = "exact",
    *,
    probes: int = 1,
    quantised: Quantised | None = None,
    draws: int = 1,
    codec: Codec | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    level: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: Solver | None = None,
    steps: int = 100,
    chunk: int = 64,
    seed: int = 0,
    condition: Condition | None = None,
    **fields: Any,
) -> Likelihood:
    """log p(x) under the probability flow, with the error of its estimate.

    A network trained under a dependent coupling serves as well as a posterior, and so does a guided denoiser: the
    flow of any field has a density. It is not the density of what stochastic samplers of the same field draw.

    Args:
        denoiser: of an affine process, guided or not.
        x: data, (B, ...).
        estimator: of the divergence. "exact" costs dim vector-Jacobian products a call; "hutchinson" (signs) and
            "skilling" (normal numbers) cost one a probe, the probe being kept along the trajectory.
        probes: how many, of an estimator that has any. All share one trajectory.
        quantised: the lattice that the data are on; they are dequantised and the result is a bound on log P(x).
        draws: of the dequantisation, each a trajectory of its own.
        codec: a `spaces.Codec` between data and the denoiser's states, whose `log_abs_det` is added; by default that
            of an `Encoded` process.
        prior: log-density at time 1 in place of the process's prior, such as that of a Gaussian fit.
        level: sigma / alpha where the integration starts. What is below is extrapolated as for a smooth density, and
            is `parts["remainder"]`: its square over the dimension is about what that may be off by, and it tends to
            half the dimension where the data have no density.
        rtol: relative tolerance of the states (divided by sqrt(alpha^2 + sigma^2)) and of the log-determinant per
            dimension, kept by every row.
        atol: absolute tolerance of the same.
        solver: a deterministic solver of the library on a fixed grid, in place of torchdiffeq's dopri5.
        steps: of that grid.
        chunk: vector-Jacobian products taken at once by "exact".
        seed: of probes and dequantisation, by row.
        condition: a ready Condition in place of fields.
        **fields: condition fields, as in sampling.

    Raises:
        ValueError: a process without such a flow, an unknown estimator, data that are not on the lattice.
        ImportError: torchdiffeq is not installed and no solver is given.
    """
    process = affine_process(denoiser, "log_likelihood")
    if tau_of_level(level) >= tau_at(process, 1.0):
        raise ValueError(f"level: expected below sigma / alpha at time 1, got {level}")
    if draws < 1 or (quantised is None and draws != 1):
        raise ValueError(f"draws: expected 1 without dequantisation, and at least 1 with it; got {draws}")
    codec = getattr(process, "codec", None) if codec is None else codec
    flow = Flow(denoiser, process, condition_of(denoiser, x, condition, fields))
    path: Callable[..., tuple[Tensor, Tensor]] = partial(carried, rtol=rtol, atol=atol)
    if solver is not None:
        path = partial(carried_on_grid, solver=solver, steps=steps)
    found = []
    for draw in range(draws):
        noise = Keyed(seed, len(x)).fold(draw)
        y, volume = dequantised(quantised, x, noise)
        if codec is not None:
            y, volume = codec.encode(y), volume + codec.log_abs_det(y)
        check_shape(denoiser, y, "x")
        directions = probes_of(estimator, process.space, y, noise.fold("probes"), probes)
        with torch.no_grad():
            parts = _along(flow, y, directions, level, chunk, path, prior)
        found.append({**parts, "volume": volume.expand_as(parts["log_det"])})
    parts = {name: torch.stack([part[name] for part in found]) for name in found[0]}
    nats = torch.stack(list(parts.values())).sum(0)
    error = _error(nats, random=estimator != "exact", dequantised=quantised is not None)
    means = {name: part.mean((0, 1)) for name, part in parts.items()}
    return Likelihood(nats.mean((0, 1)), error, means, flow.evaluations, x[0].numel())


def _error(nats: Tensor, random: bool, dequantised: bool) -> Tensor:
    """The standard error of the mean of (draws, M, B)."""
    if not random and not dequantised:
        return torch.zeros_like(nats[0, 0])
    return mean_and_error(nats.mean(1) if dequantised else nats[0])[1]


def _along(
    flow: Flow,
    x_0: Tensor,
    probes: Tensor | None,
    level: float,
    chunk: int,
    path: Callable[..., tuple[Tensor, Tensor]],
    prior: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """The parts of log p(x_0) for each probe, (M, B) each."""
    process = flow.process
    tau = torch.tensor(tau_of_level(level), dtype=torch.float64)
    slope, spread = slope_and_divergence(flow, tau, x_0, probes, chunk)
    v_1, log_det = path(flow, x_0 + 0.5 * slope, (float(tau), tau_at(process, 1.0)), probes, chunk)
    x_1, size = flow.state(v_1, 1.0), process.space.dim(v_1) * math.log(flow.scale(1.0))
    last = prior(x_1) if prior else process.prior(x_1, flow.condition).log_prob(x_1)
    return {
        "prior": last.expand_as(log_det),
        "log_det": log_det + size,
        "remainder": 0.5 * spread,
    }

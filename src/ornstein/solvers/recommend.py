"""The solver to use when one does not wish to choose."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ornstein.core import (
    AffineProcess,
    Denoiser,
    Leafwise,
    Noise,
    Process,
    Sampler,
    Solver,
    TimeGrid,
    Tree,
)
from ornstein.denoisers import GaussianFit

from .ancestral import Ancestral
from .blockwise import block_by_block
from .gaussian import GaussianExponential
from .interpolant import FreeDiffusion
from .multistep import DPMSolverPP

__all__ = ["best", "recommended", "sample", "sampler_for"]


def best(calls: int, process: AffineProcess, fit: GaussianFit, trained: bool = False) -> Sampler:
    """The most accurate sampler known here for a number of network calls, given the Gaussian fit of the data.

    `GaussianExponential`, its calls at sigma / alpha from 0.4 N s down to 6 N^-1.45 r, nearly evenly in log-SNR,
    where N is `calls`, s the data's standard deviation along their widest direction and r that along the median one
    (at least s / 1000). The three numbers were chosen on mixtures that no benchmark of this library reports.

    Args:
        calls: network calls, at least 2.
        process: affine; one that starts from a point is refused.
        fit: `GaussianFit.of(samples)`: one decomposition of a few hundred samples.
        trained: whether the denoiser is a network, which is rougher than an exact posterior, and rougher still under
            guidance, and whose errors near the data do not fall like kappa^2: then the end is half as high, and the
            predictor is of order 2 up to twelve calls and 3 beyond, in place of 3 up to six calls and 4 beyond.
    """
    if not isinstance(calls, int) or isinstance(calls, bool) or calls < 2:
        raise ValueError(f"calls: expected an integer of at least 2, got {calls!r}")
    if not isinstance(process, AffineProcess) or not isinstance(fit, GaussianFit):
        raise TypeError(
            f"best: expected an affine process and a GaussianFit, such as GaussianFit.of(samples); got {process!r} and "
            f"{type(fit).__name__}"
        )
    GaussianExponential(fit).check(process)
    widest, median = fit.scales
    start = min(0.4 * calls * widest, 0.8 * math.exp(-process.half_log_snr(1.0)))
    end = min((3.0 if trained else 6.0) * calls**-1.45 * max(median, 1e-3 * widest), 0.1 * start)
    levels = [start * (end / start) ** ((i / (calls - 1)) ** 1.1) for i in range(calls)]
    times = [process.time_at(-math.log(level)) for level in levels]
    order = (2 if calls <= 12 else 3) if trained else (3 if calls <= 6 else 4)
    grid = TimeGrid.through([1.0, *times, 0.0])
    grid.process = process
    return Sampler(GaussianExponential(fit, order), grid=grid)


def recommended(process: Process) -> Solver:
    """DPM-Solver++(2M) for affine processes, the flow by Heun's method where their other end is latent, ancestral steps
    for discrete ones, leaf by leaf for a tree state.
    """
    parts: dict[str, Process] | None = getattr(process, "parts", None)
    if parts:
        return Leafwise({name: recommended(part) for name, part in parts.items()})
    if not isinstance(process, AffineProcess):
        return Ancestral()
    return FreeDiffusion(order=2) if process.latent else DPMSolverPP(order=2)


def sample(
    model: Denoiser,
    start: int | Tree,
    *,
    steps: int = 20,
    solver: Solver | None = None,
    grid: str | TimeGrid | None = None,
    seed: int | Tensor | Noise = 0,
    given: dict[str, Any] | None = None,
    **condition: Any,
) -> Tree:
    """Samples of a model, by the recommended solver and grid unless others are given: `best` where the model knows
    the Gaussian fit of its data, `recommended` elsewhere.

    Args:
        model: a denoiser, guided or not.
        start: how many samples, or a state at time 1.
        steps: rows of the grid: network calls, for a solver with one call a row.
        solver: default `recommended(model.process)`.
        grid: a `TimeGrid`, "log-snr", "karras", "uniform", or None for what suits the process.
        seed: an integer, a list or tensor with one for every sample, or a `Noise`.
        given: leaves of a tree state that are known, {leaf: clean values}: they are held at time 0, and the
            others are drawn given them.
        **condition: condition fields, such as label=7.

    Raises:
        ValueError, TypeError: before any work, naming the argument.
    """
    if not isinstance(model, Denoiser):
        hint = (
            "; orn.load(name) gives one" if isinstance(model, str) else "; a guide is called on a model first"
        )
        raise TypeError(f"model: expected a Denoiser, got {model!r}{hint}")
    if isinstance(solver, Sampler):
        raise TypeError("solver: got a Sampler, which is called itself: sampler(model, 16, seed=0)")
    if given:
        start, grid = _held(model, start, given, grid, steps)
    return sampler_for(model, steps, solver, grid)(model, start, seed=seed, **condition)


def sampler_for(
    model: Denoiser, steps: int, solver: Solver | None = None, grid: str | TimeGrid | None = None
) -> Sampler:
    """What `sample` runs: `best` where nothing is asked for and the model knows its data's Gaussian fit; of a model of
    blocks, `steps` rows for each of them.
    """
    if model.blocks is not None and not isinstance(grid, TimeGrid):
        own = recommended(model.process) if solver is None else solver
        return Sampler(own, grid=block_by_block(model.process.grid(grid, steps), model.blocks, own))
    if solver is None and grid is None and model.fit is not None and _has_flow(model.process, steps):
        return best(steps, model.process, model.fit, trained=True)
    return Sampler(recommended(model.process) if solver is None else solver, steps, grid)


def _held(
    model: Denoiser, start: int | Tree, given: dict[str, Any], grid: Any, steps: int
) -> tuple[Tree, TimeGrid]:
    parts: dict[str, Process] = getattr(model.process, "parts", {})
    if not set(given) <= set(parts):
        held = f"the leaves {sorted(parts)}" if parts else "one tensor, no leaves"
        raise ValueError(f"given: got leaves {sorted(given)}, but the model's state has {held}")
    if isinstance(grid, TimeGrid) or not isinstance(start, int):
        raise ValueError(
            "given: needs a count as start, and a grid by name; hold leaves in a TimeGrid of your own"
        )
    like = model.like(start)
    state = {k: _expanded(given[k], like[k], k) if k in given else None for k in parts}
    for name, part in parts.items():
        known, limit = state[name], getattr(part, "categories", None)
        if known is not None and limit and not (int(known.min()) >= 0 and int(known.max()) < limit):
            raise ValueError(
                f"given[{name!r}]: expected 0 to {limit - 1}, got {int(known.min())} to {int(known.max())}"
            )
    grids = {k: 0.0 if k in given else part.grid(grid, steps) for k, part in parts.items()}
    return state, TimeGrid.product(**grids)


def _expanded(value: Any, like: Tensor, name: str) -> Tensor:
    value = torch.as_tensor(value, device=like.device).to(like.dtype)
    value = value.expand_as(like) if value.ndim <= like.ndim - 1 else value
    if value.shape != like.shape:
        raise ValueError(f"given[{name!r}]: shape {tuple(value.shape)}, expected {tuple(like.shape)}")
    return value


def _has_flow(process: Process, steps: Any) -> TypeGuard[AffineProcess]:
    """From time 1, where it is not a point and the other end not latent, in more than one call."""
    affine = isinstance(process, AffineProcess) and not process.latent and process.at(1.0).sigma > 0
    return affine and isinstance(steps, int) and steps > 1

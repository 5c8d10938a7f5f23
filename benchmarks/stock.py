"""The peers' own solvers on their own grids, each a cell: run(calls) spends at most that many network calls.

A cell is given a state y = x / alpha at sigma / alpha = `high` and the denoiser as a function of y and sigma /
alpha, so every library starts from the same point, whatever schedule it thinks in. Cells go to time 0 by a last
denoising step or stop at `low`, as their libraries do.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .peers import k_diffusion_sampling

__all__ = ["LIBRARIES", "Cell"]

Denoise = Callable[[Tensor, float], Tensor]


class Cell(NamedTuple):
    """One library's solver on one of its grids; `to_zero` says whether it ends at time 0 or at `low`."""

    library: str
    solver: str
    grid: str
    run: Callable[[int], Tensor]
    to_zero: bool = True


def k_diffusion(denoise: Denoise, y: Tensor, high: float, low: float) -> Iterator[Cell]:
    """Solvers of one and of two calls a step on its three grids."""
    lib = k_diffusion_sampling()
    grids = {
        "karras": lambda n: lib.get_sigmas_karras(n, low, high),
        "exponential": lambda n: lib.get_sigmas_exponential(n, low, high),
        "polyexponential 3": lambda n: lib.get_sigmas_polyexponential(n, low, high, 3.0),
    }
    still: dict[str, Any] = {"eta": 0.0, "noise_sampler": lambda *levels: 0.0}
    solvers: dict[str, tuple[Any, dict[str, Any], int]] = {
        "Euler": (lib.sample_euler, {}, 1),
        "DPM-Solver++(2M)": (lib.sample_dpmpp_2m, {}, 1),
        "DPM-Solver++(3M)": (lib.sample_dpmpp_3m_sde, still, 1),
        "LMS 2": (lib.sample_lms, {"order": 2}, 1),
        "LMS 3": (lib.sample_lms, {"order": 3}, 1),
        "LMS 4": (lib.sample_lms, {"order": 4}, 1),
        "Heun": (lib.sample_heun, {}, 2),
        "DPM-Solver-2": (lib.sample_dpm_2, {}, 2),
        "DPM-Solver++(2S)": (lib.sample_dpmpp_2s_ancestral, still, 2),
    }
    model = lambda x, sigma: denoise(x, float(sigma[0]))  # noqa: E731
    for grid, sigmas in grids.items():
        for name, (solve, options, cost) in solvers.items():

            def run(calls: int, solve=solve, options=options, cost=cost, sigmas=sigmas) -> Tensor:
                levels = sigmas((calls + cost - 1) // cost).to(y)
                return solve(model, y, levels, disable=True, **options)

            yield Cell("k-diffusion", name, grid, run)
    fast = lambda calls: lib.sample_dpm_fast(model, y, low, high, calls, eta=0.0, disable=True)  # noqa: E731
    yield Cell("k-diffusion", "DPM-Solver fast", "its own", fast, to_zero=False)


def azula(denoise: Denoise, y: Tensor, high: float, low: float) -> Iterator[Cell]:
    """Multistep solvers of orders 2 to 4 in every prediction, Heun and DDIM, on its five schedules."""
    denoisers, noise, sample = (importlib.import_module(f"azula.{n}") for n in ("denoise", "noise", "sample"))
    ends = {"alpha_min": 1 / high, "sigma_min": low}
    preserving = {
        **ends,
        "alpha_min": math.sqrt((1 + low**2) / (1 + high**2)),
    }  # where sigma^2 = 1 - alpha^2 + low^2
    schedules = {
        "VE": noise.VESchedule(low, high),
        "VP": noise.VPSchedule(**preserving),
        "cosine": noise.CosineSchedule(**preserving),
        "rectified": noise.RectifiedSchedule(**ends),
        "decay": noise.DecaySchedule(**ends),
    }
    solvers = {"DDIM": (sample.DDIMSampler, {}, 1), "Heun": (sample.HeunSampler, {}, 2)}
    for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
        for order in (2, 3, 4):
            solvers[f"{name} {order}"] = (getattr(sample, f"{name}Sampler"), {"order": order}, 1)

    class Denoiser(denoisers.Denoiser):
        def __init__(self, schedule: Any) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return denoisers.DiracPosterior(denoise(x_t / alpha, float(sigma / alpha)))

    for grid, schedule in schedules.items():
        (first, _), (last, _) = schedule(torch.tensor(1.0)), schedule(torch.tensor(0.0))
        for name, (solver, options, cost) in solvers.items():

            def run(
                calls: int, solver=solver, options=options, cost=cost, schedule=schedule, ends=(first, last)
            ):
                steps = {"steps": max(calls // cost, 1), "silent": True, "dtype": torch.float64}
                return solver(Denoiser(schedule), **options, **steps)(y * ends[0]) / ends[1]

            def denoised(calls: int, run=run) -> Tensor:
                return denoise(run(calls - 1), low)

            yield Cell("azula", name, grid, run, to_zero=False)
            yield Cell("azula", f"{name}, denoised", grid, denoised)


def diffusers(denoise: Denoise, y: Tensor, high: float, low: float) -> Iterator[Cell]:
    """Its multistep schedulers on all their grids, told of a thousand levels evenly spaced in log sigma / alpha."""
    library = importlib.import_module("diffusers")
    grids = {
        "linspace": {},
        "trailing": {"timestep_spacing": "trailing"},
        "karras": {"use_karras_sigmas": True},
        "exponential": {"use_exponential_sigmas": True},
        "lu": {"use_lu_lambdas": True},
    }
    names = {
        "DPM-Solver++": library.DPMSolverMultistepScheduler,
        "UniPC": library.UniPCMultistepScheduler,
        "DEIS": library.DEISMultistepScheduler,
    }
    variants = {
        "DPM-Solver++": ({}, {"euler_at_final": True}),
        "UniPC": ({}, {"solver_type": "bh1"}),
        "DEIS": ({},),
    }
    betas = _betas(high, low)
    for name, scheduler in names.items():
        accepted = inspect.signature(scheduler.__init__).parameters
        for order in (2, 3):
            for variant in variants[name]:
                for grid, flags in grids.items():
                    if set(flags) <= set(accepted):
                        options = {"prediction_type": "sample", "solver_order": order, **variant, **flags}
                        made = scheduler(trained_betas=betas, **options)
                        label = " ".join([name, str(order), *map(str, variant.values())])
                        yield Cell("diffusers", label, grid, _preserving(made, denoise, y))
    for order in (2, 3):
        for grid in ("karras", "exponential"):
            options = {"sigma_min": low, "sigma_max": high, "sigma_schedule": grid, "solver_order": order}
            made = library.EDMDPMSolverMultistepScheduler(**options)
            yield Cell("diffusers", f"EDM DPM-Solver++ {order}", grid, _edm(made, denoise, y))


def _betas(high: float, low: float, count: int = 1000) -> list[float]:
    """Whose cumulative products give sigma / alpha evenly spaced in its logarithm from low to high."""
    level = torch.exp(torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64))
    alpha_bar = 1 / (1 + level**2)
    return torch.cat([1 - alpha_bar[:1], 1 - alpha_bar[1:] / alpha_bar[:-1]]).tolist()


def _preserving(scheduler: Any, denoise: Denoise, y: Tensor) -> Callable[[int], Tensor]:
    """A scheduler whose states preserve variance: x = y / sqrt(1 + (sigma / alpha)^2). Single precision, its own."""

    def run(calls: int) -> Tensor:
        scheduler.set_timesteps(calls)
        levels = [float(level) for level in scheduler.sigmas]
        x = (y / math.hypot(1, levels[0])).float()
        for t, level in zip(scheduler.timesteps, levels, strict=False):
            mean = denoise(x.to(y) * math.hypot(1, level), level).float()
            x = scheduler.step(mean, t, x, return_dict=False)[0]
        return x.to(y) * math.hypot(1, levels[-1])

    return run


def _edm(scheduler: Any, denoise: Denoise, y: Tensor) -> Callable[[int], Tensor]:
    """A scheduler that reads the network's raw output (2206.00364): it is made from the denoised state."""

    def run(calls: int) -> Tensor:
        scheduler.set_timesteps(calls)
        scheduler.is_scale_input_called = True  # scaling the input is the model's work
        x, own = y, scheduler.config.sigma_data
        for t, level in zip(scheduler.timesteps, scheduler.sigmas.double().tolist(), strict=False):
            kept, scale = own**2 / (level**2 + own**2), level * own / math.hypot(level, own)
            x = scheduler.step((denoise(x, level) - kept * x) / scale, t, x, return_dict=False)[0]
        return x

    return run


LIBRARIES = {"k-diffusion": k_diffusion, "azula": azula, "diffusers": diffusers}

"""The peers' samplers as contestants: each with a denoiser that costs nothing, and as lean as it can be set.

Progress bars are off. What a library lets one prepare once (time grids, schedules) is not timed; what it makes
anew in every run is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .timing import Contestant

__all__ = ["PEERS", "evaluations"]

Free = Callable[[], Tensor]  # gives a posterior mean that is already there


CALLS = {"Heun": 2, "order 2, single-step": 2, "order 3, single-step": 3, "order 4, single-step": 4}


def evaluations(name: str, steps: int) -> int:
    """Calls of the denoiser in a run of so many steps, of which the last, to no noise, is of one call."""
    calls = CALLS.get(name, 1)
    return calls * (steps - 1) + 1


def k_diffusion(x: Tensor, free: Free, steps: int) -> Iterator[Contestant]:
    """Functions of a model and a tensor of sigmas."""
    sampling = k_diffusion_sampling()
    sigmas = sampling.get_sigmas_karras(steps, 0.01, 80.0)
    methods = {
        "2M": sampling.sample_dpmpp_2m,
        "Euler": sampling.sample_euler,
        "Heun": sampling.sample_heun,
        "ancestral": sampling.sample_euler_ancestral,
        "order 2, single-step": sampling.sample_dpm_2,
        "order 3, noise": partial(sampling.sample_lms, order=3),
        "order 4, noise": sampling.sample_lms,
    }
    for name, method in methods.items():
        run = lambda method=method: method(lambda x, sigma: free(), x, sigmas, disable=True)  # noqa: E731
        yield Contestant("k-diffusion", name, run, evaluations(name, steps))


@cache
def k_diffusion_sampling() -> ModuleType:
    """`k_diffusion.sampling` without the rest of its package.

    `import k_diffusion` imports its models, data augmentation and evaluation, hence CLIP, clean-fid,
    scikit-image, wandb and more. The samplers need none of them: an empty package that points at the same
    folder stands in for the whole, and empty modules for torchvision, by which its `utils` reads pictures.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("k_diffusion is not installed")
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    with stand_ins("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        return importlib.import_module("k_diffusion.sampling")


@contextmanager
def stand_ins(*names: str) -> Iterator[None]:
    """Empty modules of these names, gone afterwards: other libraries look whether the real ones are there."""
    added = {name: ModuleType(name) for name in names if name not in sys.modules}
    for name, module in added.items():
        parent, _, child = name.rpartition(".")
        if parent in added:
            setattr(added[parent], child, module)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def azula(x: Tensor, free: Free, steps: int) -> Iterator[Contestant]:
    """Objects that are called; xEAB of order 2 is the method of DPM-Solver++(2M), in other coefficients."""
    denoise, noise, sample = (importlib.import_module(f"azula.{n}") for n in ("denoise", "noise", "sample"))

    class Denoiser(denoise.Denoiser):
        schedule = noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> Any:
            return denoise.DiracPosterior(free())

    options = {"steps": steps, "silent": True}
    samplers = {
        "2M": sample.xEABSampler(Denoiser(), order=2, **options),
        "DDIM": sample.DDIMSampler(Denoiser(), **options),
        "Euler": sample.EulerSampler(Denoiser(), **options),
        "Heun": sample.HeunSampler(Denoiser(), **options),
        "ancestral": sample.DDPMSampler(Denoiser(), **options),
        "order 3": sample.xEABSampler(Denoiser(), order=3, **options),
        "order 4": sample.xEABSampler(Denoiser(), order=4, **options),
        "order 3, noise": sample.zEABSampler(Denoiser(), order=3, **options),
        "order 4, noise": sample.zEABSampler(Denoiser(), order=4, **options),
        "order 3, Rosenbrock": sample.REABSampler(Denoiser(), order=3, **options),
    }
    for name, sampler in samplers.items():
        yield Contestant("azula", name, lambda sampler=sampler: sampler(x), evaluations(name, steps))


def diffusers(x: Tensor, free: Free, steps: int) -> Iterator[Contestant]:
    """Schedulers, stepped by the loop that its users write; told that the model predicts the sample itself."""
    library = importlib.import_module("diffusers")
    schedulers = {
        "2M": library.DPMSolverMultistepScheduler(prediction_type="sample"),
        "DDIM": library.DDIMScheduler(prediction_type="sample", clip_sample=False),
        "Euler": library.EulerDiscreteScheduler(prediction_type="sample"),
        "Heun": library.HeunDiscreteScheduler(prediction_type="sample"),
        "ancestral": library.DDPMScheduler(prediction_type="sample", clip_sample=False),
        "order 3": library.DPMSolverMultistepScheduler(prediction_type="sample", solver_order=3),
        "order 3, noise": library.DEISMultistepScheduler(prediction_type="sample", solver_order=3),
        "UniPC 2": library.UniPCMultistepScheduler(prediction_type="sample", solver_order=2),
        "UniPC 3": library.UniPCMultistepScheduler(prediction_type="sample", solver_order=3),
    }
    for name, scheduler in schedulers.items():
        scheduler.is_scale_input_called = True  # scaling the input is the model's work elsewhere
        yield Contestant(
            "diffusers",
            name,
            lambda scheduler=scheduler: stepped(scheduler, x, free),
            evaluations(name, steps),
            prepare=lambda scheduler=scheduler: scheduler.set_timesteps(steps),  # also resets its state
        )


@torch.no_grad()
def stepped(scheduler: Any, x: Tensor, free: Free) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.step(free(), t, x, return_dict=False)[0]
    return x


PEERS = {"k-diffusion": k_diffusion, "azula": azula, "diffusers": diffusers}

"""The same network, start and noise through the schedulers of diffusers and through our solvers.

Discrete step k of N is our time (k + 1) / N, and time 0 is clean data, so a final step of theirs to
alpha = 1 (`set_alpha_to_one`, `final_sigmas_type="zero"`) is our last row to time 0, and one to their
step 0 (`set_alpha_to_one=False`, "sigma_min") is our last row to time 1 / N.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ornstein.core import Denoiser, Posterior, Recorded, Sampler, Solver, TimeGrid
from ornstein.processes import RectifiedFlow
from ornstein.processes.tabulated import Tabulated
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Euler

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

N = 1000
SHAPE = (2, 3, 8, 8)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """Random weights, predicting noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    return made.eval().requires_grad_(False)


@pytest.fixture
def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Discrete(Denoiser):
    """A network that is told an integer step and predicts `reads` (noise, velocity)."""

    def __init__(self, network: nn.Module, process, reads: str = "noise") -> None:
        super().__init__()
        self.network, self.process, self.reads = network, process, reads

    def forward(self, x, t, condition=None, step=None) -> Posterior:
        told = N * t if self.reads == "velocity" else round(N * t - 1)
        output = self.network(x, torch.tensor(told)).sample
        mean = self.process.mean_from(self.reads, x, output, t)
        return Posterior(self.process, x, t, mean)


def process_of(scheduler) -> Tabulated:
    return Tabulated.from_alpha_bar(scheduler.alphas_cumprod.tolist())


def grid_of(scheduler, last: float = 0.0) -> TimeGrid:
    return TimeGrid.through([(int(k) + 1) / N for k in scheduler.timesteps] + [last])


def theirs(scheduler, unet: nn.Module, x: Tensor, **options) -> list[Tensor]:
    path = [x]
    for k in scheduler.timesteps:
        output = unet(path[-1], k).sample
        path.append(scheduler.step(output, k, path[-1], return_dict=False, **options)[0])
    return path[1:]


def ours(denoiser: Denoiser, solver: Solver, grid: TimeGrid, x: Tensor, seed=0) -> list[Tensor]:
    return [step.next for step in Sampler(solver, grid=grid).steps(denoiser, x, seed=seed)]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    """Every state of the path, as a share of the largest entry of that state."""
    assert len(ours) == len(theirs)
    gaps = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)]
    assert max(gaps) < tolerance, gaps


@DTYPES
@pytest.mark.parametrize("alpha_to_one", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(unet, start, dtype, alpha_to_one, spacing) -> None:
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=alpha_to_one, timestep_spacing=spacing
    )
    scheduler.set_timesteps(20)
    network, x = unet.to(dtype), start.to(dtype)
    denoiser, grid = (
        Discrete(network, process_of(scheduler)),
        grid_of(scheduler, 0.0 if alpha_to_one else 1 / N),
    )
    assert_same(ours(denoiser, DDIM(), grid, x), theirs(scheduler, network, x))


def test_ddim_to_rounding_of_float64(unet, start) -> None:
    """Given their table in float64, nothing but rounding is left."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(20)
    denoiser = Discrete(unet.double(), process_of(scheduler))
    path = ours(denoiser, DDIM(), grid_of(scheduler), start)
    assert_same(path, theirs(scheduler, unet, start), 1e-11)


@DTYPES
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise(unet, start, dtype, eta) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(20)
    network, x = unet.to(dtype), start.to(dtype)
    noise = draws(20, x)
    path = [x]
    for k, z in zip(scheduler.timesteps, noise, strict=True):
        output = network(path[-1], k).sample
        path.append(scheduler.step(output, k, path[-1], eta=eta, variance_noise=z).prev_sample)
    denoiser = Discrete(network, process_of(scheduler))
    mine = ours(denoiser, DDIM(eta), grid_of(scheduler, 1 / N), x, recorded(noise))
    assert_same(mine, path[1:])


@DTYPES
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("steps", [10, 20])  # below 15 theirs has a rule of its own for the last steps
def test_dpm_solver_2m(unet, start, dtype, karras, steps) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=karras)
    scheduler.set_timesteps(steps)
    network, x = unet.to(dtype), start.to(dtype)
    process = process_of(scheduler)
    grid = at_sigmas(scheduler, process) if karras else grid_of(scheduler)
    mine = ours(Discrete(network, process), DPMSolverPP(order=2), grid, x)
    assert_same(mine, theirs(scheduler, network, x))


def test_another_solver_or_grid_would_be_seen(unet, start) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(20)
    denoiser, grid = Discrete(unet.double(), process_of(scheduler)), grid_of(scheduler)
    path = theirs(scheduler, unet, start)
    for solver, last in ((DDIM(), 0.0), (DPMSolverPP(order=2), 1 / N)):
        with pytest.raises(AssertionError):
            assert_same(ours(denoiser, solver, TimeGrid([*grid[:-1], (grid[-1].t, last)]), start), path)


@DTYPES
def test_dpm_solver_2m_that_ends_at_the_smallest_sigma(unet, start, dtype) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(final_sigmas_type="sigma_min")
    scheduler.set_timesteps(20)
    network, x = unet.to(dtype), start.to(dtype)
    denoiser = Discrete(network, process_of(scheduler))
    mine = ours(denoiser, DPMSolverPP(order=2), grid_of(scheduler, 1 / N), x)
    assert_same(mine, theirs(scheduler, network, x))


def at_sigmas(scheduler, process: Tabulated) -> TimeGrid:
    """Their sigma is sigma / alpha, and lies between the nodes."""
    levels = -scheduler.sigmas[:-1].double().log()
    return TimeGrid.through([*process.time_at(levels).tolist(), 0.0])


@DTYPES
def test_ddpm(unet, start, dtype) -> None:
    """Their variance "fixed_small" is the bridge's."""
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(20)
    network, x = unet.to(dtype), start.to(dtype)
    generator = torch.Generator().manual_seed(2)
    path = theirs(scheduler, network, x, generator=generator)
    noise = draws(len(path), x)
    mine = ours(Discrete(network, process_of(scheduler)), Ancestral(), grid_of(scheduler), x, recorded(noise))
    assert_same(mine, path)


def draws(steps: int, like: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(like.shape, generator=generator, dtype=like.dtype) for _ in range(steps)]


def recorded(noise: list[Tensor]) -> Recorded:
    return Recorded({(i, "normal", ()): z for i, z in enumerate(noise)})


@DTYPES
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler(unet, start, dtype, shift) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(20)
    network, x = unet.to(dtype), start.to(dtype)
    denoiser = Discrete(network, RectifiedFlow(), reads="velocity")
    grid = TimeGrid.through(scheduler.sigmas.tolist())
    assert_same(ours(denoiser, Euler(), grid, x), theirs(scheduler, network, x))

"""Training as each library's own example does it, one step at a time, on the same images.

Everyone has a network of some two million parameters and keeps what its example keeps (an average of the weights, a
clipped gradient, a schedule of the learning rate). Learning rates that are meant for days (1e-4 of diffusers, 8e-5 of
denoising-diffusion-pytorch) are raised to what suits a short run. Two peers import torchvision and the tools of
their command line; where those are not installed, empty stand-ins take their place, since nothing here calls them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from ornstein.core import Sampler
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import UNet
from ornstein.objectives import Denoising
from ornstein.processes import RectifiedFlow
from ornstein.solvers import recommended
from ornstein.training.learner import Learner
from ornstein.training.lesson import Lesson
from ornstein.training.options import Options
from ornstein.training.source import Source

__all__ = ["TRAINERS", "Trainer", "bare", "ornstein"]

UNUSED = ("torchvision", "torchvision.transforms", "torchvision.utils", "ema_pytorch", "pytorch_fid")
UNUSED += ("pytorch_fid.fid_score", "pytorch_fid.inception")  # what they import and nothing here calls


class Trainer(NamedTuple):
    """One library's training.

    step(i) trains on batch i; denoise(y, level) is the posterior mean of y = x_0 + level z by the weights one samples
    from; draw(n, calls) gives samples by so many network calls.
    """

    name: str
    parameters: int
    step: Callable[[int], object]
    denoise: Callable[[Tensor, float], Tensor]
    draw: Callable[[int, int], Tensor]


def images(data: Any, batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Batches in [-1, 1] without end, in an order drawn anew for every pass."""
    split, generator = data.train, torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(split), generator=generator).split(batch):
            if len(rows) == batch:
                yield split.batch(rows)["x_0"]


def ornstein(data: Any, batch: int, steps: int, **network: Any) -> Trainer:
    """`fit`'s own loop body: keyed noise, `Denoising`, AdamW, clipped gradients, an average, a window of losses."""
    from accelerate import Accelerator

    learner, source = learner_of(data, batch, steps, Accelerator(cpu=True), **network)
    given = source.given(0, 10**9)
    model = learner.model
    process = model.process

    def step(i: int) -> None:
        learner.step(i, next(given))

    @torch.no_grad()
    def denoise(y: Tensor, level: float) -> Tensor:
        t = process.time_at(-torch.tensor(level, dtype=torch.float64).log().item())
        return model(y * process.at(t).alpha, t).mean

    @torch.no_grad()
    def draw(n: int, calls: int) -> Tensor:
        return Sampler(recommended(process), calls)(model, n, seed=0)

    return Trainer("ornstein", count(learner.lesson.denoiser), step, denoise, draw)


def learner_of(data: Any, batch: int, steps: int, accelerator: Any, **network: Any) -> tuple[Learner, Source]:
    """What `fit` makes of our recipe."""
    torch.manual_seed(0)
    shape = data.shape
    net = UNet(shape[0], **(network or OURS))
    denoiser = NetworkDenoiser(net, RectifiedFlow(), "edm", shape=shape, scale=0.57)
    options = Options(
        steps=steps, batch=batch, learning_rate=2e-3, warmup=min(100, steps // 10), schedule="cosine",
        weight_decay=0.0, clip=1.0, ema=0.999, precision="no", seed=0, report_every=50, evaluate_every=0,
        sample_every=0, checkpoint_every=steps, keep=1, patience=20, workers=0,
    )  # fmt: skip
    lesson = Lesson(denoiser, Denoising(drop=0.0))
    return Learner(lesson, options, accelerator), Source(data, batch, 0)


OURS = {"width": 32, "multipliers": (1, 2, 4, 4)}


def bare(data: Any, batch: int) -> Callable[[int], object]:
    """Our network and loss in a loop written out: draw, forward, backward, clip, AdamW, average. Nothing else."""
    torch.manual_seed(0)
    net = UNet(data.shape[0], **OURS)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    batches, scale = images(data, batch), 0.57

    def step(i: int) -> None:
        x_0 = next(batches)
        t = (0.001 + 0.999 * torch.rand(batch)).reshape(-1, 1, 1, 1)
        alpha, sigma = 1 - t, t
        x_t = alpha * x_0 + sigma * torch.randn_like(x_0)
        size = alpha**2 * scale**2 + sigma**2
        output = net(x_t * size.rsqrt(), (alpha / sigma).log().flatten())
        mean = alpha * scale**2 / size * x_t + scale * sigma / size.sqrt() * output
        loss = (size / (scale * sigma) ** 2 * (mean - x_0) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(net)

    return step


def diffusers(data: Any, batch: int, steps: int) -> Trainer:
    """Its example train_unconditional: predicted noise, AdamW, cosine rate with warm-up, clipped, an average."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=data.shape[-1], in_channels=1, out_channels=1, block_out_channels=(32, 64, 112),
        layers_per_block=1, norm_num_groups=8, down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    )  # fmt: skip
    schedule, average = DDPMScheduler(1000), EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4 * 5, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_cosine_schedule_with_warmup(optimizer, min(500, steps // 10), steps)
    batches = images(data, batch)

    def step(i: int) -> None:
        x_0 = next(batches)
        noise, t = torch.randn_like(x_0), torch.randint(0, 1000, (batch,))
        loss = nn.functional.mse_loss(net(schedule.add_noise(x_0, noise, t), t).sample, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        average.step(net.parameters())

    def averaged(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @torch.no_grad()
        def run(*arguments: Any) -> Tensor:
            average.store(net.parameters())
            average.copy_to(net.parameters())
            found = function(*arguments)
            average.restore(net.parameters())
            return found

        return run

    def denoise(y: Tensor, level: float) -> Tensor:
        t, alpha = nearest(schedule.alphas_cumprod, level)
        return y - level * net(y * alpha, torch.full((len(y),), t)).sample

    def draw(n: int, calls: int) -> Tensor:
        sampler = DDIMScheduler.from_config(schedule.config, timestep_spacing="trailing")
        sampler.set_timesteps(calls)
        x = torch.randn(n, *data.shape, generator=torch.Generator().manual_seed(0))
        for t in sampler.timesteps:
            x = sampler.step(net(x, t).sample, t, x).prev_sample
        return x

    return Trainer("diffusers", count(net), step, averaged(denoise), averaged(draw))


def denoising_diffusion_pytorch(data: Any, batch: int, steps: int) -> Trainer:
    """Its Trainer's step: predicted velocity, Adam (at 8e-4 for the short run), clipped. Its average, of every tenth
    step at 0.995 from the hundredth on, would hold it back over so few steps: the weights themselves are judged.
    """
    with without(UNUSED):
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    torch.manual_seed(0)
    net = Unet(dim=32, dim_mults=(1, 2, 3), channels=1)
    model = GaussianDiffusion(net, image_size=data.shape[-1], timesteps=1000, sampling_timesteps=20)
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-4, betas=(0.9, 0.99))
    batches = images(data, batch)

    def step(i: int) -> None:
        loss = model((next(batches) + 1) / 2)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def denoise(y: Tensor, level: float) -> Tensor:
        t, alpha = nearest(model.alphas_cumprod, level)
        times = torch.full((len(y),), t)
        return model.model_predictions(y * alpha, times).pred_x_start

    @torch.no_grad()
    def draw(n: int, calls: int) -> Tensor:
        model.sampling_timesteps = calls
        torch.manual_seed(0)
        return model.ddim_sample((n, *data.shape)) * 2 - 1

    return Trainer("denoising-diffusion-pytorch", count(net), step, denoise, draw)


def smalldiffusion(data: Any, batch: int, steps: int) -> Trainer:
    """Its Fashion-MNIST example: sigma from 0.01 to 20, `Scaled(Unet)`, AdamW at 7e-4, an average of 0.999."""
    with without(UNUSED):
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet, samples, training_loop

    torch.manual_seed(0)
    size = data.shape[-1]
    net = Scaled(Unet)(size, 1, 1, ch=32, ch_mult=(1, 2, 2), attn_resolutions=(14,))
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    loop = training_loop(Endless(data, batch), net, schedule, accelerator=Plain(), epochs=1, lr=7e-4)
    next(loop)

    def step(i: int) -> None:
        next(loop)
        average.update_parameters(net)

    @torch.no_grad()
    def denoise(y: Tensor, level: float) -> Tensor:
        own = average.module.eval()
        return y - level * own.predict_eps(y, torch.tensor(level))

    @torch.no_grad()
    def draw(n: int, calls: int) -> Tensor:
        torch.manual_seed(0)
        return list(
            samples(average.module, schedule.sample_sigmas(calls), gam=1.6, batchsize=n, accelerator=Plain())
        )[-1]

    return Trainer("smalldiffusion", count(net), step, denoise, draw)


class Endless:
    """Batches as a loader that one epoch never ends."""

    def __init__(self, data: Any, batch: int) -> None:
        self.batches = images(data, batch)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches


class Plain:
    """What smalldiffusion asks of accelerate, for one process on the CPU, so that its loop costs nothing more."""

    device = torch.device("cpu")

    def prepare(self, *parts: Any) -> Any:
        return parts

    def backward(self, loss: Tensor) -> None:
        loss.backward()


class without:
    """Stand-ins for modules that are imported but not installed, while a peer is imported."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __enter__(self) -> None:
        missing = {name for name in self.names if "." not in name and importlib.util.find_spec(name) is None}
        self.made = [name for name in self.names if name.split(".")[0] in missing and name not in sys.modules]
        sys.modules.update({name: MagicMock() for name in self.made})

    def __exit__(self, *error: object) -> None:
        for name in self.made:
            del sys.modules[name]


def nearest(alphas_cumprod: Tensor, level: float) -> tuple[int, float]:
    """The step of a table whose sigma / alpha is nearest to a level, and its alpha."""
    levels = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().log()
    t = int((levels - torch.tensor(level).log()).abs().argmin())
    return t, float(alphas_cumprod[t].sqrt())


def count(network: nn.Module) -> int:
    """Parameters that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


TRAINERS = {
    "ornstein": ornstein,
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "smalldiffusion": smalldiffusion,
}

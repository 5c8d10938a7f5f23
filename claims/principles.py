"""The Principles of Diffusion Models (Lai et al. 2025, 2510.21890).

A monograph: its variational, score and flow views are one posterior under three names. Measured here on a mixture of
eight Gaussians in the plane, whose law is known, with networks small enough to be trained many times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import ornstein as orn
from ornstein import denoisers, metrics, networks, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Posterior

VIEWS = ("noise", "score", "velocity")
SIZES = {"smoke": (20, 100), "quick": (600, 500), "full": (8000, 2000)}  # training steps, samples
BATCH = 256
FIRST = 1e-3
SAME = 1e-6  # of the data's standard deviation: what rounding may grow to in training
NEAR = 1.5


def truth(process: processes.VariancePreserving) -> denoisers.MixtureDenoiser:
    """Eight narrow Gaussians on a circle."""
    angle = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    means = torch.stack([angle.cos(), angle.sin()], 1)
    return denoisers.MixtureDenoiser(torch.ones(8), means, 0.01, process)


def network(process: processes.VariancePreserving, prediction: str, seed: int) -> denoisers.NetworkDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = networks.ResidualMLP(2, width=64, depth=2).double()
    return denoisers.NetworkDenoiser(net, process, prediction, (2,), scale=0.7)


def weight(process: processes.VariancePreserving, view: str, t: Tensor) -> Tensor:
    """The factor by which a squared error of this view is that of the predicted noise."""
    level, slope = process.at(t), process.slope(t)
    if view == "noise":
        return torch.ones_like(t)
    if view == "score":
        return level.sigma**2
    return (slope.sigma - slope.alpha * level.sigma / level.alpha) ** -2


def trained(
    model: denoisers.NetworkDenoiser, view: str, matched: bool, steps: int, seed: int
) -> denoisers.NetworkDenoiser:
    """Least squares in one view of x_0's posterior, with the weights of predicted noise or with equal ones.

    Data, noise and times depend on the seed alone.
    """
    process = model.process
    source = truth(process)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    for index in range(steps):
        x_0 = source.sample_data(BATCH, generator)
        noise = Keyed(seed, BATCH).fold(index)
        t = FIRST + (1 - 2 * FIRST) * noise.fold("time").uniform(x_0[:, :1])[:, 0]
        x_t = process.marginal(x_0, t).sample(noise)
        found, target = model(x_t, t), known(process, x_t, t, x_0)
        error = (getattr(found, view) - getattr(target, view)).square().sum(1)
        loss = (error * (weight(process, view, t) if matched else 1.0)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.requires_grad_(False)


def known(process: processes.VariancePreserving, x_t: Tensor, t: Tensor, x_0: Tensor) -> Posterior:
    """What is known of x_0 in training: x_0 itself; its views are the regression targets."""
    return Posterior(process, x_t, t, x_0)


class Principles(Claim):
    slug = "principles"
    statement = (
        "The views are one: least squares on noise, score and velocity with matched weights train a network to the "
        f"same samples to rounding (under {SAME:g} of the data's deviation), with equal weights to "
        "different ones; and networks whose output is read as noise or as velocity, with matched weights, draw samples "
        f"that differ no more than {NEAR} times as much as two networks that differ in initial weights only"
    )
    baseline = (
        "the same view trained from other initial weights: what two trainings of one method differ by. All arms share "
        "data, noise, times, steps, network size and the start of the sampling"
    )
    effects = (
        Effect("matched views: largest difference", of="matched views"),
        Effect("equal weights: difference", of="unmatched views"),
        Effect("initial weights: difference", of="initial weights"),
        Effect(
            "outputs, matched, against initial weights",
            of="outputs",
            against="initial weights",
            ratio=True,
        ),
        Effect("noise: energy distance to data", of="noise to data"),
        Effect("velocity output: energy distance to data", of="velocity output to data"),
        Effect("noise weights of 1 in the score view: energy distance to data", of="plain score to data"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        steps, n = SIZES[budget]
        process = processes.VariancePreserving()
        arms = {
            **{f"{view} matched": ("noise", view, True, seed) for view in VIEWS},
            "score plain": ("noise", "score", False, seed),
            "velocity plain": ("noise", "velocity", False, seed),
            "output velocity": ("velocity", "noise", True, seed),
            "other weights": ("noise", "noise", True, seed + 1000),
        }
        samples = {}
        for index, (name, (prediction, view, matched, initial)) in enumerate(arms.items()):
            progress(index / len(arms), name)
            model = trained(network(process, prediction, initial), view, matched, steps, seed)
            samples[name] = drawn(model, n, seed)
        real = truth(process).sample_data(n, torch.Generator().manual_seed(seed + 5000))
        base, size = samples["noise matched"], float(real.std())

        def apart(name: str) -> float:
            return float((samples[name] - base).square().mean().sqrt()) / size

        return {
            "matched views": max(apart("score matched"), apart("velocity matched")),
            "unmatched views": min(apart("score plain"), apart("velocity plain")),
            "initial weights": apart("other weights"),
            "outputs": apart("output velocity"),
            "noise to data": distance(base, real),
            "velocity output to data": distance(samples["output velocity"], real),
            "plain score to data": distance(samples["score plain"], real),
        }

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        rounding = effects["matched views: largest difference"].below(SAME)
        differ = effects["equal weights: difference"].above(100 * SAME)
        ratio = effects["outputs, matched, against initial weights"]
        if rounding and differ and ratio.below(NEAR):
            return Verdict("reproduced", f"losses agree to rounding, outputs within {ratio} of the floor")
        if rounding and differ:
            return Verdict(
                "partly",
                f"losses with matched weights agree to rounding, but reading the output as velocity differs by {ratio} "
                "of what other initial weights do",
            )
        if rounding:
            return Verdict("not reproduced", "matched weights give the same samples, but so may equal ones")
        return Verdict("not reproduced", "losses with matched weights do not give the same samples")


def drawn(model: denoisers.NetworkDenoiser, n: int, seed: int) -> Tensor:
    """Samples by one solver from one start, shared by all arms; the start has a little signal, for noise's sake."""
    process = model.process
    start = Keyed(seed, n).normal(torch.empty(n, 2, dtype=torch.float64))
    times = process.time_at(torch.linspace(-4.5, 4.5, 40, dtype=torch.float64)).tolist()
    grid = orn.TimeGrid.through([*times, 0.0])
    return orn.Sampler(solvers.DPMSolverPP(), grid=grid)(model, start)


def distance(x: Tensor, y: Tensor) -> float:
    """Unbiased energy distance: 0 in expectation for equal laws."""
    return float(metrics.energy_distance(x, y, resamples=2).value)


claim = Principles()

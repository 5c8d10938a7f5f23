"""Stochastic Interpolants: A Unifying Framework for Flows and Diffusions (Albergo, Boffi, Vanden-Eijnden 2023,
2303.08797).

Measured here: KL divergence from the data against the diffusion coefficient epsilon, (1) on the line between two
mixtures, where velocity and score are exact up to a perturbation of known size and densities are computed without
sampling, and (2) in the plane with two small trained networks; and how many modes the law half way has with and
without latent noise. Surrogates: mixtures and a checkerboard stand in for images, networks of width 64 for large ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ornstein import denoisers, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Sampler, TimeGrid
from ornstein.data.plane import Checkerboard

EPSILONS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # on the line
LEARNED = (0.03, 0.1, 0.3, 1.0, 3.0)  # in the plane
ERROR, FREQUENCY = 0.1, 4.0  # relative error of both fields; scale of its wave numbers
STEPS = {"smoke": 20, "quick": 200, "full": 400}
TRAINING = {
    "smoke": (10, 100, 10),
    "quick": (2500, 6000, 100),
    "full": (20_000, 20_000, 400),
}  # steps, samples, rows
BANDWIDTH = 0.12


class StochasticInterpolants(Claim):
    slug = "stochastic-interpolants"
    statement = (
        f"With velocity and score each wrong by {ERROR:.0%} (relative, independent smooth random fields), and with "
        "both learned by small networks, some epsilon strictly inside the tried range gives a smaller KL divergence "
        "from the data than the flow (epsilon = 0) and than the largest epsilon; and latent noise leaves the law "
        "half way fewer modes"
    )
    baseline = (
        "the flow of the same fields: on the line integrated by a fourth-order method with its exact density, in the "
        "plane with as many network calls; the epsilon of the networks is chosen on other data than it is judged on"
    )
    effects = (
        Effect("exact: KL best over flow", of="exact best", against="exact flow", ratio=True),
        Effect("exact: KL best over largest", of="exact best", against="exact largest", ratio=True),
        Effect("exact: KL of the flow", of="exact flow"),
        Effect("exact: KL without error, best", of="exact floor"),
        Effect("exact: KL without error, largest", of="exact floor largest"),
        Effect("learned: KL best over flow", of="learned best", against="learned flow", ratio=True),
        Effect("learned: KL best over largest", of="learned best", against="learned largest", ratio=True),
        Effect("learned: KL of the flow", of="learned flow"),
        Effect("exact: best epsilon", of="exact epsilon"),
        Effect("learned: best epsilon", of="learned epsilon"),
        Effect("modes half way, with noise over without", of="modes noise", against="modes none", ratio=True),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        progress(0.0, "line")
        found = on_the_line(STEPS[budget], seed)
        progress(0.3, "plane")
        return {**found, **in_the_plane(*TRAINING[budget], seed), **modes(seed)}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        def interior(kind: str) -> bool:
            return all(effects[f"{kind}: KL best over {other}"].below(1.0) for other in ("flow", "largest"))

        smoother = effects["modes half way, with noise over without"].below(1.0)
        parts = {
            "exact fields with an error": interior("exact"),
            "learned fields": interior("learned"),
            "fewer modes half way": smoother,
        }
        held = [name for name, holds in parts.items() if holds]
        if len(held) == len(parts):
            return Verdict(
                "reproduced", "an interior epsilon is best in both settings, and latent noise smooths"
            )
        if held != ["fewer modes half way"] and held:  # smoothing alone can hardly fail, and so shows little
            missed = [name for name in parts if name not in held]
            return Verdict("partly", f"holds for {' and '.join(held)}; not for {' and '.join(missed)}")
        known = "latent noise smooths, but " if smoother else ""
        return Verdict("not reproduced", f"{known}an interior epsilon is surely best in neither setting")


# --- the line


def mixtures(seed: int) -> tuple[processes.GaussianMixture, processes.GaussianMixture]:
    """Data of three modes and a base of two, their places jittered."""
    generator = torch.Generator().manual_seed(seed)

    def law(places: list[float], spread: float) -> processes.GaussianMixture:
        means = torch.tensor(places, dtype=torch.float64)
        means = means + 0.2 * torch.randn(len(places), generator=generator, dtype=torch.float64)
        return processes.GaussianMixture(torch.ones(len(places)), means.unsqueeze(1), spread**2)

    return law([-2.2, 0.3, 2.2], 0.3), law([-1.5, 1.5], 0.35)


class Wave:
    """A random smooth function of (x, t) of unit size: a sum of cosines."""

    def __init__(self, generator: torch.Generator, terms: int = 32) -> None:
        wave, pace, phase = torch.randn(3, terms, generator=generator, dtype=torch.float64)
        self.wave, self.pace, self.phase = FREQUENCY * wave, 4 * pace, 2 * math.pi * phase

    def __call__(self, x: Tensor, t: float) -> Tensor:
        angles = x * self.wave + self.pace * t + self.phase
        return angles.cos().mean(1, keepdim=True) * (2 * len(self.wave)) ** 0.5


def fields(
    model: denoisers.InterpolantMixture, grid: Tensor, error: float, seed: int
) -> Callable[..., tuple]:
    """(x, t) -> velocity and score, each with an error of this size relative to its root-mean-square under q_t."""
    generator = torch.Generator().manual_seed(1000 + seed)
    waves = Wave(generator), Wave(generator)

    def perturbed(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            there, mass = model(grid, t), model.log_density(grid, t).softmax(0).unsqueeze(1)
            sizes = [(mass * v**2).sum().sqrt() for v in (there.velocity, there.score)]
        here = model(x, t)
        exact = here.velocity, here.score
        first, second = (v + error * s * w(x, t) for v, s, w in zip(exact, sizes, waves, strict=True))
        return first, second

    return perturbed


def on_the_line(steps: int, seed: int) -> dict[str, float]:
    data, base = mixtures(seed)
    model = denoisers.InterpolantMixture(data, processes.Interpolant(base=base))
    grid = torch.linspace(-5.5, 5.5, 600, dtype=torch.float64).unsqueeze(1)
    step = float(grid[1] - grid[0])
    log_p = data.log_density(grid)
    mass = log_p.exp() * step

    def divergence(log_q: Tensor) -> float:
        return float((mass * (log_p - log_q)).sum())

    wrong, right = fields(model, grid, ERROR, seed), fields(model, grid, 0.0, seed)
    flow = divergence(flow_log_density(wrong, base, grid, steps // 2))
    noisy = [divergence(q) for q in sde_log_densities(wrong, base, grid, steps)]
    exact = [divergence(q) for q in sde_log_densities(right, base, grid, steps)]
    best = min(noisy)
    return {
        "exact flow": flow,
        "exact best": best,
        "exact largest": noisy[-1],
        "exact floor": exact[noisy.index(best)],
        "exact floor largest": exact[-1],
        "exact epsilon": EPSILONS[noisy.index(best)],
    }


def flow_log_density(fields: Callable, base: processes.GaussianMixture, x: Tensor, steps: int) -> Tensor:
    """log density of the flow's samples at x: log base(x_1) + integral of div b, by the classical fourth order."""

    def rates(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        place = x.detach().requires_grad_()
        velocity = fields(place, t)[0]
        return velocity.detach(), torch.autograd.grad(velocity.sum(), place)[0][:, 0]

    h, total = 1 / steps, torch.zeros(len(x), dtype=x.dtype)
    for i in range(steps):
        t = i * h
        k1 = rates(x, t)
        k2 = rates(x + 0.5 * h * k1[0], t + 0.5 * h)
        k3 = rates(x + 0.5 * h * k2[0], t + 0.5 * h)
        k4 = rates(x + h * k3[0], t + h)
        move, growth = (h / 6 * (a + 2 * b + 2 * c + d) for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
        x, total = x + move, total + growth
    return base.log_density(x) + total


def sde_log_densities(
    fields: Callable, base: processes.GaussianMixture, grid: Tensor, steps: int
) -> list[Tensor]:
    """log density of Euler-Maruyama's samples for every epsilon, the law pushed through each step by quadrature."""
    h, width = 1 / steps, float(grid[1] - grid[0])
    densities = [base.log_density(grid).exp() for _ in EPSILONS]
    for i in range(steps, 0, -1):
        with torch.no_grad():
            velocity, score = fields(grid, i * h)
        for k, epsilon in enumerate(EPSILONS):
            mean, variance = grid - h * velocity + h * epsilon * score, 2 * epsilon * h
            kernel = (-0.5 * (grid - mean.T) ** 2 / variance).exp() / math.sqrt(2 * math.pi * variance)
            densities[k] = kernel @ densities[k] * width
    return [q.clamp(min=1e-300).log() for q in densities]


def modes(seed: int) -> dict[str, float]:
    """Local maxima of the law half way, with latent noise and without."""
    data, base = mixtures(seed)
    grid = torch.linspace(-5.5, 5.5, 2000, dtype=torch.float64).unsqueeze(1)
    found = {}
    for name, gamma in (("modes noise", "brownian"), ("modes none", "zero")):
        model = denoisers.InterpolantMixture(data, processes.Interpolant(gamma=gamma, base=base))
        q = model.log_density(grid, 0.5)
        found[name] = float(((q[1:-1] > q[:-2]) & (q[1:-1] > q[2:])).sum())
    return found


# --- the plane


def trained(steps: int, seed: int) -> denoisers.InterpolantDenoiser:
    torch.manual_seed(seed)
    nets = [networks.ResidualMLP(2, width=64, depth=2) for _ in range(2)]
    model = denoisers.InterpolantDenoiser(*nets, processes.Interpolant(), ("b", "eta"), (2,), scale=1.5)
    objective, law = objectives.InterpolantMatching(), Checkerboard()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for i in range(steps):
        x_0 = law.sample(256, torch.Generator().manual_seed(10_000 * seed + i))
        optimiser.zero_grad()
        objective(model, {"x_0": x_0}, Keyed(10_000 * seed + i, len(x_0))).total.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def in_the_plane(steps: int, samples: int, rows: int, seed: int) -> dict[str, float]:
    model, law = trained(steps, seed), Checkerboard()
    draws = [law.sample(n, torch.Generator().manual_seed(77 + 100 * seed + n)) for n in (2000, 2001, samples)]
    truth = [cross_entropy(draws[2], held) for held in draws[:2]]

    def divergences(epsilon: float) -> list[float]:
        x = Sampler(solvers.FreeDiffusion(epsilon), grid=TimeGrid.uniform(rows))(model, samples, seed=seed)
        return [cross_entropy(x, held) - t for held, t in zip(draws[:2], truth, strict=True)]

    flow, found = divergences(0.0)[1], [divergences(epsilon) for epsilon in LEARNED]
    chosen = min(range(len(LEARNED)), key=lambda i: found[i][0])
    return {
        "learned flow": flow,
        "learned best": found[chosen][1],
        "learned largest": found[-1][1],
        "learned epsilon": LEARNED[chosen],
    }


def cross_entropy(samples: Tensor, held: Tensor) -> float:
    """-mean log of the samples' kernel density at held-out data: less that of true samples, a KL divergence up to the
    kernel's blur, which is the same for all."""
    square = torch.cdist(held.double(), samples.double()) ** 2
    log_q = (-0.5 * square / BANDWIDTH**2).logsumexp(1)
    normal = math.log(len(samples)) + math.log(2 * math.pi * BANDWIDTH**2)
    return float((normal - log_q).mean())


claim = StochasticInterpolants()

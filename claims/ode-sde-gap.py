"""Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation (Deveney, Stanczuk,
Kreusser, Budd and Schönlieb 2023, 2311.15996).

Measured here on the paper's three sets in the plane, with its process (Ornstein-Uhlenbeck over ten time units), its
scalar-potential network and its residual on collocation points, but far smaller: hundreds of steps of hundreds of
points for the paper's 100,000 of 200,000, a network of width 48, and one weight. The denoising loss is weighted by
sigma^2, where the paper's is not, for both arms alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ornstein import denoisers, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Objective, Sampler, TimeGrid
from ornstein.data.plane import PLANE, Plane

RATE = 20.0  # dx = -10 x dt + sqrt(20) dW on [0, 1] is dx = -x dt + sqrt(2) dW on [0, 10]
# of R^2 per unit of the paper's time, ten of which are one here. Of 0.003, 0.01, 0.03 and 0.1 the one with the smallest
# gap on a seed that is not measured. The paper's 0.1 to 10 stand beside an unweighted loss, which is far larger.
WEIGHT, FIRST = 0.1, 0.01
SIZES = {
    "smoke": (3, 100, 4),
    "quick": (700, 10_000, 30),
    "full": (10_000, 50_000, 100),
}  # training, samples, rows
SETS = tuple(PLANE)
SHARE = 0.5


def _effects() -> tuple[Effect, ...]:
    found = []
    for name in SETS:
        found += [
            Effect(f"{name}: gap squared less a quarter of it without the term", of=f"{name} margin"),
            Effect(f"{name}: gap squared", of=f"{name} gap", against=f"{name} gap plain"),
            Effect(f"{name}: gap squared without the term", of=f"{name} gap plain"),
            Effect(f"{name}: raw distance, ratio", of=f"{name} raw", against=f"{name} raw plain", ratio=True),
            Effect(f"{name}: ODE to data, ratio", of=f"{name} ode", against=f"{name} ode plain", ratio=True),
            Effect(f"{name}: SDE to data, ratio", of=f"{name} sde", against=f"{name} sde plain", ratio=True),
            Effect(f"{name}: floor", of=f"{name} floor"),
        ]
    return (
        *found,
        Effect(
            "checkerboard: raw distance at twice the rows, ratio", of="fine", against="coarse", ratio=True
        ),
    )


class ODESDEGap(Claim):
    slug = "ode-sde-gap"
    statement = (
        "A weight on the Fokker-Planck residual brings the 2-Wasserstein distance between ODE and SDE samples, less "
        "what sampling alone makes of it (half the squared distances of ODE to ODE and SDE to SDE samples), under "
        f"{SHARE:.0%} of what it is without the term, on at least two of three sets in the plane, and the ODE's "
        "samples are not surely further from the data there"
    )
    baseline = (
        "the same network, data, training steps and denoising loss without the term; distances by exact transport on "
        "a 28 x 28 grid; the floor is the distance of two sets of true samples of the same size"
    )
    effects = _effects()

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for i, name in enumerate(SETS):
            progress(i / len(SETS), name)
            found |= one_set(name, budget, seed)
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        halved, less, seen = self._sets(effects)
        cost = ", ".join(f"{name} {effects[f'{name}: SDE to data, ratio']}" for name in SETS)
        cost = f"the SDE's distance to data changes by the factors {cost}"
        if len(seen) < 2:
            return Verdict(
                "not testable here", f"without the term a gap beyond sampling noise is seen on {seen} only"
            )
        worse = [name for name in less if effects[f"{name}: ODE to data, ratio"].above(1.0)]
        harmed = f"and the ODE is surely further from the data on {' and '.join(worse)}"
        if len(halved) >= 2 and worse:
            return Verdict(
                "partly", f"the gap is halved, but on {' and '.join(worse)} the ODE is worse too; {cost}"
            )
        if len(halved) >= 2:
            return Verdict("reproduced", f"the gap is halved on {' and '.join(halved)}; {cost}")
        if len(less) >= 2 and worse:
            return Verdict(
                "not reproduced",
                f"the gap shrinks on {' and '.join(less)} but is not halved on two, {harmed}; {cost}",
            )
        if len(less) >= 2:
            return Verdict(
                "partly", f"the gap shrinks on {' and '.join(less)}, but is not halved on two; {cost}"
            )
        return Verdict("not reproduced", f"the gap surely shrinks on {less or 'no set'} only; {cost}")

    def _sets(self, effects: Mapping[str, Interval]) -> tuple[list[str], list[str], list[str]]:
        """Where the gap is halved, where it shrinks, and where there is one to see."""
        halved = [
            n for n in SETS if effects[f"{n}: gap squared less a quarter of it without the term"].below(0.0)
        ]
        less = [n for n in SETS if effects[f"{n}: gap squared"].below(0.0)]
        return halved, less, [n for n in SETS if effects[f"{n}: gap squared without the term"].above(0.0)]


def one_set(name: str, budget: str, seed: int) -> dict[str, float]:
    law, (training, n, rows) = PLANE[name](), SIZES[budget]
    reals = [law.sample(n, torch.Generator().manual_seed(500 + 10 * seed + i)) for i in range(2)]
    plain, term = (trained(law, weight, training, seed) for weight in (0.0, WEIGHT))
    before, after = (distances(model, law, reals[0], n, rows, seed) for model in (plain, term))
    found = {**after, **{f"{k} plain": v for k, v in before.items()}, "floor": gap(*reals, law)}
    found["margin"] = after["gap"] - SHARE**2 * before["gap"]
    named = {f"{name} {k}": v for k, v in found.items()}
    if name == "checkerboard":
        named |= {"coarse": before["raw"], "fine": gap(*pair(plain, n, 2 * rows, 2 * seed), law)}
    return named


def trained(law: Plane, weight: float, steps: int, seed: int) -> denoisers.PotentialDenoiser:
    torch.manual_seed(seed)
    process = processes.VariancePreserving(rate_min=RATE, rate_max=RATE)
    model = denoisers.PotentialDenoiser(networks.Potential(2, width=48, depth=3), process, (2,), scale=1.6)
    objective: Objective = objectives.Denoising("snr")
    if weight:
        # per unit of the paper's time R is a tenth
        term = objectives.FokkerPlanck(weight / 100, collocation=256, box=law.half_width, first=FIRST)
        objective = objectives.Regularised(objective, {"fokker-planck": term})
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for i in range(steps):
        own = 100_000 * seed + i
        x_0 = law.sample(512, torch.Generator().manual_seed(own))
        optimiser.zero_grad()
        u = (torch.arange(512) + torch.rand(1, generator=torch.Generator().manual_seed(own))) / 512
        batch = {
            "x_0": x_0,
            "time": 1e-3 + (1 - 1e-3) * (1 - (1 - u.double()).sqrt()),
        }  # Beta(1, 2), as the paper's
        objective(model, batch, Keyed(own, len(x_0))).total.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def pair(model: denoisers.PotentialDenoiser, n: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of the ODE and of the SDE, of second order both, from noise of their own."""
    grid = TimeGrid.log_snr(rows + 1, model.process)[1:]
    found = []
    for i, epsilon in enumerate((0.0, RATE / 2)):
        start = torch.randn(n, 2, generator=torch.Generator().manual_seed(900 + 2 * seed + i))
        sampler = Sampler(solvers.FreeDiffusion(epsilon, order=2), grid=grid)
        found.append(sampler(model, start, seed=900 + 2 * seed + i))
    return found[0], found[1]


def distances(
    model: denoisers.PotentialDenoiser, law: Plane, real: Tensor, n: int, rows: int, seed: int
) -> dict[str, float]:
    """`gap` is the squared distance of ODE and SDE less what two runs of each alone are apart; `raw` is not squared."""
    (ode, sde), (ode_2, sde_2) = (pair(model, n, rows, 2 * seed + i) for i in range(2))
    raw, within = gap(ode, sde, law), (gap(ode, ode_2, law) ** 2 + gap(sde, sde_2, law) ** 2) / 2
    return {"gap": raw**2 - within, "raw": raw, "ode": gap(ode, real, law), "sde": gap(sde, real, law)}


def gap(x: Tensor, y: Tensor, law: Plane, cells: int = 28) -> float:
    """2-Wasserstein distance of the two histograms, by exact transport; points outside the box go to its edge."""
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "this claim needs exact optimal transport: pip install 'ornstein[transport]'"
        ) from error

    side, width = law.half_width, 2 * law.half_width / cells
    centre = torch.arange(cells, dtype=torch.float64) * width - side + width / 2
    places = torch.cartesian_prod(centre, centre)

    def mass(points: Tensor) -> Tensor:
        index = ((points.double() + side) / width).floor().clamp(0, cells - 1).long()
        counts = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2).double()
        return counts / counts.sum()

    a, b = mass(x), mass(y)
    rows, columns = a > 0, b > 0
    cost = torch.cdist(places[rows], places[columns]) ** 2
    squared = ot.emd2(a[rows].numpy(), b[columns].numpy(), cost.numpy(), numItermax=1_000_000)
    return float(max(squared, 0.0)) ** 0.5


claim = ODESDEGap()

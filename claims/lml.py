"""Levenberg-Marquardt-Langevin sampling (Wang et al. 2025, 2505.24222).

Two readings are measured. As released: the increment of a solver turned by a damped rank-one matrix (`LML`), on
the zoo's digits model in place of CIFAR-10 networks. As the abstract describes: Langevin steps preconditioned by the
damped Hessian of log q_t (`PreconditionedLangevin`), on an exact ill-conditioned mixture, as a corrector of states
of a wrong law.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, metrics, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Sampler, Solver, TimeGrid
from ornstein.solvers.lml import turned

SIZES = {
    "smoke": (64, 64, 200),
    "quick": (500, 1000, 2000),
    "full": (2000, 5000, 4000),
}  # select, judge, mixture
CALLS = 10
DAMPINGS, MOMENTA = (0.03, 0.3, 3.0), (0.05, 0.2, 0.5)
PUBLISHED = 8e-4  # the damping of the released scripts at 5 to 15 calls, not relative to |g|^2
CORRECTIONS = 10
SNRS = (0.1, 0.2, 0.3, 0.45, 0.6)
STEPS = ((0.2, 0.1), (0.4, 0.1), (0.7, 0.1), (0.4, 0.02), (0.7, 0.02))  # step, damping


class Naive(solvers.LML):
    """The released arithmetic: g - e <e, g> / (damping + |e|^2), which cancels in float32."""

    def _turned(self, g: Tensor, e: Tensor) -> Tensor:
        flat, along = g.flatten(1), e.flatten(1)
        share = (along * flat).sum(1, keepdim=True) / (self.damping + (along * along).sum(1, keepdim=True))
        v = flat - share * along
        return (v * (flat.norm(dim=1, keepdim=True) / v.norm(dim=1, keepdim=True))).reshape(g.shape)


class Perturbed(solvers.LML):
    """A random turn of g, by the angle that LML turns it."""

    def _turned(self, g: Tensor, e: Tensor) -> Tensor:
        flat, goal = g.flatten(1), turned(g, e, self.damping, self.relative).flatten(1)
        length = flat.norm(dim=1, keepdim=True)
        cosine = ((flat * goal).sum(1, keepdim=True) / length**2).clamp(-1, 1)
        z = Keyed(7, len(g)).fold(int(1e6 * float(length[0]))).normal(flat)
        z = z - (z * flat).sum(1, keepdim=True) / length**2 * flat
        z = z * (length / z.norm(dim=1, keepdim=True))
        return (cosine * flat + (1 - cosine**2).sqrt() * z).reshape(g.shape)


class LML(Claim):
    slug = "lml"
    statement = (
        f"At {CALLS} network calls LML (damping and momentum chosen on other samples) has a lower Frechet distance "
        "(classifier features, digits model) than its base DPM-Solver++(2M), and than the base turned at random by the "
        f"same angles; and {CORRECTIONS} damped-Hessian Langevin steps bring an ill-conditioned exact mixture nearer "
        "to its law than as many plain ones"
    )
    baseline = (
        "the base solver on the same grid and starts; the same angles of turn in a random direction, which tells "
        "geometry from noise; the released float32 arithmetic without momentum, which would be the base in exact "
        "arithmetic; plain Langevin with its step chosen from as many values as the damped one's, on other samples"
    )
    effects = (
        Effect("FD: LML / base", of="fd lml", against="fd base", ratio=True),
        Effect("FD: LML / random turn", of="fd lml", against="fd random", ratio=True),
        Effect("FD: random turn / base", of="fd random", against="fd base", ratio=True),
        Effect("FD: released float32 / base", of="fd naive", against="fd base", ratio=True),
        Effect("change of samples by the released float32", of="change naive"),
        Effect("change of samples by LML", of="change lml"),
        Effect("mixture: damped Hessian - plain", of="damped", against="plain"),
        Effect("mixture: before correction", of="before"),
        Effect("mixture: plain Langevin", of="plain"),
        Effect("mixture: damped-Hessian Langevin", of="damped"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        select, judged, drawn = SIZES[budget]
        progress(0.0, "digits model")
        found = _digits(select, judged, seed)
        progress(0.7, "exact mixture")
        return {**found, **_mixture(drawn, seed)}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        base, random = effects["FD: LML / base"], effects["FD: LML / random turn"]
        hessian = effects["mixture: damped Hessian - plain"]
        left = [effects[f"mixture: {name} Langevin"].value for name in ("plain", "damped-Hessian")]
        seen = (
            f"LML's Frechet distance is {base.value:.3f} of its base's and {random.value:.3f} of a random turn's; "
            f"damped-Hessian Langevin leaves an energy distance of {left[1]:.3f}, plain Langevin one of {left[0]:.3f}"
        )
        geometry, second = base.below(1.0) and random.below(1.0), hessian.below(0.0)
        if geometry and second:
            return Verdict("reproduced", seen)
        if geometry or second:
            return Verdict(
                "partly", f"only {'the released rule' if geometry else 'the Hessian'} gains: {seen}"
            )
        return Verdict("not reproduced", seen)


def _digits(select: int, judged: int, seed: int) -> dict[str, float]:
    model, distance = orn.load("digits"), _ruler()
    base = solvers.DPMSolverPP(2)

    def run(solver: Solver, n: int, own: int) -> Tensor:
        return orn.sample(model, n, steps=CALLS, solver=solver, seed=own, label=torch.arange(n) % 10)

    def chosen(pair: tuple[float, float]) -> float:
        return distance(run(solvers.LML(base, *pair), select, 1000 + seed))

    damping, momentum = min(itertools.product(DAMPINGS, MOMENTA), key=chosen)
    arms: dict[str, Solver] = {
        "base": base,
        "lml": solvers.LML(base, damping, momentum),
        "random": Perturbed(base, damping, momentum),
        "naive": Naive(base, PUBLISHED, 0.0, relative=False),
    }
    samples = {name: run(solver, judged, seed) for name, solver in arms.items()}
    found = {f"fd {name}": distance(x) for name, x in samples.items()}
    size = samples["base"].pow(2).mean().sqrt()
    for name in ("lml", "naive"):
        found[f"change {name}"] = float((samples[name] - samples["base"]).pow(2).mean().sqrt() / size)
    return found


def _ruler() -> Callable[[Tensor], float]:
    """Frechet distance to all digits in the classifier's features."""
    classifier, digits = metrics.load_classifier("digits"), data.load("digits")
    known = metrics.classifier_features(classifier, torch.cat([digits.train.x_0, digits.held_out.x_0]))

    def distance(x: Tensor) -> float:
        features = metrics.classifier_features(classifier, x)
        return float(metrics.frechet_distance(features, known, resamples=2).value)

    return distance


def _mixture(n: int, seed: int) -> dict[str, float]:
    """Energy distance to q_t of states that were too wide, after equal numbers of corrections."""
    process, t = processes.VariancePreserving(), 0.02
    generator = torch.Generator().manual_seed(17)
    means = 2 * torch.randn(4, 16, generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(torch.randn(4, 16, 16, generator=generator, dtype=torch.float64))[0]
    spread = torch.logspace(-3, 0, 16, dtype=torch.float64)  # condition number 1000
    covariances = turns @ torch.diag(spread) @ turns.mT
    truth = denoisers.MixtureDenoiser(torch.ones(4), means, covariances, process, variance=True)
    level = process.at(t)

    def drawn(own: int, width: float) -> Tensor:
        own_generator = torch.Generator().manual_seed(own)
        z = torch.randn(n, 16, generator=own_generator, dtype=torch.float64)
        return level.alpha * truth.sample_data(n, own_generator) + width * z

    def left(solver: Solver | None, own: int) -> float:
        x = drawn(2 * own, 1.0)
        if solver is not None:
            x = Sampler(solver, grid=TimeGrid([(t, t)]) * CORRECTIONS)(truth, x, seed=own)
        gap = metrics.energy_distance(x, drawn(2 * own + 1, level.sigma), resamples=2)
        return float(gap.value)  # unbiased: it may fall below 0, so differences are compared and not ratios

    select, judge = 2000 + 2 * seed, 1000 + 2 * seed
    plain = min((solvers.Langevin(snr) for snr in SNRS), key=lambda s: left(s, select))
    damped = min((solvers.PreconditionedLangevin(*s) for s in STEPS), key=lambda s: left(s, select))
    return {"before": left(None, judge), "plain": left(plain, judge), "damped": left(damped, judge)}


claim = LML()

"""On gauge freedom, conservativity and intrinsic dimensionality estimation (Horvat and Pfister 2024, 2402.03845).

Measured here: that a gauge field changes neither the covariance that the probability flow reaches nor the likelihood,
and is orthogonal to gradients; and on k-spheres in 20 dimensions, what three estimators of dimension read from a
trained network, from its projection on gradients of a basis, and from a network that is a gradient by construction.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ornstein import data, denoisers, diagnostics, networks, processes, training
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Denoiser, Keyed

SPHERES = (3, 6)
SIZE = 20
LEVEL = 0.1  # sigma / alpha of the readings; the spheres have radius 1
METHODS = ("normal_space", "jacobian", "divergence")
ARMS = ("free", "projection", "gradient")
STEPS = {"smoke": 20, "quick": 1500, "full": 10_000}
POINTS = {"smoke": 5, "quick": 40, "full": 100}
WEIGHTS = (1.0, 5.0)
COVARIANCE, NATS, ERRORS = 1e-6, 2e-3, 4.0


def _turn(d: int, seed: int) -> Tensor:
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a - a.T) / torch.linalg.matrix_norm(a - a.T, 2)


def _sphere(k: int, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, k + 1, generator=generator)
    axes = torch.linalg.qr(torch.randn(SIZE, k + 1, generator=torch.Generator().manual_seed(k)))[0]
    return x / x.norm(dim=1, keepdim=True) @ axes.T


def _maximum_likelihood(points: Tensor, known: Tensor, neighbours: int = 20) -> Tensor:
    """Levina and Bickel's estimator from distances to neighbours (2004), of each point."""
    near = torch.cdist(points, known).topk(neighbours, largest=False).values.clamp(min=1e-9)
    return (neighbours - 2) / (near[:, -1:] / near[:, :-1]).log().sum(1)


class GaugeFreedom(Claim):
    slug = "gauge-freedom"
    statement = (
        "With gauge fields of spectral norm 1 and 5 added to the exact score of a Gaussian, the "
        f"probability flow reaches the covariance of the data to {COVARIANCE:g} and gives likelihoods of "
        f"a mixture to {NATS:g} nats; gauges and gradients are orthogonal within {ERRORS:g} standard "
        f"errors. On k-spheres in {SIZE} dimensions (k = 3, 6) the mean error |estimate - k| of three "
        "estimators is smaller for a network's projection on gradients, and for a network that is a "
        "gradient, than for the free network; each estimator and arm is decided by its interval over "
        "seeds. The exact statements with at least one of these six comparisons are called partly, without "
        "any not reproduced"
    )
    baseline = (
        "the free network, of about as many parameters, trained on the same points, for as many steps "
        "(each is cheaper); and Levina and Bickel's maximum likelihood on the same 4000 training points, "
        "which needs no network"
    )
    effects = (
        Effect("covariance: largest error", of="covariance"),
        Effect("likelihood: largest error in nats", of="nats"),
        Effect("orthogonality: largest z", of="orthogonality"),
        *(Effect(f"{method}: error of {arm}", of=f"{method} {arm}") for method in METHODS for arm in ARMS),
        *(
            Effect(f"{method}: free less {arm}", of=f"{method} free", against=f"{method} {arm}")
            for method in METHODS
            for arm in ARMS[1:]
        ),
        Effect("error of maximum likelihood", of="neighbours"),
        Effect("asymmetry of free", of="asymmetry free"),
        Effect("energy that is no gradient", of="rest"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        progress(0.0, "exact statements")
        found = _exact(seed)
        rows = []
        for i, k in enumerate(SPHERES):
            progress(0.05 + 0.45 * i, f"sphere of dimension {k}")
            rows.append(_learned(k, STEPS[budget], POINTS[budget], seed))
        return {**found, **{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        exact = (
            effects["covariance: largest error"].below(COVARIANCE)
            and effects["likelihood: largest error in nats"].below(NATS)
            and effects["orthogonality: largest z"].value < ERRORS
        )
        better = {
            f"{arm} by {method}": effects[f"{method}: free less {arm}"].above(0.0)
            for method in METHODS
            for arm in ARMS[1:]
        }
        held = [name for name, yes in better.items() if yes]
        if not exact:
            return Verdict("not reproduced", "a gauge changes the flow's covariance or its likelihood")
        if len(held) == len(better):
            return Verdict(
                "reproduced", "gauges are free, and dimensions are read better from every conservative field"
            )
        return Verdict(
            "partly" if held else "not reproduced",
            "gauges are free; dimensions are read better from "
            f"{', '.join(held) if held else 'no conservative field'}, "
            f"not from {', '.join(name for name in better if name not in held)}",
        )


def _exact(seed: int) -> dict[str, float]:
    process = processes.VariancePreserving()
    spread = torch.logspace(0.3, -1.3, 5, dtype=torch.float64)
    axes = torch.linalg.qr(_turn(5, seed) + torch.eye(5))[0]
    truth = denoisers.GaussianDenoiser(torch.zeros(5).double(), axes @ spread.diag() @ axes.T, process)
    eye = torch.eye(5, dtype=torch.float64)
    before, after = (
        process.at(t).alpha ** 2 * axes @ spread.diag() @ axes.T + process.at(t).sigma ** 2 * eye
        for t in (1.0, 0.02)
    )
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.5, -1.0]], dtype=torch.float64)
    mixed = denoisers.MixtureDenoiser([0.5, 0.3, 0.2], means, [0.2, 0.4, 0.3], process)
    x = mixed.sample_data(8, torch.Generator().manual_seed(seed))
    covariance, nats = [], []
    for weight in WEIGHTS:
        gauged = denoisers.Gauged(truth, denoisers.GaugeField(truth, _turn(5, seed + 1)), weight)
        flow = diagnostics.reference(gauged, eye, 1.0, 0.02).T
        covariance.append(float((flow @ before @ flow.T - after).abs().max()))
        turned = denoisers.Gauged(mixed, denoisers.GaugeField(mixed, _turn(2, seed)), weight)
        found = diagnostics.log_likelihood(
            turned, x, rtol=1e-7, atol=1e-7, prior=lambda z: mixed.log_density(z, 1.0)
        )
        nats.append(float((found.nats - mixed.log_density(x, 0.0)).abs().max()))
    return {"covariance": max(covariance), "nats": max(nats), "orthogonality": _orthogonality(mixed, seed)}


def _orthogonality(truth: denoisers.MixtureDenoiser, seed: int, n: int = 50_000) -> float:
    """|E[grad phi . r]| in standard errors, the largest over polynomials phi."""
    t = truth.process.time_at(0.0)
    x = truth.process.marginal(truth.sample_data(n, torch.Generator().manual_seed(seed)), t).sample(
        Keyed(seed, n)
    )
    r = denoisers.GaugeField(truth, _turn(2, seed))(x, t)
    products = [(g * r).sum(1) for g in (x, x**3, x.flip(1), truth(x, t).score)]
    return max(abs(float(p.mean() / p.std())) * n**0.5 for p in products)


def _trained(denoiser: Denoiser, points: Tensor, steps: int, seed: int) -> Denoiser:
    split = data.Dataset("sphere", data.TensorSplit(points), data.TensorSplit(points[:100]), shape=(SIZE,))
    options = {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 10**9, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit(
            denoiser, split, steps=steps, batch=128, seed=seed, out=folder, ema=0.99, **options
        )
        return run.denoiser.eval()


def _learned(k: int, steps: int, count: int, seed: int) -> dict[str, float]:
    process = processes.VariancePreserving()
    points, fresh = _sphere(k, 4000, 100 * seed), _sphere(k, count, 100 * seed + 1)
    scale = float(points.square().mean().sqrt())
    torch.manual_seed(seed)
    free = denoisers.NetworkDenoiser(networks.ResidualMLP(SIZE, 96, 2), process, shape=(SIZE,), scale=scale)
    gradient = denoisers.PotentialDenoiser(
        networks.Potential(SIZE, 224, 3), process, shape=(SIZE,), scale=scale
    )
    free, gradient = (_trained(m, points, steps, seed) for m in (free, gradient))
    t = process.time_at(-math.log(LEVEL))
    near = process.marginal(points[:3000], t).sample(Keyed(seed, 3000))
    basis = diagnostics.Fourier(SIZE, 400, width=0.5, seed=seed)
    split = diagnostics.helmholtz(free, near, t, basis, ridge=1e-6)
    arms = dict(zip(ARMS, (free, split.denoiser(process, (SIZE,)), gradient), strict=True))
    found = {}
    for name, model in arms.items():
        for method in METHODS:
            read = diagnostics.intrinsic_dimension(model, fresh, t, method, seed=seed).double()
            found[f"{method} {name}"] = float((read - k).abs().mean())
    near = process.at(t).alpha * fresh
    found["asymmetry free"] = float(diagnostics.asymmetry(free, near, t).mean())
    found["rest"] = split.rest / (split.rest + split.gradient)
    found["neighbours"] = float((_maximum_likelihood(fresh, points) - k).abs().mean())
    return found


claim = GaugeFreedom()

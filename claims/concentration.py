"""Concentration of Measure for Distributions Generated via Diffusion Models (2501.07741).

Measured here: (a) how far the norms of samples of a small network reach when the data are Student t with 3 degrees of
freedom in 4 dimensions, beside Gaussian data and beside the same data on the logarithm of the radius; (b) errors of a
linear classifier and of a network trained and tested on images of the Fashion-MNIST model, beside those on the
Gaussian twin of the images. Surrogates: 16x16 clothes in five classes, averaged to 4x4, in place of ImageNet-64:
16 numbers, so that a few hundred images of a class determine its covariance.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

import ornstein as orn
from ornstein import data, denoisers, diagnostics, networks, processes, solvers, spaces, training
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import AffineProcess, Sampler

SIZE, NU = 4, 3.0
STEPS = {"smoke": 20, "quick": 1200, "full": 20_000}
SAMPLES = {"smoke": 20_000, "quick": 100_000, "full": 1_000_000}
IMAGES = {"smoke": 40, "quick": 192, "full": 1024}  # of each class, for training and again for testing
CLASSES = 5
SHORT, FARTHER, HILL, FIT = 0.15, 0.30, 2.0, 0.03
SAME, APART = 0.015, 0.05
ARMS = ("student", "early", "gaussian", "log radius")


def _student(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, SIZE, generator=generator)
    chi = torch.randn(n, round(NU), generator=generator).square().sum(1, keepdim=True)
    return z / (chi / NU).sqrt()


def _radius(kind: str, p: float) -> float:
    """The exact quantile of |x|: |t|^2 / D has an F law, |z|^2 a chi-square law."""
    from scipy import stats

    square = stats.chi2(SIZE).ppf(p) if kind == "gaussian" else SIZE * stats.f(SIZE, NU).ppf(p)
    return float(square) ** 0.5


def _fitted(process: AffineProcess, states: Tensor, steps: int, seed: int) -> denoisers.NetworkDenoiser:
    torch.manual_seed(seed)
    scale = float(states.square().mean().sqrt())
    network = networks.ResidualMLP(SIZE, 64, 2)
    denoiser = denoisers.NetworkDenoiser(network, process, "edm", shape=(SIZE,), scale=scale)
    split = data.Dataset("tails", data.TensorSplit(states), data.TensorSplit(states[:100]), shape=(SIZE,))
    options = {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 10**9, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit(
            denoiser, split, steps=steps, batch=512, seed=seed, out=folder, ema=0.99, **options
        )
        return run.denoiser.eval()


class Concentration(Claim):
    slug = "concentration"
    statement = (
        f"Of Student t data (nu = {NU:g}, {SIZE} dimensions) a trained model's norms fall short: the 99.9 "
        f"% quantile by at least {SHORT:.0%}, the 99.99 % by {FARTHER:.0%}, with a Hill index over "
        f"{HILL:g} times the truth's, after a third of the training and after all of it, while Gaussian "
        f"data are met within {FIT:.0%} at 99.9 %; the same network on log-radius states falls short by "
        "less than half as much at both. A linear classifier errs on a model's images and on their "
        f"Gaussian twin alike, within {100 * SAME:.1f} points in the mean, and a network by more than "
        f"{100 * APART:.0f} points differently"
    )
    baseline = (
        "exact quantiles of the data's law; Gaussian data for the same network, training and sampler, "
        "which show what it can fit; the codec, which shows that the map and not the network is at "
        "fault. The twin has as many rows of each class and is fitted to the training images alone; real "
        "images beside their own twin are reported"
    )
    effects = (
        *(
            Effect(f"{arm}: quantile {p} over the truth", of=f"{arm} {p}")
            for arm in ARMS
            for p in (0.999, 0.9999)
        ),
        *(Effect(f"{arm}: Hill index", of=f"{arm} hill") for arm in ARMS),
        Effect("truth: Hill index", of="truth hill"),
        *(
            Effect(f"{what}: error on {where}, {learner}", of=f"{what} {learner} {where}")
            for what in ("generated", "real")
            for learner in ("linear", "network")
            for where in ("data", "twin")
        ),
        *(
            Effect(
                f"{what}: data less twin, {learner}",
                of=f"{what} {learner} data",
                against=f"{what} {learner} twin",
            )
            for what in ("generated", "real")
            for learner in ("linear", "network")
        ),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found = self._tails(STEPS[budget], SAMPLES[budget], seed, progress)
        progress(0.6, "images")
        return {**found, **_universality(IMAGES[budget], seed)}

    def _tails(self, steps: int, n: int, seed: int, progress: Callable[..., None]) -> dict[str, float]:
        heavy, light = (
            _student(200_000, seed),
            torch.randn(200_000, SIZE, generator=torch.Generator().manual_seed(seed)),
        )
        process, codec = processes.VariancePreserving(), spaces.LogRadiusCodec(_radius("student", 0.5))
        coded = spaces.Encoded(process, codec)
        found = {"truth hill": diagnostics.hill_index(_student(n, 77 + seed).norm(dim=1))}
        for i, (arm, law, states, share) in enumerate(
            (
                ("student", process, heavy, 1.0),
                ("early", process, heavy, 1 / 3),
                ("gaussian", process, light, 1.0),
                ("log radius", coded, codec.encode(heavy), 1.0),
            )
        ):
            progress(0.15 * i, arm)
            model = _fitted(law, states, max(1, round(share * steps)), seed)
            samples = Sampler(solvers.DPMSolverPP(), 12)(model, n, seed=seed)
            norms = samples.norm(dim=1)
            found[f"{arm} hill"] = diagnostics.hill_index(norms)
            for p in (0.999, 0.9999):
                reached = float(norms.kthvalue(math.ceil(p * n)).values)
                found[f"{arm} {p}"] = reached / _radius("gaussian" if arm == "gaussian" else "student", p)
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        def reach(arm: str, p: float) -> Interval:
            return effects[f"{arm}: quantile {p} over the truth"]

        truth = effects["truth: Hill index"].value
        cut = all(
            reach(arm, 0.999).below(1 - SHORT)
            and reach(arm, 0.9999).below(1 - FARTHER)
            and effects[f"{arm}: Hill index"].above(HILL * truth)
            for arm in ("student", "early")
        )
        fits = abs(reach("gaussian", 0.999).value - 1) < FIT
        mended = all(
            abs(1 - reach("log radius", p).value) < 0.5 * (1 - reach("student", p).value)
            for p in (0.999, 0.9999)
        )
        linear = abs(effects["generated: data less twin, linear"].value) <= SAME
        apart = abs(effects["generated: data less twin, network"].value) > APART
        parts = {
            "tails are cut and Gaussian data are not": cut and fits,
            "the logarithm of the radius mends half of it": mended,
            "a linear classifier sees the twin": linear,
            "a network does not": apart,
        }
        held, missed = ([what for what, yes in parts.items() if yes is wanted] for wanted in (True, False))
        if not missed:
            return Verdict("reproduced", "; ".join(held))
        if not (cut and fits) and not linear:
            return Verdict(
                "not reproduced", f"neither cut tails nor universality; held: {', '.join(held) or 'nothing'}"
            )
        return Verdict("partly", f"held: {', '.join(held)}; not: {', '.join(missed)}")


def _network(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """Two layers, 128 hidden units, 300 steps of Adam on all rows, on rows scaled to unit variance."""
    torch.manual_seed(0)
    x, test = x.flatten(1), test.flatten(1)
    mean, spread = x.mean(0), x.std() + 1e-6
    model = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, int(y.max()) + 1))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        optimiser.zero_grad()
        cross_entropy(model((x - mean) / spread), y).backward()
        optimiser.step()
    with torch.no_grad():
        return model((test - mean) / spread).argmax(1)


def _universality(n: int, seed: int) -> dict[str, float]:
    labels = torch.arange(CLASSES).repeat_interleave(n)
    model = orn.load("fashion-mnist").eval()
    sets = {"generated": [], "real": []}
    scans = data.load("fashion-mnist").train
    known = scans.fields["label"]
    generator = torch.Generator().manual_seed(seed)
    rows = [(known == k).nonzero()[:, 0] for k in range(CLASSES)]
    drawn = [index[torch.randperm(len(index), generator=generator)[: 2 * n]] for index in rows]
    for part in range(2):
        made = orn.sample(model, len(labels), steps=8, seed=2 * seed + part, label=labels)
        index = torch.cat([own[part * n : (part + 1) * n] for own in drawn])
        for what, images in (("generated", made), ("real", scans.x_0[index])):
            sets[what].append((avg_pool2d(images, 4), labels))
    found = {}
    for what, (train, test) in sets.items():
        for learner, rule in (("linear", diagnostics.least_squares), ("network", _network)):
            errors = diagnostics.universality(train, test, rule, torch.Generator().manual_seed(seed))
            found |= {f"{what} {learner} {where}": getattr(errors, where) for where in ("data", "twin")}
    return found


claim = Concentration()

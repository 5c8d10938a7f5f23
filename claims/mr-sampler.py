"""MRS: A Fast Sampler for Mean Reverting Diffusion based on ODE and SDE Solvers (Li et al. 2025, 2502.07856).

Scaled down: noisy 8x8 digits in place of ten restoration tasks, and in place of a trained restoration network the
exact posterior of a mixture fitted to digits given its noisy measurement, so that what is measured is the samplers
alone. The feature distance is that of a classifier of digits, image by image, in place of LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ornstein import data, denoisers, metrics, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import AffineProcess, Condition, Denoiser, Posterior, Sampler, Solver, Step, Time, Tree

NOISE = 0.5  # standard deviation of the measurement's noise, for pixels in [-1, 1]
SIZES = {"smoke": 100, "quick": 1000, "full": 5000}
CALLS = {"smoke": (10,), "quick": (5, 10, 20), "full": (5, 10, 20)}
KEY, MANY = 10, 100
WITHIN = 0.1, 1.02  # decibels below posterior sampling, and times its feature distance
GRIDS = ("log-snr", "uniform")
METHODS: dict[str, Solver] = {
    "mrs-ode-2": solvers.MRSampler(2, "ode"),
    "mrs-sde-2": solvers.MRSampler(2, "sde"),
    "posterior": solvers.Ancestral(),
    "euler": solvers.EulerMaruyama(),
    "heun": solvers.Heun(),
}


class Restorer(Denoiser):
    """The exact posterior of x_0 from the mixture given x_t and the anchor y = x_0 + NOISE n.

    Two Gaussian observations of x_0 are one: of precision alpha^2 / sigma^2 + 1 / NOISE^2, at their weighted mean.
    """

    process: AffineProcess

    def __init__(self, process: AffineProcess, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        self.process, self.shape, self.plain = process, (64,), processes.EDM(1.0)
        self.mixture = denoisers.MixtureDenoiser(weights, means, covariances, self.plain)

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """D(x_t, y)."""
        assert condition is not None
        y, level = condition["anchor"], self.process.at(t)
        seen, known = level.alpha / level.sigma**2, 1 / NOISE**2
        precision = level.alpha * seen + known
        point = (seen * (x - level.anchor * y) + known * y) / precision
        inner = self.mixture(point, precision**-0.5)
        return Posterior(self.process, x, t, inner.mean, condition=condition)


class MRSampler(Claim):
    slug = "mr-sampler"
    statement = (
        f"With {KEY} network calls MR Sampler (ODE, order 2) restores noisy digits within {WITHIN[0]} dB and within "
        f"{WITHIN[1] - 1:.0%} of the feature distance of {MANY} steps of posterior sampling, and Euler-Maruyama with "
        f"{KEY} does not; surrogate: the exact posterior of a mixture fitted to digits in place of a network"
    )
    baseline = (
        f"posterior sampling (IR-SDE's optimal reverse step) with {MANY} and with {KEY} steps, Euler-Maruyama, and "
        "Heun with the calls counted, from the same noise at the anchor; each on the better of two grids, uniform in "
        "log-SNR or in time, as its feature distance on other samples says"
    )
    effects = (
        *(
            Effect(f"PSNR at {KEY}: {name} - posterior at {MANY}", of=f"psnr {name} {KEY}",
                   against=f"psnr posterior {MANY}")
            for name in METHODS
        ),
        *(
            Effect(f"features at {KEY}: {name} / posterior at {MANY}", of=f"features {name} {KEY}",
                   against=f"features posterior {MANY}", ratio=True)
            for name in METHODS
        ),
        Effect(f"features: posterior at {MANY}", of=f"features posterior {MANY}"),
        Effect(f"PSNR of posterior at {MANY}", of=f"psnr posterior {MANY}"),
    )  # fmt: skip

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        process = processes.MeanReverting()
        weights, means, covariances = _fitted()
        truth = Restorer(process, weights, means, covariances)
        n, found = SIZES[budget], {}
        runs = [(name, calls) for name in METHODS for calls in CALLS[budget]] + [("posterior", MANY)]
        for i, (name, calls) in enumerate(runs):
            progress(i / len(runs), f"{name}, {calls} calls")
            steps = (calls + 1) // 2 if name == "heun" else calls  # its last step takes one call, others two
            arms = {grid: Sampler(METHODS[name], steps, grid) for grid in GRIDS}
            best = min(
                GRIDS, key=lambda grid, arms=arms: _scores(arms[grid], truth, n, 10_000 + seed)["features"]
            )
            scores = _scores(arms[best], truth, n, seed)
            found |= {f"{key} {name} {calls}": value for key, value in scores.items()}
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        close = {
            name: effects[f"PSNR at {KEY}: {name} - posterior at {MANY}"].above(-WITHIN[0])
            and effects[f"features at {KEY}: {name} / posterior at {MANY}"].below(WITHIN[1])
            for name in METHODS
        }
        named = [name for name, yes in close.items() if yes]
        seen = f"within the bounds at {KEY} calls: {', '.join(named) or 'none'}"
        outside = effects[f"PSNR at {KEY}: euler - posterior at {MANY}"].below(-WITHIN[0]) or effects[
            f"features at {KEY}: euler / posterior at {MANY}"
        ].above(WITHIN[1])
        if close["mrs-ode-2"] and outside:
            return Verdict("reproduced", seen)
        if close["mrs-ode-2"] or close["mrs-sde-2"]:
            return Verdict("partly", seen)
        return Verdict("not reproduced", seen)


def _fitted() -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and shrunk covariances of the scans of each digit."""
    train = data.load("digits").train
    scans, labels = train.x_0.flatten(1).double(), train.fields["label"]
    by_class = [scans[labels == k] for k in range(10)]
    ridge = 0.01 * torch.eye(64, dtype=torch.float64)
    weights = torch.tensor([float(len(x)) for x in by_class])
    means = torch.stack([x.mean(0) for x in by_class])
    return weights, means, torch.stack([x.T.cov() + ridge for x in by_class])


def _scores(sampler: Sampler, truth: Restorer, n: int, seed: int) -> dict[str, float]:
    """Mean PSNR, and mean feature distance, of restorations to the clean images."""
    generator = torch.Generator().manual_seed(seed)
    clean = truth.mixture.sample_data(n, generator)
    anchor = clean + NOISE * torch.randn(n, 64, generator=generator, dtype=torch.float64)
    x = sampler(truth, n, seed=seed, anchor=anchor)
    images, wanted = (v.float().reshape(-1, 1, 8, 8) for v in (x, clean))
    features = metrics.feature_distance(metrics.load_classifier("digits"), images, wanted)
    return {"psnr": float(metrics.psnr(images, wanted).mean()), "features": float(features.mean())}


claim = MRSampler()

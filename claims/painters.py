"""Diffusion Models Generate Images Like Painters (Wang and Vastola 2023, 2303.02490).

Measured on the shipped class-conditional network of 8x8 digits, asked without a label, beside the Gaussian of the
training scans' mean and covariance. Surrogate: the paper's networks draw faces and natural images of 3 x 32 x 32 and
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

import ornstein as orn
from ornstein import data, diagnostics, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed
from ornstein.denoisers import GaussianFit

SIZES = {"smoke": (8, 8, 15), "quick": (297, 128, 60), "full": (297, 512, 120)}  # scans, paths, calls
EXPLAINED, ORDERED, PLANE = 0.95, 0.9, 0.99
ABOVE = (1.0, 2.0, 4.0)  # levels, in standard deviations of the first principal axis
BELOW = (0.05, 0.1, 0.2)
AXES = 20
GRID = {"largest": 60.0, "smallest": 0.02}


class Painters(Claim):
    slug = "painters"
    statement = (
        f"Above the noise level of the first principal component a Gaussian explains over {EXPLAINED:.0%} of the "
        "variance of the digits model's score (surrogate for the paper's image models), and more of it than an "
        f"isotropic one; the first {AXES} components settle in the order of their variances (rank correlation above "
        f"{ORDERED}); over {PLANE:.0%} of a trajectory's variance lies in the plane of its ends"
    )
    baseline = (
        "an isotropic Gaussian of the same mean and total variance for the score; for the plane, that of the start and "
        "of another trajectory's end, whose share is what a plane that is not the trajectory's own catches"
    )
    effects = (
        Effect("Gaussian: explained above the first component", of="gaussian above"),
        Effect("isotropic: explained above the first component", of="isotropic above"),
        Effect(
            "unexplained, Gaussian against isotropic",
            of="gaussian left",
            against="isotropic left",
            ratio=True,
        ),
        Effect("Gaussian: explained at low noise", of="gaussian below"),
        Effect("order of components: rank correlation", of="rank correlation"),
        Effect("share in the plane of the ends", of="plane"),
        Effect("share in another trajectory's plane", of="other plane"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        scans, paths, calls = SIZES[budget]
        model, digits = orn.load("digits"), data.load("digits")
        fit = GaussianFit.of(digits.train.x_0)
        progress(0.1, "explained variance")
        found = self._explained(model, fit, digits.held_out.x_0[:scans], seed)
        progress(0.4, "trajectories")
        start = model.process.prior(model.like(paths)).sample(Keyed(seed, paths))
        grid = orn.TimeGrid.log_snr(calls, model.process, **GRID)
        path = diagnostics.trajectory(orn.Sampler(solvers.DPMSolverPP(), grid=grid), model, start)
        return {**found, **geometry(path, fit)}

    def _explained(self, model, fit: GaussianFit, x: Tensor, seed: int) -> dict[str, float]:
        first = float(fit.variances[0]) ** 0.5
        mean = float(fit.variances.sum() / fit.mean.numel())
        found = {}
        for name, law in (("gaussian", fit), ("isotropic", GaussianFit.isotropic(fit.mean, mean))):
            ansatz = law.denoiser(model.process)
            above = diagnostics.explained_variance(model, ansatz, x, [a * first for a in ABOVE], seed=seed)
            below = diagnostics.explained_variance(model, ansatz, x, BELOW, seed=seed)
            found[f"{name} above"], found[f"{name} below"] = float(above.min()), float(below.min())
            found[f"{name} left"] = 1 - float(above.min())
        return found

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        parts = {
            "the Gaussian explains the score at high noise": effects[
                "Gaussian: explained above the first component"
            ].above(EXPLAINED),
            "it explains more than an isotropic one": effects[
                "unexplained, Gaussian against isotropic"
            ].below(1.0),
            "components settle in order": effects["order of components: rank correlation"].above(ORDERED),
            "trajectories lie in the plane of their ends": effects["share in the plane of the ends"].above(
                PLANE
            ),
        }
        held, failed = ([k for k, v in parts.items() if v is kept] for kept in (True, False))
        if not failed:
            return Verdict("reproduced", "; ".join(held))
        said = f"does not hold: {'; '.join(failed)}"
        if not held:
            return Verdict("not reproduced", said)
        return Verdict("partly", f"holds: {'; '.join(held)}; {said}")


def geometry(path: diagnostics.Path, fit: GaussianFit) -> dict[str, float]:
    from scipy.stats import spearmanr

    settled = path.settled_at(fit.axes[:AXES])
    settled = settled.clamp(max=1e3)  # what never settles comes last
    order = spearmanr(settled.numpy(), -fit.variances[:AXES].numpy()).statistic
    other = path.states.clone()
    other[-1] = other[-1].roll(1, 0)
    mixed = diagnostics.Path(path.half_log_snr, other, path.outlines)
    return {
        "rank correlation": float(order),
        "plane": float(path.plane_share().mean()),
        "other plane": float(mixed.plane_share().mean()),
    }


claim = Painters()

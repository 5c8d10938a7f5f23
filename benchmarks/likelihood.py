"""Likelihoods of the probability flow beside a plain reference implementation, on a density that is known.

    OMP_NUM_THREADS=1 python -m benchmarks.likelihood [--samples N] [--json FILE]

The truth is a mixture of ten Gaussians fitted to the 8x8 digits (64 dimensions), under two processes. "reference" is
the recipe of the paper's own release (2011.13456), written out here: the state and the log-density in the process's
time, scipy's RK45 from time 1e-5 to 1, the whole batch as one vector. All take the exact law at time 1, so that only
their integration errs. azula 0.11 and diffusers have no likelihood of data, so that they have no row.

Each way is run at several tolerances; a row gives its network calls, its seconds, and the median and largest error of
the log-density over samples, in nats. Ratios are those of network calls at equal median error. A process without signal
at its end, as RectifiedFlow, the reference cannot integrate to time 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ornstein import data, solvers
from ornstein.core import AffineProcess
from ornstein.denoisers import MixtureDenoiser
from ornstein.diagnostics import log_likelihood
from ornstein.processes import VarianceExploding, VariancePreserving

from .timing import machine

PACKAGES = ("ornstein", "torch", "torchdiffeq", "scipy")
PROCESSES: dict[str, Callable[[], AffineProcess]] = {
    "VariancePreserving": VariancePreserving,
    "VarianceExploding": VarianceExploding,
}
TOLERANCES = (1e-3, 1e-4, 1e-5)
STEPS = (25, 50, 100)
Way = Callable[[MixtureDenoiser, Tensor], tuple[Tensor, int]]


def digits(process: AffineProcess) -> MixtureDenoiser:
    """Mean and covariance of the scans of each digit, with the variance of uniform dequantisation added."""
    train = data.load("digits").train
    scans, labels = train.x_0.flatten(1).double(), train.fields["label"]
    classes = [scans[labels == k] for k in range(10)]
    noise = (1 / 8) ** 2 / 12 * torch.eye(64, dtype=torch.float64)
    covariances = torch.stack([x.T.cov() + noise for x in classes])
    weights = torch.tensor([float(len(x)) for x in classes])
    return MixtureDenoiser(weights, torch.stack([x.mean(0) for x in classes]), covariances, process)


def reference(tolerance: float, exact: bool = True) -> Way:
    """RK45 in time, with the exact trace or with one fixed Rademacher probe."""

    def run(truth: MixtureDenoiser, x: Tensor) -> tuple[Tensor, int]:
        shape, process = x.shape, truth.process
        probes = torch.randint(2, (1, *shape), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
        probes = torch.eye(shape[1], dtype=x.dtype)[:, None].expand(-1, *shape) if exact else probes
        calls = 0

        def slope(t: float, state: Any) -> Any:
            nonlocal calls
            calls += 1
            place = torch.from_numpy(state[: x.numel()]).reshape(shape).requires_grad_()
            f, _, g = process.drift_and_diffusion(t)
            with torch.enable_grad():
                drift = f * place - 0.5 * g**2 * truth(place, t).score
                pulled = torch.autograd.grad(drift, place, probes, is_grads_batched=True)[0]
            divergence = (pulled * probes).sum((0, 2))
            return np.concatenate([drift.detach().numpy().ravel(), divergence.numpy()])

        start = np.concatenate([x.numpy().ravel(), np.zeros(len(x))])
        end = solve_ivp(slope, (1e-5, 1.0), start, rtol=tolerance, atol=tolerance, method="RK45").y[:, -1]
        x_1, gained = torch.from_numpy(end[: x.numel()]).reshape(shape), torch.from_numpy(end[x.numel() :])
        return truth.log_density(x_1, 1.0) + gained, calls

    return run


def ours(**options: Any) -> Way:
    def run(truth: MixtureDenoiser, x: Tensor) -> tuple[Tensor, int]:
        found = log_likelihood(truth, x, prior=lambda x_1: truth.log_density(x_1, 1.0), **options)
        return found.nats, found.evaluations

    return run


def ways() -> dict[str, dict[str, Way]]:
    """Method, then its setting."""
    return {
        "reference, exact": {f"{e:g}": reference(e) for e in TOLERANCES},
        "reference, one probe": {f"{e:g}": reference(e, exact=False) for e in TOLERANCES},
        "ornstein, exact": {f"{e:g}": ours(rtol=e, atol=e) for e in TOLERANCES},
        "ornstein, one probe": {f"{e:g}": ours(estimator="hutchinson", rtol=e, atol=e) for e in TOLERANCES},
        "ornstein, Heun": {f"{n} steps": ours(solver=solvers.Heun(), steps=n) for n in STEPS},
    }


def measured(samples: int) -> Iterator[dict[str, Any]]:
    for (name, make), (method, settings) in itertools.product(PROCESSES.items(), ways().items()):
        truth = digits(make())
        x = truth.sample_data(samples, torch.Generator().manual_seed(0))
        want = truth.log_density(x, 0.0)
        for setting, way in settings.items():
            start = time.perf_counter()
            nats, calls = way(truth, x)
            seconds = time.perf_counter() - start
            error = (nats - want).abs()
            row = {"process": name, "method": method, "setting": setting, "calls": calls, "seconds": seconds}
            yield {**row, "median": float(error.median()), "largest": float(error.max())}


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our calls over the reference's at each of its errors, by a line through the logarithms of ours."""
    found = []
    for process in PROCESSES:
        ours, theirs = (
            [r for r in rows if r["process"] == process and r["method"] == f"{who}, exact"]
            for who in ("ornstein", "reference")
        )
        slope, offset = np.polyfit(*(np.log([r[k] for r in ours]) for k in ("median", "calls")), 1)
        for r in theirs:
            calls = math.exp(offset + slope * math.log(r["median"])) / r["calls"]
            found.append({"process": process, "setting": r["setting"], "error": r["median"], "calls": calls})
    return found


COLUMNS = "{:20} {:22} {:>10} {:>6} {:>8} {:>13} {:>14}"


def show(row: dict[str, Any]) -> None:
    numbers = f"{row['seconds']:.2f}", f"{row['median']:.2e}", f"{row['largest']:.2e}"
    print(COLUMNS.format(row["process"], row["method"], row["setting"], row["calls"], *numbers), flush=True)


def show_ratios(found: list[dict[str, Any]]) -> None:
    for r in found:
        at = f"{r['process']}, at the error {r['error']:.1e} of the reference's {r['setting']}"
        print(f"{at}: {r['calls']:.2f} of its calls")
    print(f"median ratio of calls: {statistics.median(r['calls'] for r in found):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(COLUMNS.format("process", "method", "setting", "calls", "seconds", "median error", "largest error"))
    rows = []
    for row in measured(options.samples):
        rows.append(row)
        show(row)
    show_ratios(ratios(rows))
    if options.json:
        found = {"machine": machine(PACKAGES), "rows": rows, "ratios": ratios(rows)}
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

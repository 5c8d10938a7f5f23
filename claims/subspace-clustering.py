"""Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering (Wang et al. 2024, 2409.02426).

Measured here, on points of random subspaces in 48 dimensions without noise: how many points the denoiser of a mixture
of low-rank Gaussians needs, trained by gradients through the library's own loop, to find one subspace and two; and
how many a plain network needs until the leading singular directions of its Jacobian span the subspace. The sizes are
a laptop's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ornstein import data, denoisers, diagnostics, metrics, networks, objectives, processes, training
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Denoiser, Keyed

SIZE = 48
RANKS = (2, 4, 6)
STEPS = {"smoke": 10, "quick": 300, "full": 2000}
RATE = 0.1  # of the low-rank denoiser: the best of 0.03, 0.1 on another seed
RESTARTS = {"smoke": 1, "quick": 3, "full": 10}
PAIRS = {"smoke": (2,), "quick": (3,), "full": (2, 4, 6)}
SHARES = (1.0, 1.5, 2.0, 3.0)  # of points a subspace, in units of its dimension
MULTIPLES = {"smoke": (1,), "quick": (0.5, 1, 2), "full": (0.5, 0.75, 1, 1.5, 2, 3, 4, 8)}  # of d
CLOSE, HALF = 0.1, 0.25


def _subspaces(count: int, rank: int, seed: int) -> Tensor:
    drawn = torch.randn(count, SIZE, rank, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0]


def _points(bases: Tensor, n: int, seed: int) -> Tensor:
    """n points on each subspace."""
    a = torch.randn(len(bases), n, bases.shape[2], generator=torch.Generator().manual_seed(seed))
    return (a @ bases.mT).flatten(0, 1)


def _trained(
    denoiser: Denoiser, points: Tensor, steps: int, seed: int, rate: float
) -> tuple[Denoiser, float]:
    """The denoiser and its mean training loss over the last tenth."""
    batch = 256
    many = points.repeat(-(-batch // len(points)), 1)
    split = data.Dataset("subspaces", data.TensorSplit(many), data.TensorSplit(points), shape=(SIZE,))
    losses: list[float] = []
    options = {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 10**9, "progress": False}
    objective = objectives.Denoising("snr")
    with tempfile.TemporaryDirectory() as folder:
        training.fit(
            denoiser, split, objective, steps=steps, batch=batch, seed=seed, out=folder, ema=None, warmup=0,
            learning_rate=rate, report_every=max(1, steps // 10), clip=None,
            callback=lambda line: losses.append(float(line.get("loss", losses[-1] if losses else 0.0))), **options,
        )  # fmt: skip
    return denoiser.eval(), losses[-1]


def _error(found: Tensor, truth: Tensor) -> float:
    """The mean distance of subspaces under the best matching, by greed: the clearest pairs first."""
    table = torch.stack([metrics.subspace_distance(found, u.expand_as(found)) for u in truth], 1)
    total = 0.0
    for _ in range(len(truth)):
        i, j = divmod(int(table.argmin()), table.shape[1])
        total += float(table[i, j])
        table[i], table[:, j] = torch.inf, torch.inf
    return total / len(truth)


class SubspaceClustering(Claim):
    slug = "subspace-clustering"
    statement = (
        f"In {SIZE} dimensions the trained low-rank denoiser finds one subspace of dimension d (distance "
        f"under {CLOSE} d) from d points and not from d - 1, for d = 2, 4, 6; so the boundary has slope "
        "1. It finds two subspaces from at most 1.5 d points each, by the best of several random starts, "
        "chosen by training loss. For a plain network the number of points at which the subspace error "
        "falls to a quarter is linear in d with R^2 of at least 0.9"
    )
    baseline = (
        "principal components of the same points, which are exact from d points on; for two subspaces a "
        "start at the true ones (what the loss itself would allow); for the network, what a random "
        "subspace would score. All by the same loop and loss; the thresholds are those of the paper's "
        "theory"
    )
    effects = (
        *(
            Effect(f"one: {what} for d = {d}", of=f"one {what} {d}")
            for d in RANKS
            for what in ("below", "at", "principal")
        ),
        Effect("one: smallest share that succeeds", of="one share"),
        Effect("two: smallest share that succeeds", of="two share"),
        Effect("two: from the true start", of="two oracle"),
        Effect("network: slope of points over d", of="network slope"),
        Effect("network: R^2", of="network r2"),
        Effect("network: seeds in which all boundaries lie among the counts", of="network seen"),
        *(Effect(f"network: points for d = {d}", of=f"network points {d}") for d in RANKS),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        found = {}
        shares = []
        for i, d in enumerate(RANKS):
            progress(0.1 * i, f"one subspace of dimension {d}")
            row = _one(d, STEPS[budget], seed)
            shares.append(row.pop("share"))
            found |= row
        found["one share"] = max(shares)
        progress(0.3, "two subspaces")
        found |= _two(PAIRS[budget], STEPS[budget], RESTARTS[budget], seed)
        progress(0.6, "network")
        return {**found, **_network(MULTIPLES[budget], 2 * STEPS[budget], seed)}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        one = effects["one: smallest share that succeeds"].value <= 1.0 and all(
            effects[f"one: below for d = {d}"].above(CLOSE * d) for d in RANKS
        )
        two = effects["two: smallest share that succeeds"].value <= 1.5
        seen = effects["network: seeds in which all boundaries lie among the counts"].value == 1.0
        line = (
            seen
            and effects["network: R^2"].value >= 0.9
            and effects["network: slope of points over d"].above(0.0)
        )
        parts = {
            "slope 1 for one subspace": one,
            "two from 1.5 d points each": two,
            "linear for a network": line,
        }
        held, missed = ([what for what, yes in parts.items() if yes is wanted] for wanted in (True, False))
        text = (
            f"one subspace from {effects['one: smallest share that succeeds'].value:.3g} d points, two from "
            f"{effects['two: smallest share that succeeds'].value:.3g} d each "
            f"({effects['two: from the true start'].value:.3g} d from the true start), a network from about "
            f"{effects['network: slope of points over d'].value:.3g} d"
        )
        if not missed:
            return Verdict("reproduced", text)
        if not held:
            return Verdict("not reproduced", text)
        return Verdict("partly", f"held: {', '.join(held)}; not: {', '.join(missed)}; {text}")


def _one(d: int, steps: int, seed: int) -> dict[str, float]:
    """Distances from d - 1 and from d points, and the smallest of some shares of d that succeeds; 9 for "
    "none."""
    truth = _subspaces(1, d, 100 + seed)
    share, errors = 9.0, {}
    for n in (d - 1, d, round(1.5 * d), 2 * d, 3 * d):
        if share < 9.0:
            break
        points = _points(truth, n, seed)
        start = denoisers.LowRankMixture(processes.VariancePreserving(), (SIZE,), d, seed=seed)
        model, _ = _trained(start, points, steps, seed, RATE)
        errors[n] = _error(model.bases.detach(), truth)
        share = min(share, n / d) if n >= d and errors[n] < CLOSE * d else share
        if n == d:
            axes = torch.linalg.svd(points, full_matrices=False)[2].T
            principal = float(metrics.subspace_distance(axes, truth[0]))
    return {
        "share": share,
        f"one below {d}": errors[d - 1],
        f"one at {d}": errors[d],
        f"one principal {d}": principal,
    }


def _two(ranks: tuple[int, ...], steps: int, restarts: int, seed: int) -> dict[str, float]:
    """The smallest share of points at which two subspaces are found, the mean over dimensions; 9 for none."""
    shares: dict[str, list[float]] = {"two share": [], "two oracle": []}
    process = processes.VariancePreserving()
    for d in ranks:
        truth = _subspaces(2, d, 200 + seed)
        first = {"two share": 9.0, "two oracle": 9.0}
        for share in SHARES if steps > 100 else SHARES[:1]:
            points = _points(truth, round(share * d), seed)
            starts = [
                denoisers.LowRankMixture(process, (SIZE,), d, 2, seed=50 * seed + i) for i in range(restarts)
            ]
            tries = [_trained(start, points, steps, seed, RATE) for start in starts]
            best = min(tries, key=lambda pair: pair[1])[0]
            oracle, _ = _trained(denoisers.LowRankMixture.of(truth, process), points, steps, seed, RATE)
            for name, model in (("two share", best), ("two oracle", oracle)):
                if _error(model.bases.detach(), truth) < CLOSE * d:
                    first[name] = min(first[name], share)
            if max(first.values()) < 9.0:
                break
        for name, value in first.items():
            shares[name].append(value)
    return {name: sum(values) / len(values) for name, values in shares.items()}


def _network(multiples: tuple[int, ...], steps: int, seed: int) -> dict[str, float]:
    """Points at which the squared error, as a share of that of orthogonal subspaces, falls to a quarter."""
    process = processes.VariancePreserving()
    t = process.time_at(0.0)
    needed = []
    for d in RANKS:
        truth = _subspaces(1, d, 300 + seed)
        fresh = process.marginal(_points(truth, 16, 900 + seed), t).sample(Keyed(seed, 16))
        errors = []
        for multiple in multiples:
            torch.manual_seed(seed)
            network = networks.ResidualMLP(SIZE, 96, 2)
            start = denoisers.NetworkDenoiser(network, process, "edm", shape=(SIZE,), scale=(d / SIZE) ** 0.5)
            model, _ = _trained(start, _points(truth, round(multiple * d), seed), steps, seed, 2e-3)
            right = diagnostics.jacobian_svd(model, fresh, t, d, iterations=10).right.mT
            far = metrics.subspace_distance(right, truth.expand(16, SIZE, d))
            errors.append(float(far.square().mean()) / (2 * d))
        needed.append(_crossing(np.array(multiples) * d, np.array(errors)))
    slope, offset = np.polyfit(RANKS, needed, 1)
    rest = np.array(needed) - slope * np.array(RANKS) - offset
    spread = np.array(needed) - np.mean(needed)
    r2 = 1 - (rest**2).sum() / max((spread**2).sum(), 1e-12)
    points = {f"network points {d}": float(n) for d, n in zip(RANKS, needed, strict=True)}
    seen = float(min(needed) > 0)
    return {"network slope": float(slope), "network r2": float(r2), "network seen": seen, **points}


def _crossing(counts: np.ndarray, errors: np.ndarray) -> float:
    """Where errors fall to HALF, between logarithms of counts; 0 where that is beyond the counts that were tried."""
    below = np.flatnonzero(errors < HALF)
    if not len(below) or below[0] == 0:
        return 0.0
    i = below[0]
    part = (errors[i - 1] - HALF) / (errors[i - 1] - errors[i])
    return float(np.exp(np.log(counts[i - 1]) + part * np.log(counts[i] / counts[i - 1])))


claim = SubspaceClustering()

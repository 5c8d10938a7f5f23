"""ACDiT: Interpolating Autoregressive Conditional Modeling and Diffusion Transformer (Hu et al. 2024, 2412.07720).

Measured here: digits made in four blocks, each by diffusion given the clean ones before it, beside the same network
with one block, which is full-sequence diffusion: equal parameters, data, training and solver steps a block. Time is
CPU time of one thread for longer signals, of untrained networks, since time does not depend on weights. The clean
stream's features are compared with those of the one-block network at the best of several noise levels. Surrogates: 8x8
digits for ImageNet and UCF-101, and networks of 0.1 million parameters.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, diagnostics, metrics, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Condition, Keyed, Sampler, TimeGrid
from ornstein.networks.taps import tapped

SIZES = {"smoke": (4, 40, 1), "quick": (200, 500, 1), "full": (6000, 2000, 5)}  # steps, samples, timed runs
WIDTH, DEPTH, BATCH, CALLS, SHAPE, SCALE = 48, 3, 64, 10, (1, 8, 8), 0.75
LENGTH, CUTS, STEPS, ROWS = 4096, 16, 8, 1  # of the signals that are timed
TIMED: dict[str, int] = {"width": 32, "depth": 4, "heads": 2}
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)  # times at which the one-block network's features are read
PENALTY = 1e-2
SHARE, WORSE = 0.6, 1.15
SILENT: dict[str, Any] = {"evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1, "ema": 0.98}


def trained(grid: int, steps: int, seed: int) -> denoisers.Blockwise:
    """Digits in grid x grid blocks."""
    torch.manual_seed(seed)
    network = networks.BlockwiseTransformer(
        1, SHAPE[1:], grid, patch=2, width=WIDTH, depth=DEPTH, heads=4, labels=10
    )
    model = denoisers.Blockwise(network, processes.RectifiedFlow(), "velocity", scale=SCALE)
    side = SHAPE[1] // grid
    times = objectives.PerBlock(objectives.UniformTime(), (None, side, side))
    objective = objectives.OwnCondition(objectives.Denoising(times=times), "clean")
    with tempfile.TemporaryDirectory() as folder:
        run = orn.fit(
            model, "digits", objective, steps=steps, batch=BATCH, out=folder, seed=seed, learning_rate=2e-3,
            checkpoint_every=steps, **SILENT,
        )  # fmt: skip
    found: Any = run.denoiser.eval()
    return found


def sampler(model: denoisers.Blockwise, steps: int) -> Sampler:
    solver = solvers.DPMSolverPP()
    grid = TimeGrid.log_snr(steps, model.process)  # type: ignore[arg-type]
    return Sampler(solver, grid=solvers.block_by_block(grid, model.blocks, solver))


def distance(model: denoisers.Blockwise, count: int, seed: int) -> float:
    """Frechet distance in a classifier's features, between samples of all classes and all scans."""
    classifier = metrics.load_classifier("digits")
    made = sampler(model, CALLS)(model, count, seed=seed, label=torch.arange(count) % 10)
    scans = data.load("digits").train.x_0
    features = [metrics.classifier_features(classifier, x.clamp(-1, 1)) for x in (made, scans)]
    return float(metrics.frechet_distance(*features, resamples=2).value)


def accuracy(model: denoisers.Blockwise, t: float | None) -> float:
    """Of a linear probe on the first 1000 scans, of the layer that is best on the other 500, judged on held-out ones.

    Features are the mean over tokens after a block: of the clean stream where `t` is None, else of the noised stream.
    """
    digits = data.load("digits")
    (x, y), (held, truth) = ((s.x_0, s.fields["label"]) for s in (digits.train, digits.held_out))
    chosen, last = -1.0, 0.0
    for before, after in zip(pooled(model, x, t), pooled(model, held, t), strict=True):
        probe = diagnostics.linear_probe(before[:1000], y[:1000], PENALTY)
        validation = probe.accuracy(before[1000:], y[1000:])
        if validation > chosen:
            chosen, last = validation, probe.accuracy(after, truth)
    return last


@torch.no_grad()
def pooled(model: denoisers.Blockwise, x: Tensor, t: float | None) -> list[Tensor]:
    names = [f"blocks.{i}" for i in range(DEPTH)]
    level = 0.5 if t is None else t  # of the noised stream, which the clean one never sees
    x_t = model.process.marginal(x, level).sample(Keyed(7, len(x)))
    with tapped(model, names) as taken:
        model(x_t, level, Condition({"clean": x}))
    half = x[0].numel() // 4
    return [(taken[n][:, :half] if t is None else taken[n][:, half:]).mean(1) for n in names]


def seconds(grid: int, runs: int) -> float:
    """CPU seconds of a batch of signals in `grid` blocks, the least of several runs."""
    network = networks.BlockwiseTransformer(1, (LENGTH,), grid, **TIMED)
    model = denoisers.Blockwise(network.eval(), processes.RectifiedFlow())
    run, spent = sampler(model, STEPS), []
    for _ in range(runs):
        began = time.process_time()
        run(model, ROWS, seed=0)
        spent.append(time.process_time() - began)
    return min(spent)


class ACDiT(Claim):
    slug = "acdit"
    statement = (
        f"With keys and values kept, signals of {LENGTH} tokens in {CUTS} blocks take less than {SHARE} of the time of "
        "full-sequence diffusion at equal steps; digits in four blocks have a Frechet distance at most "
        f"{WORSE - 1:.0%} above that of full-sequence diffusion; the clean stream's features are classified at least "
        "as well as the full-sequence network's at its best noise level"
    )
    baseline = (
        "the same network with one block, of the same parameters, training and solver steps; its features are read at "
        f"the best of {len(LEVELS)} times, chosen on the held-out scans in its favour"
    )
    effects = (
        Effect(
            "time, blocks over full sequence", of="seconds in blocks", against="seconds at once", ratio=True
        ),
        Effect(
            "Frechet distance, blocks over full sequence",
            of="distance in blocks",
            against="distance at once",
            ratio=True,
        ),
        Effect("Frechet distance, full sequence", of="distance at once"),
        Effect(
            "probe, clean stream - full sequence at its best", of="clean stream", against="noised at once"
        ),
        Effect("probe, clean stream", of="clean stream"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        steps, count, runs = SIZES[budget]
        found = {"seconds at once": seconds(1, runs), "seconds in blocks": seconds(CUTS, runs)}
        progress(0.2, "full sequence")
        whole = trained(1, steps, seed)
        found["distance at once"] = distance(whole, count, seed)
        found["noised at once"] = max(accuracy(whole, t) for t in LEVELS)
        progress(0.6, "blocks")
        blocks = trained(2, steps, seed)
        found["distance in blocks"] = distance(blocks, count, seed)
        return {**found, "clean stream": accuracy(blocks, None)}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        clock, quality, features = (
            effects[name]
            for name in (
                "time, blocks over full sequence",
                "Frechet distance, blocks over full sequence",
                "probe, clean stream - full sequence at its best",
            )
        )
        held = clock.below(SHARE), quality.value <= WORSE, features.value >= 0
        reason = (
            f"time {clock.value:.2f} and Frechet distance {quality.value:.2f} of full sequence, "
            f"probe {features.value:+.3f}; "
            f"held: {', '.join(n for n, v in zip(('time', 'quality', 'features'), held, strict=True) if v) or 'none'}"
        )
        if all(held):
            return Verdict("reproduced", reason)
        return Verdict("partly" if held[0] or held[1] else "not reproduced", reason)


claim = ACDiT()

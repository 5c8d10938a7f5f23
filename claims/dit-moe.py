"""Scaling Diffusion Transformers to 16 Billion Parameters (Fei et al. 2024, 2407.11633).

Measured here: whether routed experts are worth more than a dense feed-forward network of equal active compute, and what
routing depends on. All arms are the same transformer, initialised from the same seed, on the same batches, noise and
steps; only the feed-forward networks differ. Active multiply-adds are counted, not timed: the clock is in the docs.
Surrogates: Fashion-MNIST at 16x16 for ImageNet, and networks of 0.2 to 0.4 million parameters.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import ornstein as orn
from ornstein import data, denoisers, diagnostics, networks, objectives, processes
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Condition, Keyed

SIZES = {"smoke": (4, 64), "quick": (350, 512), "full": (10_000, 2048)}  # steps, held-out images
WIDTH, DEPTH, PATCH, BATCH = 64, 3, 4, 64
EXPERTS, CHOSEN, HIDDEN, SHARED = 8, 2, 32, 16
ROUTED: dict[str, Any] = {"experts": EXPERTS, "chosen": CHOSEN, "shared": SHARED}
ARMS: dict[str, dict[str, Any]] = {
    "dense, active width": {"hidden": CHOSEN * HIDDEN + SHARED},
    "dense, total width": {"hidden": EXPERTS * HIDDEN + SHARED},
    "experts": {"hidden": HIDDEN, "experts": ROUTED},
}
GAP, FACTOR = 1 / 3, 3.0
TIMES = 8  # bins of the time for its information
SILENT: dict[str, Any] = {"evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1, "ema": 0.98}


@functools.cache
def images() -> Any:
    return data.load("fashion-mnist")


def trained(arm: str, steps: int, seed: int) -> denoisers.NetworkDenoiser:
    torch.manual_seed(seed)
    network = networks.Transformer(
        1, patch=PATCH, width=WIDTH, depth=DEPTH, heads=4, labels=10, size=(16, 16), **ARMS[arm]
    )
    model = denoisers.NetworkDenoiser(network, processes.RectifiedFlow(), "velocity", (1, 16, 16))
    with tempfile.TemporaryDirectory() as folder:
        run = orn.fit(
            model, images(), objectives.Denoising(), steps=steps, batch=BATCH, out=folder,
            seed=seed, learning_rate=2e-3, checkpoint_every=steps, **SILENT,
        )  # fmt: skip
    found: Any = run.denoiser.eval()
    return found


def held_out(count: int) -> tuple[Tensor, Tensor]:
    split: Any = images().held_out
    record = split.batch(torch.arange(count))
    return record["x_0"], record["fields"]["label"]


@torch.no_grad()
def loss(model: Any, count: int) -> float:
    """The velocity's mean squared error at times spread evenly, with the same noise for all arms and seeds."""
    x_0, label = held_out(count)
    batch = {"x_0": x_0, "condition": Condition({"label": label}), "time": times(count)}
    return float(objectives.Denoising(drop=0.0)(model, batch, Keyed(20, count)).sample.mean())


def times(count: int) -> Tensor:
    even = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return even[torch.randperm(count, generator=torch.Generator().manual_seed(1))]


def information(model: Any, count: int) -> dict[str, float]:
    """What the first choice of expert says of position, time and class, in nats, averaged over layers; and the load."""
    x_0, label = held_out(count)
    t = times(count)
    x_t = model.process.marginal(x_0, t).sample(Keyed(21, count))
    chosen = diagnostics.routing(model, x_t, t, Condition({"label": label}))
    first, tokens = chosen[..., 0].flatten(1), chosen.shape[2]
    told = {
        "position": torch.arange(tokens).repeat(count),
        "time": (t * TIMES).long().repeat_interleave(tokens),
        "class": label.repeat_interleave(tokens),
    }
    found = {
        f"information on {name}": sum(diagnostics.mutual_information(layer, value) for layer in first)
        / len(first)
        for name, value in told.items()
    }
    loads = torch.stack([torch.bincount(layer.flatten(), minlength=EXPERTS) for layer in chosen]).double()
    return {**found, "load": float((loads.amax(1) / loads.amin(1).clamp(min=1)).mean())}


class DiTMoE(Claim):
    slug = "dit-moe"
    statement = (
        "At equal active multiply-adds and steps, a transformer of 8 routed experts (2 a token) and a shared one has "
        f"a lower held-out velocity loss than the dense one, and closes at least {GAP:.0%} of the gap to one of "
        f"equal total width, in the mean over seeds; routing tells of position and of time at least {FACTOR:g} times "
        "as much as of the class"
    )
    baseline = (
        "dense SwiGLU networks of the active and of the total width, same optimiser, learning rate, batches, noise and "
        "initial seed; information is less its mean over permutations, and is compared for the first choice"
    )
    effects = (
        Effect("loss, experts - dense of active width", of="experts", against="dense, active width"),
        Effect(
            "loss, dense of total - of active width", of="dense, total width", against="dense, active width"
        ),
        Effect("share of the gap closed", of="gap closed"),
        Effect("information on position over that on class", of="position over class"),
        Effect("information on time over that on class", of="time over class"),
        *(
            Effect(f"information on {name}", of=f"information on {name}")
            for name in ("position", "time", "class")
        ),
        Effect("largest over smallest load", of="load"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        steps, count = SIZES[budget]
        found: dict[str, float] = {}
        for i, arm in enumerate(ARMS):
            progress(i / len(ARMS), arm)
            model = trained(arm, steps, seed)
            found[arm] = loss(model, count)
            if arm == "experts":
                found |= information(model, count)
        gap = found["dense, active width"] - found["dense, total width"]
        found["gap closed"] = (found["dense, active width"] - found["experts"]) / max(gap, 1e-6)
        floor = max(found["information on class"], 1e-4)
        return found | {f"{k} over class": found[f"information on {k}"] / floor for k in ("position", "time")}

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        if not effects["loss, dense of total - of active width"].below(0.0):
            return Verdict(
                "not testable here", "a wider dense network is no better at this size, so there is no gap"
            )
        better = effects["loss, experts - dense of active width"].below(0.0)
        closed = effects["share of the gap closed"].value >= GAP
        routed = all(
            effects[f"information on {name} over that on class"].value >= FACTOR
            for name in ("position", "time")
        )
        share = effects["share of the gap closed"]
        closing = (
            f"{share.value:.2f} of the gap closed in the mean, surely as much as asked: {share.above(GAP)}"
        )
        where = ", ".join(
            f"{name} {effects[f'information on {name}'].value:.3f}" for name in ("position", "time", "class")
        )
        reason = f"experts better: {better}; {closing}; nats on {where}"
        if better and closed and routed:
            return Verdict("reproduced", reason)
        return Verdict("partly" if (better and closed) or routed else "not reproduced", reason)


claim = DiTMoE()

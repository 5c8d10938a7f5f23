"""A Simple Approach to Unifying Diffusion-based Conditional Generation (Li et al. 2024, 2410.11439).

Measured here: one model of digits, frozen, made a joint model of digits and their edge maps by joint attention and
low-rank adapters, trained on independent noise levels of the two; beside two specialists, the same adapters trained for
one direction each. Edges are computed, not annotated, so what an image shows is re-measured exactly. Surrogates are
the data (8x8 digits for photographs), the base (a small transformer for Stable Diffusion) and the budget. Several
maps at once and guidance by text are left out.
"""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ornstein as orn
from ornstein import adapters, data, denoisers, guides, metrics, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict
from ornstein.core import Keyed, Noise, Objective, Process, Sampler, TimeGrid, Tree

SIZES = {
    "smoke": (3, 2, 24),
    "quick": (1000, 150, 297),
    "full": (10_000, 3000, 297),
}  # steps of the base, of a specialist, maps
BATCH, CALLS, SHAPE, SCALE, RANK = 64, 20, (1, 8, 8), 0.75, 8
LAYERS = (
    "qkv",
    "attention.out",
    "ffn.0",
    "ffn.2",
    "stem",
    "out",
)  # where the second stream has its own change
HELD = (0.0, 0.3, 0.6, 0.9)  # times at which the map is held
WITHIN, CONSISTENT = 1.1, 1.3
SILENT: dict[str, Any] = {"evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1, "ema": 0.98}


def edges(x: Tensor) -> Tensor:
    """Length of the gradient by Sobel's filters, from -1 upwards."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(x)[None, None] / 8
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    slopes = [F.conv2d(padded, k) for k in (across, across.mT)]
    return 2 * (slopes[0] ** 2 + slopes[1] ** 2).clamp(min=1e-12).sqrt() - 1


@functools.cache
def pairs() -> Any:
    """Digits with their edge maps, {"image", "map"}."""
    whole = data.load("digits")
    parts = [
        data.TensorSplit({"image": s.x_0, "map": edges(s.x_0)}, s.fields)
        for s in (whole.train, whole.held_out)
    ]
    return replace(
        whole, name="digits-edges", train=parts[0], held_out=parts[1], shape={"image": SHAPE, "map": SHAPE}
    )


def fitted(model: Any, of: Any, objective: Objective, steps: int, seed: int, rate: float) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        run = orn.fit(
            model, of, objective, steps=steps, batch=BATCH, out=folder, seed=seed, learning_rate=rate,
            checkpoint_every=steps, **SILENT,
        )  # fmt: skip
    return run.denoiser.eval()


@functools.cache
def base(budget: str) -> Any:
    """The pretrained network of digits alone: the same for all seeds and arms."""
    torch.manual_seed(0)
    network = networks.Transformer(1, patch=2, width=64, depth=4, heads=4, size=(8, 8))
    model = denoisers.NetworkDenoiser(network, processes.RectifiedFlow(), "velocity", SHAPE, SCALE)
    return fitted(model, "digits", objectives.Denoising(), SIZES[budget][0], 0, 2e-3).network


class OneWay(objectives.Denoising):
    """The other leaf is always shown clean: a specialist's loss."""

    def __init__(self, given: str) -> None:
        super().__init__(clean=0.0)
        self.given = given

    def times(self, process: Process, x_0: Tree, noise: Noise) -> Any:
        t = super().times(process, x_0, noise)
        return {**t, self.given: torch.zeros_like(t[self.given])}


def joint(objective: Objective, steps: int, budget: str, seed: int) -> Any:
    torch.manual_seed(seed)
    network = adapters.JointAttention(copy.deepcopy(base(budget)), ("image", "map"), RANK, LAYERS)
    flow = processes.ProductProcess({"image": processes.RectifiedFlow(), "map": processes.RectifiedFlow()})
    model = denoisers.NetworkDenoiser(network, flow, "velocity", {"image": SHAPE, "map": SHAPE}, SCALE)
    return fitted(model, pairs(), objective, steps, seed, 3e-3)


def run(model: Any, start: Any, seed: int, **held: float) -> dict[str, Tensor]:
    """Leaves named in `held` stay at their time; the others come down together in 20 steps."""
    down = TimeGrid.log_snr(CALLS, processes.RectifiedFlow())
    grid = TimeGrid.product(**{k: held.get(k, down) for k in ("image", "map")})
    found: dict[str, Tensor] = Sampler(solvers.DPMSolverPP(), grid=grid)(model, start, seed=seed)
    return found


def gap(x: Tensor, y: Tensor) -> float:
    """Root-mean-square difference."""
    return float((x - y).square().mean().sqrt())


def from_map(model: Any, y: Tensor, seed: int, t: float = 0.0) -> Tensor:
    """Images given maps held at time t, their noise drawn once."""
    noise = Keyed(seed, len(y)).fold("held").normal(y)
    return run(model, {"image": None, "map": (1 - t) * y + t * noise}, seed, map=t)["image"]


class UniCon(Claim):
    slug = "unicon"
    statement = (
        "One joint model of digits and edge maps with independent noise levels is within 10 % of two specialists of "
        "the same trainable size in both directions: root-mean-square error of edges re-measured in images generated "
        "from maps, and of maps estimated from images. The edges of its joint samples are within 1.3 times the error "
        "of its conditional ones, and adherence to the map falls as the map is held at a higher noise level"
    )
    baseline = (
        "two specialists with the same frozen base, adapters and optimiser, each trained on one direction alone, the "
        "other leaf always clean; the joint model is trained for as many steps as both together. Maps are those of "
        "held-out digits; edges of other digits, in random order, are the error of a model that ignores its condition"
    )
    effects = (
        Effect(
            "edges of images from maps: joint / specialist",
            of="control joint",
            against="control alone",
            ratio=True,
        ),
        Effect(
            "maps from images: joint / specialist", of="estimate joint", against="estimate alone", ratio=True
        ),
        Effect(
            "edges of joint samples / of images from maps",
            of="consistency",
            against="control joint",
            ratio=True,
        ),
        *(
            Effect(f"adherence lost from t={a} to t={b}", of=f"held {b}", against=f"held {a}")
            for a, b in itertools.pairwise(HELD)
        ),
        Effect(
            "edges of images from maps, guided by 2 / unguided",
            of="guided",
            against="control joint",
            ratio=True,
        ),
        Effect(
            "energy distance of joint images / of the base's",
            of="energy joint",
            against="energy base",
            ratio=True,
        ),
        Effect("error of the specialist from maps", of="control alone"),
        Effect("error of the specialist from images", of="estimate alone"),
        Effect("error of a model that ignores the map", of="ignorant"),
        Effect("trainable share of the parameters", of="trainable"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        _, steps, n = SIZES[budget]
        progress(0.0, "base")
        base(budget)
        progress(0.1, "joint model")
        both = joint(objectives.Denoising(), 2 * steps, budget, seed)
        progress(0.5, "specialists")
        drawing = joint(OneWay("map"), steps, budget, seed)
        tracing = joint(OneWay("image"), steps, budget, seed)
        progress(0.8, "samples")
        clean = {k: v[:n] for k, v in pairs().held_out.x_0.items()}
        found = {"ignorant": gap(clean["map"].roll(1, 0), clean["map"])}
        for name, model in (("joint", both), ("alone", drawing)):
            found[f"control {name}"] = gap(edges(from_map(model, clean["map"], seed)), clean["map"])
        for name, model in (("joint", both), ("alone", tracing)):
            y = run(model, {"image": clean["image"], "map": None}, seed, image=0.0)["map"]
            found[f"estimate {name}"] = gap(y, clean["map"])
        for t in HELD:
            found[f"held {t}"] = gap(edges(from_map(both, clean["map"], seed, t)), clean["map"])
        guided = guides.JointSeparate(2.0)(both)
        found["guided"] = gap(edges(from_map(guided, clean["map"], seed)), clean["map"])
        return found | self._jointly(both, budget, n, seed)

    def _jointly(self, model: Any, budget: str, n: int, seed: int) -> dict[str, float]:
        pair = run(model, n, seed)
        flow = processes.RectifiedFlow()
        alone = denoisers.NetworkDenoiser(base(budget), flow, "velocity", SHAPE, SCALE)
        x = Sampler(solvers.DPMSolverPP(), CALLS)(alone, n, seed=seed)
        real = pairs().held_out.x_0["image"]
        sizes = {k: p.numel() for k, p in model.named_parameters()}
        learned = sum(v for k, v in sizes.items() if "lora_" in k or ".join." in k)
        return {
            "consistency": gap(edges(pair["image"]), pair["map"]),
            "energy joint": max(metrics.energy_distance(pair["image"], real, resamples=2).value, 1e-6),
            "energy base": max(metrics.energy_distance(x, real, resamples=2).value, 1e-6),
            "trainable": learned / sum(sizes.values()),
        }

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        control = effects["edges of images from maps: joint / specialist"]
        estimate = effects["maps from images: joint / specialist"]
        consistency = effects["edges of joint samples / of images from maps"]
        losses = [v for k, v in effects.items() if k.startswith("adherence lost")]
        if (
            effects["error of the specialist from maps"].value
            > 0.8 * effects["error of a model that ignores the map"].value
        ):
            return Verdict(
                "not reproduced",
                "the specialist itself hardly follows its map, so the comparison says nothing",
            )
        parts = {
            "images from maps within 10 %": control.below(WITHIN),
            "maps from images within 10 %": estimate.below(WITHIN),
            "joint samples agree with themselves": consistency.below(CONSISTENT),
            "coarse control is monotone": all(v.above(0.0) for v in losses),
        }
        seen = f"from maps {control}, from images {estimate}, joint {consistency}"
        held, missed = ([k for k, v in parts.items() if v is yes] for yes in (True, False))
        if not missed:
            return Verdict("reproduced", f"{'; '.join(held)}: {seen}")
        if parts["images from maps within 10 %"] or parts["maps from images within 10 %"]:
            return Verdict("partly", f"held: {'; '.join(held)}; not: {'; '.join(missed)}: {seen}")
        return Verdict("not reproduced", f"not: {'; '.join(missed)}: {seen}")


claim = UniCon()

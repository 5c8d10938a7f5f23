"""Exploring Diffusion Time-steps for Unsupervised Representation Learning (Yue et al. 2024, 2401.11430).

Measured here: a code in parts by stages of time (DiTi) beside the same code in one part (PDAE), behind the same frozen
base. Two worlds: eight independent factors of variances 0.02 to 300, where the time at which each is lost is known and
the frozen base exact, for the order of parts and for edits; and 8x8 digits with a small trained base, for a probe of
classes. Surrogates: these in place of CelebA and its attributes, hundreds of steps in place of 38 million images.
"""

from __future__ import annotations

import copy
import functools
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import ornstein as orn
from ornstein import conditions, data, denoisers, diagnostics, networks, objectives, processes, solvers
from ornstein.claim import Claim, Effect, Interval, Verdict

# steps on factors, steps of the base of digits, steps on digits
SIZES = {"smoke": (20, 4, 4), "quick": (1500, 400, 400), "full": (20_000, 5000, 10_000)}
FACTORS, PARTS, CODE = 8, 8, 32
VARIANCES = torch.logspace(math.log10(0.02), math.log10(300.0), FACTORS)
LABELLED = 10  # digits of each class that a probe is trained on
ORDER, MARGIN = 0.7, 0.02
OPTIONS: dict[str, Any] = {
    "evaluate_every": 0, "sample_every": 0, "progress": False, "keep": 1, "ema": 0.99, "learning_rate": 2e-3,
}  # fmt: skip
ARMS = ("diti", "pdae")


def process() -> processes.VariancePreserving:
    return processes.VariancePreserving("linear")


def mask(arm: str, size: int) -> conditions.TimeMasked:
    return conditions.TimeMasked.uniform(PARTS if arm == "diti" else 1, size)


def fitted(model: Any, dataset: Any, objective: Any, steps: int, batch: int, seed: int) -> Any:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # networks of this file cannot be written as JSON
        run = orn.fit(
            model,
            dataset,
            objective,
            steps=steps,
            out=folder,
            batch=batch,
            seed=seed,
            checkpoint_every=steps,
            **OPTIONS,
        )
    return run.denoiser


def autoencoding() -> objectives.OwnCondition:
    """The loss of both papers' code: SNR^0.1 / (1 + SNR) of the noise's error."""
    return objectives.OwnCondition(objectives.Denoising("snr-power", drop=0.0))


# --- eight factors


class ExactNoise(nn.Module):
    """The noise prediction of independent Gaussian coordinates; its parts can be tapped by name."""

    fields: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.state, self.level = nn.Identity(), nn.Identity()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, level: Tensor, condition: Any = None) -> Tensor:
        signal = torch.sigmoid(2 * level)[:, None]  # alpha^2, of a process that keeps the variance
        spread = signal * VARIANCES + 1 - signal
        self.level(level)
        return self.state(x / spread.sqrt()) * (1 - signal).sqrt() / spread.sqrt()


class FactorBranch(nn.Module):
    """G for vectors: of the standardised state, the level and the code; zero at the start."""

    taps = ("state", "level")

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(2 * FACTORS + 16, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()
        )
        self.out = nn.Linear(128, FACTORS)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, taken: Mapping[str, Tensor], z: Tensor) -> Tensor:
        waves = networks.sinusoid(taken["level"], 16)
        return self.out(self.inner(torch.cat([taken["state"], waves, z], 1)))


class FactorEncoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FACTORS, 64), nn.SiLU(), nn.Linear(64, FACTORS))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / VARIANCES.sqrt())


def factors(n: int, seed: int) -> Tensor:
    return VARIANCES.sqrt() * torch.randn(n, FACTORS, generator=torch.Generator().manual_seed(seed))


def factor_model(arm: str, budget: str, seed: int) -> Any:
    torch.manual_seed(seed)
    # told x / sqrt(alpha^2 + sigma^2) = x: scale 1
    base = denoisers.NetworkDenoiser(ExactNoise(), process(), "noise", (FACTORS,), scale=1.0)
    model = denoisers.ShiftedDenoiser(base, FactorBranch(), FactorEncoder(), mask(arm, FACTORS))
    split = data.TensorSplit(factors(20_000, 1000 + seed))
    world = data.Dataset("factors", split, data.TensorSplit(factors(100, 2000 + seed)), shape=(FACTORS,))
    return fitted(model, world, autoencoding(), SIZES[budget][0], 256, seed)


def explained(part: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """R^2 of each standardised factor by least squares on a part of the code, and the coefficients."""
    design = torch.cat([part, torch.ones(len(part), 1)], 1).double()
    weights = torch.linalg.lstsq(design, x.double()).solution
    return 1 - (x - design @ weights).var(0) / x.double().var(0), weights[:-1]


def order_and_edits(arm: str, budget: str, seed: int) -> dict[str, float]:
    """Rank correlation of each factor's part with the time at which it is lost, and how selective edits are."""
    from scipy.stats import spearmanr

    model = factor_model(arm, budget, seed)
    x = factors(4000, 3000 + seed)
    standard = x / VARIANCES.sqrt()
    split = conditions.TimeMasked.uniform(PARTS, FACTORS)
    with torch.no_grad():
        z = model.encoder(x)
    found = [explained(part, standard) for part in split.parts(z)]
    shares = torch.stack([r for r, _ in found])  # (parts, factors)
    peaks = shares.argmax(0)
    lost = [process().time_at(-0.5 * math.log(v)) for v in VARIANCES.tolist()]
    order = float(spearmanr(peaks, lost).statistic) if len(peaks.unique()) > 1 else 0.0
    return {"order": order, "selectivity": selectivity(model, z[:64], split, peaks, found, seed)}


def selectivity(
    model: Any, z: Tensor, split: Any, peaks: Tensor, found: list[tuple[Tensor, Tensor]], seed: int
) -> float:
    """The share of a change that falls on the target, where one part is moved along its own regression."""
    sampler = orn.Sampler(solvers.DDIM(), 20)

    def drawn(code: Tensor) -> Tensor:
        return sampler(model, len(code), seed=seed, code=code) / VARIANCES.sqrt()

    before, total = drawn(z), 0.0
    for factor, part in enumerate(peaks.tolist()):
        first, last = (int(split.starts[part + i]) for i in (0, 1))
        weights = found[part][1][:, factor].float()
        moved = z.clone()
        moved[:, first:last] += weights / weights.square().sum().clamp(min=1e-6)
        change = (drawn(moved) - before).abs().mean(0)
        total += float(change[factor] / change.sum().clamp(min=1e-9)) / FACTORS
    return total


# --- digits


@functools.cache
def digits_base(budget: str) -> Any:
    """One unconditional base for all seeds and both arms."""
    torch.manual_seed(0)
    network = networks.UNet(1, width=16, multipliers=(1, 2, 2))
    model = denoisers.NetworkDenoiser(network, process(), "noise", (1, 8, 8))
    return fitted(model, "digits", objectives.Denoising(), SIZES[budget][1], 64, 0)


def precision(arm: str, budget: str, seed: int) -> float:
    """Mean average precision over classes of a linear probe of codes, trained on few labels."""
    from sklearn.metrics import average_precision_score

    torch.manual_seed(seed)
    base = copy.deepcopy(digits_base(budget))
    branch, encoder = networks.ShiftBranch(base.network, CODE), networks.Encoder(1, CODE)
    model = denoisers.ShiftedDenoiser(base, branch, encoder, mask(arm, CODE))
    model = fitted(model, "digits", autoencoding(), SIZES[budget][2], 64, seed)
    scans = data.load("digits")
    labels = scans.train.fields["label"]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order[labels[order] == k][:LABELLED] for k in range(10)])
    with torch.no_grad():
        train, test = model.encoder(scans.train.x_0[rows]), model.encoder(scans.held_out.x_0)
    probs = diagnostics.linear_probe(train, labels[rows], 1e-2).logits(test).softmax(1)
    truth = scans.held_out.fields["label"]
    return sum(float(average_precision_score(truth == k, probs[:, k])) for k in range(10)) / 10


class DiTi(Claim):
    slug = "diti"
    statement = (
        f"A code in {PARTS} parts by stages of time (a) orders the factors of a Gaussian world by the noise at which "
        f"they are lost, rank correlation at least {ORDER}; (b) probes the classes of digits from {LABELLED} labels "
        f"each at least {100 * MARGIN:.0f} points of mean average precision better than one code of the same size; "
        "(c) edits by one part are more selective than by the same entries of that one code"
    )
    baseline = (
        "PDAE: the same encoder, branch, frozen base, loss, steps and seeds with one part. Its code is cut into as "
        "many parts for (a) and (c)"
    )
    effects = (
        Effect("order of parts: diti", of="diti order"),
        Effect("order of parts: pdae", of="pdae order"),
        Effect("selectivity of edits: diti - pdae", of="diti selectivity", against="pdae selectivity"),
        Effect("selectivity of edits: diti", of="diti selectivity"),
        Effect("mean average precision: diti - pdae", of="diti precision", against="pdae precision"),
        Effect("mean average precision: pdae", of="pdae precision"),
    )

    def measure(self, budget: str, seed: int, progress: Callable[..., None]) -> Mapping[str, float]:
        numbers: dict[str, float] = {}
        for i, arm in enumerate(ARMS):
            progress(0.5 * i, f"{arm}: factors")
            numbers |= {f"{arm} {k}": v for k, v in order_and_edits(arm, budget, seed).items()}
            progress(0.5 * i + 0.15, f"{arm}: digits")
            numbers[f"{arm} precision"] = precision(arm, budget, seed)
        return numbers

    def judge(self, effects: Mapping[str, Interval]) -> Verdict:
        order = effects["order of parts: diti"]
        parts = {
            "order": order.value >= ORDER and order.above(effects["order of parts: pdae"].value),
            "probe": effects["mean average precision: diti - pdae"].above(MARGIN),
            "edits": effects["selectivity of edits: diti - pdae"].above(0.0),
        }
        held, missed = ([k for k, v in parts.items() if v is yes] for yes in (True, False))
        told = f"held: {', '.join(held) or 'nothing'}; not: {', '.join(missed) or 'nothing'}"
        if not missed:
            return Verdict("reproduced", told)
        return Verdict("partly" if parts["order"] else "not reproduced", told)


claim = DiTi()

"""Probes: small classifiers on frozen features, and which block at which noise level serves them best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import Denoiser, Keyed, suggest
from .features import feature_names, pooled_features

__all__ = [
    "HEADS",
    "AttentionHead",
    "MLPHead",
    "Probe",
    "ProbeGrid",
    "head_probe",
    "linear_probe",
    "probe_grid",
]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


class Probe(NamedTuple):
    """A classifier of features: standardise, then `head`."""

    head: nn.Module
    mean: Tensor
    scale: Tensor

    def __repr__(self) -> str:
        return f"Probe({type(self.head).__name__} of {self.mean.shape[1]} features)"

    def logits(self, features: Tensor) -> Tensor:
        """(N, F) or (N, F, ...) -> (N, K)."""
        with torch.no_grad():
            found: Tensor = self.head(_standard(features, self.mean, self.scale))
        return found

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of samples whose likeliest class is their own."""
        found = self.logits(features).argmax(1)
        return float((found == labels.to(found.device)).double().mean())


def linear_probe(
    features: Tensor,
    labels: Tensor,
    penalty: float | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Probe:
    """Logistic regression on standardised features, to its optimum (L-BFGS):

        min_W,b  mean cross-entropy(W f + b, label) + penalty / 2 |W|^2.

    Args:
        features: (N, F).
        labels: (N,) class numbers.
        penalty: >= 0; None chooses from 1e-4 to 1e-1 by the validation cross-entropy.
        validation: features and labels that are neither trained nor judged on, for the choice.

    Raises:
        ValueError: neither a penalty nor validation data; a negative penalty; features that are not (N, F), or not
            finite.
    """
    _check(features, labels)
    if penalty is not None:
        if not 0 <= penalty < math.inf:
            raise ValueError(f"penalty: expected a finite number from 0 up, or None, got {penalty}")
        return _regression(features, labels, penalty)
    if validation is None:
        raise ValueError("validation: choosing a penalty needs features and labels beside those trained on")
    probes = [_regression(features, labels, p) for p in PENALTIES]
    held = validation[1].to(features.device)
    losses = [float(F.cross_entropy(p.logits(validation[0]), held)) for p in probes]
    return probes[losses.index(min(losses))]


def _regression(features: Tensor, labels: Tensor, penalty: float) -> Probe:
    mean, scale = _moments(features.double())  # in which the optimum is reached to many digits
    x, labels = _standard(features, mean, scale), labels.to(features.device)
    head = nn.Linear(x.shape[1], int(labels.max()) + 1, dtype=x.dtype, device=x.device)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    limits: dict[str, Any] = {
        "max_iter": 500,
        "history_size": 10,
        "tolerance_grad": 1e-7,
        "tolerance_change": 1e-12,
    }
    optimizer = torch.optim.LBFGS(head.parameters(), line_search_fn="strong_wolfe", **limits)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), labels) + 0.5 * penalty * head.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return Probe(head.requires_grad_(False), mean, scale)


class MLPHead(nn.Sequential):
    """W_2 gelu(W_1 f): the smallest head that is not linear."""

    def __init__(self, features: int, classes: int, width: int = 128) -> None:
        super().__init__(nn.Flatten(), nn.Linear(features, width), nn.GELU(), nn.Linear(width, classes))


class AttentionHead(nn.Module):
    """A learned query that attends to all places of a map (N, C, ...), and a linear layer on what it gathers."""

    def __init__(self, features: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.key_value = nn.Linear(features, 2 * width)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, C) -> (N, classes)."""
        keys, values = self.key_value(x.reshape(*x.shape[:2], -1).transpose(1, 2)).chunk(2, dim=2)
        weights = (keys @ self.query / math.sqrt(len(self.query))).softmax(1)
        return self.out((weights.unsqueeze(1) @ values).squeeze(1))


HEADS: dict[str, type[nn.Module]] = {"mlp": MLPHead, "attention": AttentionHead}


def head_probe(
    features: Tensor,
    labels: Tensor,
    head: str = "mlp",
    epochs: int = 15,
    batch: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Probe:
    """A head trained by Adam with a cosine schedule, the recipe of 2307.08702's successors (DDAE: 2303.09769).

    Args:
        features: (N, F) vectors, or maps (N, C, ...) for "attention".
        labels: (N,) class numbers.
        head: "mlp" or "attention".
        epochs: passes over the features.
        batch: samples a step.
        learning_rate: at the start.
        seed: of weights and order.

    Raises:
        ValueError: unknown head, or features that are not finite.
    """
    if head not in HEADS:
        raise ValueError(suggest(head, HEADS, "head"))
    _finite(features)
    flat = features.flatten(1) if head == "mlp" else features
    mean, scale = _moments(flat)
    x = _standard(flat, mean, scale)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        with torch.device("cpu"):  # where it is drawn the same for every device
            module = HEADS[head](x.shape[1], int(labels.max()) + 1)
        _descend(module.to(x), x, labels.to(x.device), epochs, batch, learning_rate)
    return Probe(module.requires_grad_(False), mean, scale)


def _descend(module: nn.Module, x: Tensor, labels: Tensor, epochs: int, batch: int, rate: float) -> None:
    optimizer = torch.optim.Adam(module.parameters(), rate)
    batches = [rows for _ in range(epochs) for rows in torch.randperm(len(x), device="cpu").split(batch)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for rows in batches:
        loss = F.cross_entropy(module(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


class ProbeGrid(NamedTuple):
    """Validation accuracy of a linear probe on every block at every noise level.

    Attributes:
        accuracy: {(block, t): share right on the validation split}.
        probes: {(block, t): the probe}.
        size: cells a side that features were pooled to.
    """

    accuracy: dict[tuple[str, float], float]
    probes: dict[tuple[str, float], Probe]
    size: int

    @property
    def best(self) -> tuple[str, float]:
        """The block and the time of the highest validation accuracy."""
        return max(self.accuracy, key=self.accuracy.__getitem__)

    def judge(self, denoiser: Denoiser, x_0: Tensor, labels: Tensor, seed: int = 1) -> float:
        """Accuracy of the best cell on samples that chose nothing, with noise of their own."""
        name, t = self.best
        noise = Keyed(seed, len(x_0)).fold("judged")
        found = pooled_features(denoiser, x_0, t, [name], noise, self.size)[name]
        return self.probes[self.best].accuracy(found, labels)

    def table(self) -> str:
        """Accuracies in per cent, a row a block and a column a time."""
        times = sorted({t for _, t in self.accuracy})
        names = list(dict.fromkeys(name for name, _ in self.accuracy))
        rows = ["block".ljust(12) + "".join(f"t={t:<7.3g}" for t in times)]
        for name in names:
            rows.append(name.ljust(12) + "".join(f"{100 * self.accuracy[name, t]:<9.1f}" for t in times))
        return "\n".join(rows)


def probe_grid(
    denoiser: Denoiser,
    x_0: Tensor,
    labels: Tensor,
    times: Sequence[float],
    names: Sequence[str] | None = None,
    validation: float = 0.2,
    size: int = 1,
    seed: int = 0,
    penalty: float | None = None,
) -> ProbeGrid:
    """Linear probes over blocks and noise levels, judged on a validation share of the samples given.

    Never hand it the test set: the choice of block and level is part of fitting. Each sample has one noise draw, and
    training and validation see the same t.

    Args:
        denoiser: whose network is read.
        x_0: (N, ...), in an order that is no order.
        labels: (N,) class numbers.
        times: noise levels, as times of the process.
        names: blocks; all by default.
        validation: share of the samples, from the end, that penalty, block and time are chosen on.
        size: cells a side that maps are pooled to.
        seed: of the noise.
        penalty: of the probes; None chooses one for each cell on the validation share.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: expected a share in (0, 1), got {validation}")
    cut = len(x_0) - round(validation * len(x_0))
    accuracy: dict[tuple[str, float], float] = {}
    probes: dict[tuple[str, float], Probe] = {}
    for t in times:
        noise = Keyed(seed, len(x_0))
        found = pooled_features(denoiser, x_0, t, names or feature_names(denoiser), noise, size)
        for name, value in found.items():
            held = value[cut:], labels[cut:]
            probe = linear_probe(value[:cut], labels[:cut], penalty, held)
            probes[name, t], accuracy[name, t] = probe, probe.accuracy(*held)
    return ProbeGrid(accuracy, probes, size)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, places of a map counted as samples."""
    axes = [0, *range(2, x.ndim)]
    spread = x.std(axes, correction=0, keepdim=True)
    return x.mean(axes, keepdim=True), torch.where(spread > 1e-8, spread, 1.0)


def _standard(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((x.flatten(1) if mean.ndim == 2 else x) - mean) / scale


def _check(features: Any, labels: Any) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features: expected (N, F) with labels (N,), got {tuple(features.shape)} and {tuple(labels.shape)}; "
            "pool maps first"
        )
    _finite(features)


def _finite(features: Tensor) -> None:
    bad = ~features.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"features: expected finite numbers, got others in {int(bad.sum())} of {len(bad)} rows"
        )

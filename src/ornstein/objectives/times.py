"""Which times a loss is evaluated at: pieces of an objective, drawn from noise that is keyed by row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Module, Noise, align

__all__ = [
    "ClampedAbove",
    "LogNormalSigma",
    "LogitNormal",
    "PerBlock",
    "SharedTime",
    "TimeSampler",
    "UniformTime",
]


class TimeSampler(Module):
    """sampler(process, x_0, noise) -> times (B,) in float64 for a leaf x_0 (B, ...): one for every sample.

    A subclass gives `drawn`, as many times as `like` has entries.
    """

    def forward(self, process: Any, x_0: Tensor, noise: Noise) -> Tensor:
        """The times of a leaf."""
        return self.drawn(process, torch.empty(len(x_0), device=x_0.device), noise.fold("time"))

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """Times of the shape of `like` (B, ...), from a source that is this sampler's own."""
        raise NotImplementedError


class UniformTime(TimeSampler):
    """Uniform on (first, 1).

    Args:
        first: smallest time, in [0, 1).

    Raises:
        ValueError: a time outside [0, 1).
    """

    def __init__(self, first: float = 1e-3) -> None:
        super().__init__()
        if not 0 <= first < 1:
            raise ValueError(f"first: expected a number in [0, 1), got {first}")
        self.first = first

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """first + (1 - first) u."""
        return self.first + (1 - self.first) * noise.uniform(like).double()


class LogitNormal(TimeSampler):
    """t = 1 / (1 + e^-(mean + std n)), n standard normal: most often in the middle, of stable diffusion 3 (Esser et al.
    2024, 2403.03206).

    Args:
        mean: of the logit; positive is noisier.
        std: of the logit, positive.

    Raises:
        ValueError: std is not positive.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = float(mean), _positive(std)

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """The logistic function of a normal number."""
        return (self.mean + self.std * noise.normal(like).double()).sigmoid()


class LogNormalSigma(TimeSampler):
    """The time at which log(sigma / alpha) is N(mean, std^2): of EDM (Karras et al. 2022, 2206.00364, table 1), with
    that table's defaults, on any affine process. Levels beyond the process's own are its ends.

    Args:
        mean: of log(sigma / alpha), natural logarithm.
        std: positive.

    Raises:
        ValueError: std is not positive; a process without a log-SNR.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        super().__init__()
        self.mean, self.std = float(mean), _positive(std)

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """half log-SNR = -(mean + std n)."""
        if not isinstance(process, AffineProcess):
            raise ValueError(f"LogNormalSigma: {type(process).__name__} has no log-SNR; use UniformTime()")
        half_log_snr = -(self.mean + self.std * noise.normal(like).double())
        return torch.as_tensor(process.time_at(half_log_snr))


class ClampedAbove(TimeSampler):
    """max(t, lowest) of another sampler's times: smaller ones are moved up to `lowest`, not drawn again.

    Items that sit at a level of their own (`level` in the batch) are clamped so by `Denoising` itself.

    Args:
        base: whose times they are.
        lowest: in [0, 1).

    Raises:
        ValueError: a time outside [0, 1).
    """

    def __init__(self, base: TimeSampler, lowest: float) -> None:
        super().__init__()
        if not 0 <= lowest < 1:
            raise ValueError(f"lowest: expected a number in [0, 1), got {lowest}")
        self.base, self.lowest = base, lowest

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """The base's, clamped."""
        return self.base.drawn(process, like, noise).clamp(min=self.lowest)


class SharedTime(TimeSampler):
    """One time for the whole batch, the one that the base draws for its first row: for terms that compare samples.

    Among several processes each has the time of its own first row.
    """

    def __init__(self, base: TimeSampler) -> None:
        super().__init__()
        self.base = base

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """The first row's, for all."""
        return self.base.drawn(process, like[:1], noise[:1]).expand(like.shape).clone()


class PerBlock(TimeSampler):
    """A time for each block of a sample, aligned from the left with its leaf.

    Args:
        base: how each is drawn.
        size: entries of a block along each axis of the event; None for a whole axis that shares its times. For tokens
            (B, L, d), (4, None) draws a time for every four tokens; for images (B, C, H, W), (None, 1, 1) draws one
            for every pixel.

    Raises:
        ValueError: a size below 1, or another number of axes than the event has.
    """

    def __init__(self, base: TimeSampler, size: tuple[int | None, ...]) -> None:
        super().__init__()
        if any(n is not None and n < 1 for n in size):
            raise ValueError(f"size: expected positive numbers of entries or None, got {size}")
        self.base, self.size = base, tuple(size)

    def forward(self, process: Any, x_0: Tensor, noise: Noise) -> Tensor:
        """(B, ...) with 1 for an axis that is shared."""
        event = x_0.shape[1:]
        if len(event) != len(self.size):
            raise ValueError(f"PerBlock(size={self.size}): samples have {len(event)} axes, {tuple(event)}")
        counts = [1 if n is None else math.ceil(axis / n) for n, axis in zip(self.size, event, strict=True)]
        like = torch.empty(len(x_0), *counts, device=x_0.device)
        return self.spread(self.base.drawn(process, like, noise.fold("time")), event)

    def spread(self, t: Tensor, event: torch.Size) -> Tensor:
        """Each block's time at every entry of it."""
        for axis, (n, length) in enumerate(zip(self.size, event, strict=True), 1):
            if n is not None:
                t = t.repeat_interleave(n, axis).narrow(axis, 0, length)
        return t

    def drawn(self, process: Any, like: Tensor, noise: Noise) -> Tensor:
        """The base's."""
        return self.base.drawn(process, like, noise)


def later(t: Tensor, level: Tensor) -> Tensor:
    """max(t, level) for times (B,) or aligned with a leaf, and levels (B,)."""
    return torch.maximum(t, align(level.to(t), t))


def _positive(std: float) -> float:
    if not std > 0:
        raise ValueError(f"std: expected a positive number, got {std}")
    return float(std)

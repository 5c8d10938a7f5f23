"""Contrastive self-distillation beside denoising: two noisy views of a sample are to have like features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Denoiser, Losses, Noise, suggest
from ornstein.networks.taps import inner_network, tap_names, tapped

from .denoising import Seen
from .places import places
from .regularised import Term, nothing_per_sample
from .times import UniformTime

__all__ = ["Contrastive", "info_nce"]


def info_nce(queries: Tensor, keys: Tensor, temperature: float = 0.2) -> Tensor:
    """-mean_i log softmax_j(<q_i, k_j> / temperature)_i of unit vectors, in nats.

    0 where each query is nearest to its own key and the temperature goes to 0; log B where the temperature goes to
    infinity. Van den Oord et al. 2018 (arXiv 1807.03748).

    Args:
        queries: (B, F); made unit here.
        keys: (B, F), of the same samples.
        temperature: > 0.
    """
    similarity = F.normalize(queries) @ F.normalize(keys).T
    return F.cross_entropy(similarity / temperature, torch.arange(len(keys), device=keys.device))


class Contrastive(Term):
    """weight * InfoNCE between a block's pooled features and those of an averaged teacher, a term of `Regularised`.

    The student's features are of the very pass that the loss makes: its view is x_t at the time drawn there. The
    teacher, an exponential moving average of network and head, sees another view at another time under other noise, in
    a pass without gradients. The term sees the batch, so it is in `Losses.batch`. The teacher is neither optimised nor
    used to sample, but saved with the run, since a resumed run needs it.

    DDAE++ (Xiang et al. 2025, arXiv 2505.10999) after MoCo v3 (2104.02057); weight and temperature are choices here.

    Args:
        denoiser: what will be trained: a network with the block `at`.
        at: the block whose pooled features are compared: see `networks.tap_names`.
        features: channels of that block's output.
        weight: of the term, >= 0.
        temperature: of InfoNCE, > 0.
        decay: of the teacher's average, in [0, 1]; 0 is the student itself.
        width: of the head and its output.
        view: (x_0, noise) -> another view of the same samples, for the teacher; the samples themselves if None.

    Raises:
        ValueError: a number out of range, or an unknown block; in use, a block of other channels.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        at: str,
        features: int,
        weight: float = 0.05,
        temperature: float = 0.2,
        decay: float = 0.99,
        width: int = 64,
        view: Callable[[Tensor, Noise], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not weight >= 0 or not temperature > 0 or not 0 <= decay <= 1:
            raise ValueError(
                f"expected weight >= 0, temperature > 0 and decay in [0, 1], got {weight}, {temperature}, {decay}"
            )
        _check_block(denoiser, at)
        self.at, self.layers, self.view, self.features = at, (at,), view, features
        self.weight, self.temperature, self.decay = weight, temperature, decay
        self.head = nn.Sequential(nn.Linear(features, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.teacher = copy.deepcopy(nn.ModuleList([denoiser, self.head])).requires_grad_(False)

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """The term, of the batch."""
        if self.training and torch.is_grad_enabled():
            self.follow(model)
        queries = self.head(self._pooled(seen.features[self.at]))
        term = self.weight * info_nce(queries, self.keys(seen.x_0, noise.fold("teacher")), self.temperature)
        return Losses(nothing_per_sample(seen), {}, {"contrastive": term})

    @torch.no_grad()
    def keys(self, x_0: Tensor, noise: Noise) -> Tensor:
        """The teacher's features (B, width) of its own view."""
        teacher: Any
        head: Any
        teacher, head = self.teacher.eval()
        x_0 = x_0 if self.view is None else self.view(x_0, noise.fold("view"))
        t = UniformTime()(teacher.process, x_0, noise)
        with tapped(teacher, [self.at]) as taken:
            teacher(teacher.process.marginal(x_0, t).sample(noise.fold("state")), t)
        keys: Tensor = head(self._pooled(taken[self.at]))
        return keys

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """teacher <- decay teacher + (1 - decay) student."""
        student = [*model.parameters(), *self.head.parameters()]
        ours = [p.data for p in self.teacher.parameters()]
        torch._foreach_lerp_(ours, [p.data for p in student], 1 - self.decay)

    def _pooled(self, h: Tensor) -> Tensor:
        """The mean over places: blocks of transformers give tokens, those of U-Nets maps."""
        tokens = self.at.startswith("blocks.")
        return places(h, self.features, f"at={self.at!r}", tokens).mean(1)


def _check_block(denoiser: nn.Module, at: str) -> None:
    network = inner_network(denoiser)
    if not at or at not in dict(network.named_modules()):
        raise ValueError(f"at: {suggest(at, tap_names(network), 'module')}")

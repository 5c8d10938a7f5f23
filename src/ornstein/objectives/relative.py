"""Fine-tuning on few images: keep the relations between samples, and their details (DomainStudio, 2306.14153)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Losses, Noise, suggest, sum_event

from .denoising import Seen
from .regularised import Term, nothing_per_sample

__all__ = ["HighFrequency", "PairwiseSimilarity", "haar", "similarities"]

SPACES = ("image", "haar")
BANDS = ("each", "sum")


def haar(x: Tensor) -> Tensor:
    """The orthonormal Haar transform of 2 x 2 blocks, (B, C, H, W) -> (4, B, C, H / 2, W / 2): LL, LH, HL, HH.

    With a b over c d: LL = (a + b + c + d) / 2, LH = (-a - b + c + d) / 2, HL = (-a + b - c + d) / 2,
    HH = (a - b - c + d) / 2.

    Raises:
        ValueError: not images, or odd sides.
    """
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"haar: expected images (B, C, H, W) with even sides, got {tuple(x.shape)}")
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return 0.5 * torch.stack([a + b + c + d, c + d - a - b, b + d - a - c, a + d - b - c])


def _details(x: Tensor, bands: str) -> Tensor:
    """The three fine bands, (B, ...): "each", or their "sum" as the released code has it."""
    fine = haar(x)[1:]
    return fine.sum(0) if bands == "sum" else fine.transpose(0, 1)


def similarities(x: Tensor) -> Tensor:
    """log softmax over j != i of the cosine of x_i and x_j, (B, B - 1): how sample i lies among the others."""
    flat = F.normalize(x.flatten(1), dim=1)
    n = len(flat)
    others = ~torch.eye(n, dtype=torch.bool, device=x.device)
    return (flat @ flat.T)[others].reshape(n, n - 1).log_softmax(1)


class PairwiseSimilarity(Term):
    """weight times the mean over i of KL(q_i || p_i): p_i says how the clean estimate of sample i lies among those of
    the batch, q_i the same of a frozen reference at the same states and times.

    The published weights belong to a KL that is also divided by the number of others: 4 there is 4 / (B - 1) here. In a
    batch of two there is nothing to compare and the term is 0.

    Args:
        reference: the source model, a denoiser that is not trained; its copy, where it is the one that is fine-tuned.
        space: "image", or "haar" for the fine bands of the estimates.
        weight: >= 0.
        bands: of "haar": "each" of the three, or their "sum" as in the released code, which is one signed difference a
            block and sees no diagonal edge of one of the two directions.

    Raises:
        ValueError: unknown space or bands, a negative weight; in use, a reference that is the model itself.
    """

    def __init__(
        self, reference: nn.Module, space: str = "image", weight: float = 1.0, bands: str = "each"
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise ValueError(suggest(space, SPACES, "space"))
        self.space, self.weight, self.bands = space, _weight(weight), _bands(bands)
        self.reference, self.references = reference, (reference,)

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """The term of the batch."""
        if self.reference is model:
            raise ValueError("reference: is the model that is trained; pass a copy, copy.deepcopy(model)")
        with torch.no_grad():
            source = self._log_similarities(self.reference(seen.x_t, seen.t, seen.condition).mean)
        adapted = self._log_similarities(seen.posterior.mean)
        kl = (source.exp() * (source - adapted)).sum(1).mean()
        return Losses(nothing_per_sample(seen), {}, {"similarity": self.weight * kl})

    def _log_similarities(self, mean: Tensor) -> Tensor:
        return similarities(_details(mean, self.bands) if self.space == "haar" else mean)


class HighFrequency(Term):
    """weight |h(D) - h(x_0)|^2 / dim of the fine Haar bands h: reconstruction of details alone, whatever the level.

    Args:
        weight: >= 0.
        bands: "each" of the three, or their "sum" as in the released code.

    Raises:
        ValueError: a negative weight or unknown bands.
    """

    def __init__(self, weight: float = 1.0, bands: str = "each") -> None:
        super().__init__()
        self.weight, self.bands = _weight(weight), _bands(bands)

    def of(self, model: Any, seen: Seen, noise: Noise) -> Losses:
        """Sample by sample."""
        gap = _details(seen.posterior.mean, self.bands) - _details(seen.x_0, self.bands)
        return Losses(self.weight * sum_event(gap**2) / gap[0].numel(), {}, {})


def _weight(weight: float) -> float:
    if not weight >= 0:
        raise ValueError(f"weight: expected at least 0, got {weight}")
    return float(weight)


def _bands(bands: str) -> str:
    if bands not in BANDS:
        raise ValueError(suggest(bands, BANDS, "bands"))
    return bands

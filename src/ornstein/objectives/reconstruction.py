"""What a learned codec is trained on: pixels, their differences, features of a classifier, a regular latent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Losses, Noise, Objective, sum_event

__all__ = ["Reconstruction", "gradient_distance", "perceptual_distance"]

SCALES = 3  # of differences
COMMITMENT = 0.25  # of the encoder to the codes (van den Oord et al. 2017, 1711.00937)


class Reconstruction(Objective):
    """The loss of latent diffusion's first stage (Rombach et al. 2021, 2112.10752), without its adversary,

        (|x - D(z)|_1 + (w P + g G)(x, D(z)) dim) / e^l + l dim + kl KL(N(mean, var) || N(0, I)),    z = mean + std n,

    per entry of the image, with a scalar l that is learned or held at 0; P is `perceptual_distance` in the features of
    a classifier and G the `gradient_distance`. For a vector-quantised codec the last term is
    |sg(z) - c|^2 + 0.25 |z - sg(c)|^2, c being the codes nearest to z.

    The paper's P is LPIPS, in a network trained on photographs, and from step 50,001 it adds a patch
    discriminator: a small classifier of the same data stands in for the first, nothing for the second.

    Args:
        classifier: whose features are compared, a `networks.Classifier`; None compares pixels alone.
        perceptual: weight w.
        kl: weight of the divergence.
        gradients: weight g.
        learn_scale: whether l is learned. The released code of the paper has it among the parameters, but gives its
            optimiser only those of encoder and decoder, so that it stays at 0.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self,
        classifier: nn.Module | None = None,
        perceptual: float = 1.0,
        kl: float = 1e-6,
        gradients: float = 0.0,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("perceptual", perceptual), ("kl", kl), ("gradients", gradients)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        self.perceptual, self.kl, self.gradients = perceptual, kl, gradients
        self.classifier = classifier
        self.references = () if classifier is None else (classifier,)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learn_scale)

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch; `model` has a `codec`."""
        if not hasattr(model, "codec"):
            raise TypeError(
                f"Reconstruction trains a denoisers.Reconstructor(codec), got {type(model).__name__}"
            )
        x, codec = batch["x_0"], model.codec
        law = codec.law(x)
        z, regular = self._latent(codec, law, noise)
        shown = codec.reconstructed(z)
        named = {"pixels": sum_event((shown - x).abs()) / x[0].numel()}
        if self.classifier is not None:
            named["features"] = self.perceptual * perceptual_distance(self.classifier, shown, x)
        if self.gradients:
            named["gradients"] = self.gradients * gradient_distance(shown, x)
        fit = torch.stack(list(named.values())).sum(0)
        named["regular"] = regular / x[0].numel()
        return Losses(fit / self.log_scale.exp() + self.log_scale + named["regular"], named, {})

    def _latent(self, codec: Any, law: Any, noise: Noise) -> tuple[Tensor, Tensor]:
        """The latent to decode, and what keeps it regular, (B,)."""
        if codec.kind == "kl":
            return law.sample(noise.fold("latent")), self.kl * codec.divergence(law)
        z, codes = law.mean, codec.nearest(law.mean)
        gap = sum_event((codes - z.detach()) ** 2) + COMMITMENT * sum_event((codes.detach() - z) ** 2)
        return z + (codes - z).detach(), gap  # gradients pass the quantiser straight through


def gradient_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean over scales 1, 1/2 and 1/4 of the mean of |d_h (x - y)| and |d_v (x - y)|, (B,).

    d_h and d_v are differences of neighbouring pixels, so that an edge in the wrong place costs more than a wrong
    level; coarser scales are means of 2 x 2 pixels (the gradient term of Mathieu et al. 2015, 1511.05440, at several
    scales as in Ranftl et al. 2019, 1907.01341). Images of fewer than 8 pixels a side have fewer scales.
    """
    gap, terms = x - y, []
    for _ in range(SCALES):
        if min(gap.shape[-2:]) < 2:
            break
        terms += [gap.diff(dim=axis).abs().flatten(1).mean(1) for axis in (-1, -2)]
        gap = F.avg_pool2d(gap, 2)
    return torch.stack(terms).mean(0)


def perceptual_distance(classifier: Any, x: Tensor, y: Tensor) -> Tensor:
    """Mean over a classifier's layers of |f(x) - f(y)|^2, f of unit length at each position, (B,).

    The form of LPIPS (Zhang et al. 2018, 1801.03924) with all weights equal, in another network.
    """
    gaps = [
        ((a - b) ** 2).sum(1).flatten(1).mean(1)
        for a, b in zip(_features(classifier, x), _features(classifier, y), strict=True)
    ]
    return torch.stack(gaps).mean(0)


def _features(classifier: Any, x: Tensor) -> Iterator[Tensor]:
    """The activations of each layer, of unit length over channels."""
    for layer in classifier.body:
        x = layer(x)
        if isinstance(layer, nn.SiLU):
            yield x / (x.norm(dim=1, keepdim=True) + 1e-6)

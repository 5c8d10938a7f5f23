"""What a learned codec is trained on: pixels, features of a classifier, and a regular latent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Losses, Noise, Objective, sum_event

__all__ = ["Reconstruction", "perceptual_distance"]

COMMITMENT = 0.25  # of the encoder to the codes (van den Oord et al. 2017, 1711.00937)


class Reconstruction(Objective):
    """The loss of latent diffusion's first stage (Rombach et al. 2021, 2112.10752), without its adversary,

        (|x - D(z)|_1 + w P(x, D(z)) dim) / e^l + l dim + kl KL(N(mean, var) || N(0, I)),        z = mean + std n,

    per entry of the image, with a learned scalar l; P is `perceptual_distance` in the features of a classifier.
    For a vector-quantised codec the last term is |sg(z) - c|^2 + 0.25 |z - sg(c)|^2, c being the codes nearest to z.

    The paper's P is LPIPS, in a network trained on photographs, and from step 50,001 it adds a patch
    discriminator: a small classifier of the same data stands in for the first, nothing for the second.

    Args:
        classifier: whose features are compared, a `networks.Classifier`; None compares pixels alone.
        perceptual: weight w.
        kl: weight of the divergence.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self, classifier: nn.Module | None = None, perceptual: float = 1.0, kl: float = 1e-6
    ) -> None:
        super().__init__()
        for name, value in (("perceptual", perceptual), ("kl", kl)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        self.perceptual, self.kl = perceptual, kl
        self.classifier = classifier
        self.references = () if classifier is None else (classifier,)
        self.log_scale = nn.Parameter(torch.zeros(()))

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

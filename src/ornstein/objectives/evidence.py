"""The bound that a variational autoencoder is trained on."""

from __future__ import annotations

import math
from typing import Any

from ornstein.core import Losses, Noise, Objective, sum_event

__all__ = ["EvidenceBound"]


class EvidenceBound(Objective):
    """-log p(x) <= E_q[|x - D(z)|^2] / (2 v) + (dim / 2) log(2 pi v) + KL(q(z | x) || N(0, I)), in nats a sample

    (Kingma and Welling 2013, 1312.6114), of a "kl" codec: q = N(mean, var) as its encoder says, D its decoder. The sum
    over pixels of squared errors of data in [0, 1] plus the divergence, as DiffuseVAE trains (2201.00308), is v = 1/2,
    which for data in [-1, 1] is v = 2.

    Args:
        variance: v of the decoder.
        kl: weight of the divergence; only at 1 this is a bound.

    Raises:
        ValueError: a variance that is not positive, or a negative weight.
    """

    def __init__(self, variance: float = 2.0, kl: float = 1.0) -> None:
        super().__init__()
        if not variance > 0 or not kl >= 0:
            raise ValueError(f"expected variance > 0 and kl >= 0, got {variance} and {kl}")
        self.variance, self.kl = float(variance), float(kl)

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch; `model` has a `codec` of kind "kl"."""
        codec: Any = getattr(model, "codec", None)
        if getattr(codec, "kind", None) != "kl":
            raise TypeError(f"EvidenceBound trains a denoisers.Reconstructor of a 'kl' codec, got {model!r}")
        x = batch["x_0"]
        law = codec.law(x)
        shown = codec.reconstructed(law.sample(noise.fold("latent")))
        volume = 0.5 * x[0].numel() * math.log(2 * math.pi * self.variance)
        named = {
            "error": sum_event((shown - x) ** 2) / (2 * self.variance) + volume,
            "divergence": self.kl * codec.divergence(law),
        }
        return Losses(named["error"] + named["divergence"], named, {})

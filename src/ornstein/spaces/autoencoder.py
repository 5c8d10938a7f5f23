"""A learned codec: diffusion in the latent space of an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Condition, Gaussian, suggest

from .codec import Codec

__all__ = ["AutoencoderCodec"]

KINDS = ("kl", "vq")
LOWEST, HIGHEST = -30.0, 20.0  # of the log-variance


class AutoencoderCodec(Codec):
    """Data as latents of an autoencoder, of unit variance on a batch that it was calibrated on:

        encode(x) = mean(x) / scale,        decode(z) = D(scale z)

    "kl": the encoder gives N(mean, var), the log-variance held in [-30, 20]; `law` is that, and `encode` its mean.
    "vq": the encoder gives points, and the quantiser belongs to the decoder: D(c(scale z)), c the nearest of
    `codes` learned vectors, so that diffusion sees a continuous latent.

    The network works in the precision of its weights, or of an autocast; codes and data have that of what is given.

    What the decoder loses no sampler brings back: judge samples beside reconstructions. The map is not invertible,
    so densities of latents say nothing about densities of data, and `log_abs_det` refuses.

    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021 (arXiv 2112.10752).

    Args:
        network: `networks.Autoencoder`, or another module with `encoder` and `decoder`; with moments for "kl".
        kind: "kl" or "vq".
        codes: how many vectors "vq" has.

    Raises:
        ValueError: unknown kind, or a network whose encoder gives what this kind does not read.
    """

    scale: Tensor

    def __init__(self, network: nn.Module, kind: str = "kl", codes: int = 256) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(suggest(kind, KINDS, "kind"))
        inner: Any = network
        if inner.moments != (kind == "kl"):
            raise ValueError(f"network: {kind!r} needs moments={kind == 'kl'}, this one has {inner.moments}")
        if not isinstance(codes, int) or codes < 2:
            raise ValueError(f"codes: expected an integer of at least 2, got {codes!r}")
        self.network, self.kind = inner, kind
        self.book = nn.Parameter(torch.randn(codes, inner.latent) / codes) if kind == "vq" else None
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, C, H, W) to latents (B, c, H / f, W / f)."""
        return self.law(x).mean / self.scale

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Latents back to data."""
        points = z * self.scale
        return self.reconstructed(points if self.book is None else self.nearest(points))

    def calibrate(self, x: Tensor) -> AutoencoderCodec:
        """Set the scale to the standard deviation of the latents of these data, drawn from their laws."""
        with torch.no_grad():
            law = self.law(x)
            spread = law.mean.var(correction=0) + torch.as_tensor(law.scale, dtype=x.dtype).square().mean()
        self.scale.copy_(spread.sqrt())
        return self

    # --- what it is trained with

    def law(self, x: Tensor) -> Gaussian:
        """The law of the latent before scaling: N(mean, var), a point for "vq"."""
        found = self.network.encoder(x.to(self._dtype)).to(x.dtype)  # a law has its data's digits
        if self.kind == "vq":
            return Gaussian(found)
        mean, log_variance = found.chunk(2, dim=1)
        return Gaussian(mean, (0.5 * log_variance.clamp(LOWEST, HIGHEST)).exp())

    def divergence(self, law: Gaussian) -> Tensor:
        """KL(N(mean, var) || N(0, I)) in nats, (B,)."""
        return law.kl(Gaussian(torch.zeros_like(law.mean), 1.0))

    def nearest(self, points: Tensor) -> Tensor:
        """The code nearest to the point at each position."""
        assert self.book is not None
        rows = points.movedim(1, -1)
        exact = "donot_use_mm_for_euclid_dist"  # squares that cancel would choose other codes where values are large
        gaps = torch.cdist(rows.flatten(0, -2), self.book.to(points.dtype), compute_mode=exact)
        chosen = gaps.argmin(1)
        return self.book[chosen].reshape(rows.shape).movedim(-1, 1).to(points.dtype)

    def reconstructed(self, points: Tensor) -> Tensor:
        """The decoder's image of latents before scaling."""
        shown: Tensor = self.network.decoder(points.to(self._dtype)).to(points.dtype)
        return shown

    @property
    def _dtype(self) -> torch.dtype:
        """What the network's weights are in."""
        return next(self.network.parameters(), self.scale).dtype

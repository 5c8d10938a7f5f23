"""The autoencoder of a latent model of diffusers as a codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Gaussian
from ornstein.spaces import Codec

__all__ = ["LatentCodec"]


class LatentCodec(Codec):
    """Images in [-1, 1] as latents of diffusers' AutoencoderKL:

        encode(x) = (mean(x) - shift) scale,        decode(z) = D(z / scale + shift)

    scale and shift are `scaling_factor` and `shift_factor` of its config; where the config has a mean and a standard
    deviation for every channel of the latents, these are the shift, and scaling_factor / deviation the scale.

    Args:
        vae: diffusers.AutoencoderKL.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        config = vae.config
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        shift = mean or [config.get("shift_factor") or 0.0]
        scale = [config.scaling_factor / value for value in deviation or [1.0]]
        for name, values in (("shift", shift), ("scale", scale)):
            column = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    @property
    def pixels(self) -> int:
        """Pixels of an image for each of a latent, along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to latents (B, c, H / f, W / f)."""
        mean: Tensor = self.law(x).mean
        return (mean - self.shift) * self.scale

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Latents to images."""
        images: Tensor = self.vae.decode((z / self.scale + self.shift).to(self.vae.dtype)).sample
        return images.to(z.dtype)

    def law(self, x: Tensor) -> Gaussian:
        """The law of the latent before shift and scale."""
        found = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        return Gaussian(found.mean.to(x.dtype), found.std.to(x.dtype))

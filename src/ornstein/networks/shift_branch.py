"""A trainable second decoder on a frozen U-Net, told a code of the clean picture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .checks import check_positive
from .norms import zeroed
from .unet import UNet

__all__ = ["ShiftBranch"]


class ShiftBranch(Module):
    """G(x_t, t, z): the frozen encoder half's maps, decoded by blocks of its own that also see the code z.

    Middle and decoder start as copies of the frozen ones, the output at zero, so that G = 0. The frozen network's
    `taps` are all it needs of it: its half is computed once for both. Zhang et al., "Unsupervised Representation
    Learning from Pre-trained Diffusion Probabilistic Models", 2022 (arXiv 2212.12990).

    Args:
        network: the frozen U-Net; read here, not kept.
        code: entries of z.
    """

    def __init__(self, network: UNet, code: int) -> None:
        super().__init__()
        check_positive(code=code)
        if not isinstance(network, UNet):
            raise ValueError(
                f"network: expected a UNet, whose encoder half is shared, got {type(network).__name__}"
            )
        own: Any = nn.Module()
        for name in ("middle", "up", "decoder", "norm"):
            setattr(own, name, copy.deepcopy(getattr(network, name)).requires_grad_(True))
        self.own, self.code = own, code
        self.out = zeroed(copy.deepcopy(network.out).requires_grad_(True))
        self.told = nn.Linear(code, network.conditioning.width)
        self.encoder_names = tuple(f"encoder.{i}" for i in range(len(network.encoder)))

    @property
    def taps(self) -> tuple[str, ...]:
        """Modules of the frozen network whose outputs `forward` reads."""
        return (*self.encoder_names, "conditioning")

    def forward(self, taken: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """G, of the state's shape.

        Args:
            taken: outputs of the modules `taps`.
            z: codes (B, code).
        """
        c = F.silu(taken["conditioning"] + self.told(z))
        *skips, x = (taken[name] for name in self.encoder_names)
        x = self.own.middle(x, c)
        for up, stage in zip(self.own.up, self.own.decoder, strict=True):
            skip = skips.pop()
            x = stage(skip + F.interpolate(up(x), size=skip.shape[2:]), c)
        shift: Tensor = self.out(F.silu(self.own.norm(x)))
        return shift

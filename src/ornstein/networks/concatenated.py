"""An image as condition: joined to the state along the channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .around import Around
from .checks import check_positive

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["Concatenated"]

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Concatenated(Around):
    """A network that sees a further image beside its state: network([x, image, present]).

    An image of another size is brought to the state's by linear interpolation. The last channel is 1 in rows that
    have an image and 0 in rows that have none, whose image is 0: so one network is conditional and unconditional.
    This is the conditioning of SR3 (Saharia et al. 2021, 2104.07636) and of latent diffusion (2112.10752).

    Args:
        network: of `channels` + the image's channels + 1 channels in and `channels` out, such as
            `UNet(3, out_channels=1)` for one grey image given another.
        channels: channels of the state.
        field: the condition field that holds the image, (B, C, ...).

    Raises:
        ValueError: a network too narrow to see an image, or an image that does not fit.
    """

    def __init__(self, network: nn.Module, channels: int, field: str = "measurement") -> None:
        super().__init__(network)
        check_positive(channels=channels)
        self.channels, self.field = channels, field
        seen = self.network.channels
        self.given = seen - channels - 1
        if self.given < 1:
            raise ValueError(
                f"network: sees {seen} channels; needed are {channels} of the state, those of the image, "
                "and 1 that says whether there is one"
            )

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return super().fields | {self.field}

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None, **options: Any) -> Tensor:
        """(B, channels, ...) -> (B, channels, ...), for levels (B,)."""
        seen = torch.cat([x, *self._image(x, condition)], dim=1)
        output: Tensor = self.network(seen, level, condition, **options)
        return output

    def _image(self, x: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """The image at the state's size, and the mask of rows that have one."""
        if condition is None or self.field not in condition:
            return x.new_zeros(len(x), self.given, *x.shape[2:]), torch.zeros_like(x[:, :1])
        image = condition[self.field].to(x)
        if image.ndim != x.ndim or image.shape[1] != self.given:
            raise ValueError(
                f"{self.field}: expected {self.given} channels and {x.ndim - 2} axes of space, got samples of shape "
                f"{tuple(image.shape[1:])}"
            )
        if image.shape[2:] != x.shape[2:]:
            image = F.interpolate(image, size=x.shape[2:], mode=LINEAR[x.ndim - 2], align_corners=False)
        present = condition.present[self.field].to(x).reshape(-1, *[1] * (x.ndim - 1))
        return image * present, present.expand_as(x[:, :1])

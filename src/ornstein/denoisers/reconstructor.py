"""A codec as a denoiser of clean data, so that the one training loop trains it too."""

from __future__ import annotations

from typing import Any

from ornstein.core import Condition, Posterior, Step, Time, Tree
from ornstein.processes import RectifiedFlow

from .pretrained import Pretrained

__all__ = ["Reconstructor"]


class Reconstructor(Pretrained):
    """The posterior mean of x_0 is its reconstruction: decode(encode(x)), whatever the time. It cannot be sampled.

    `orn.fit(Reconstructor(codec), data, objectives.Reconstruction(classifier), steps=..., sample_every=0)` trains
    a codec; its files are those of any model, and `orn.load(folder).codec` gives it back.

    Args:
        codec: a codec with parameters, such as `spaces.AutoencoderCodec`.
        shape: event shape of the data.

    Raises:
        TypeError: it is sampled.
    """

    def __init__(self, codec: Any, shape: Any = None) -> None:
        super().__init__()
        self.codec, self.process = codec, RectifiedFlow()
        self.shape = None if shape is None else tuple(shape)

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """One pass through the codec."""
        if step is not None:
            raise TypeError(
                "a Reconstructor is a codec (`.codec.encode(x)`, `.codec.decode(z)`): it has no posterior to sample "
                "from. `ornstein evaluate` measures it, and `ornstein train DATA --set data.codec=NAME` trains a model "
                "of its codes"
            )
        return Posterior(self.process, x, t, self.codec.decode(self.codec.encode(x)), condition=condition)

"""A process that runs in a codec's space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Condition, Posterior, Process, Time, TimeGrid, Tree

from .codec import Codec

__all__ = ["Encoded"]


class Encoded(AffineProcess):
    """The same affine process, on encoded data; only the readout decodes. So every solver, guide and objective works
    in the codec's space, and samples are data.

    Data are encoded before training: `process.codec.encode(x)`; an anchor is a state too and comes encoded.

    Args:
        process: the law of the codes.
        codec: a `Codec`; its parameters are frozen here.

    Raises:
        ValueError: a process that is not affine.
    """

    def __init__(self, process: AffineProcess, codec: Codec) -> None:
        if not isinstance(process, AffineProcess):
            raise ValueError(f"process: expected an affine process, got {type(process).__name__}")
        super().__init__(process.space)
        self.process, self.codec = process, codec.requires_grad_(False)
        self.anchored, self.anchor_field = process.anchored, process.anchor_field
        self.fields = process.fields | codec.fields

    @property
    def learned(self) -> bool:
        """As of the process: the codec is no part of the schedule."""
        return self.process.learned

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The process's."""
        return self.process.schedule(t)

    def time_at(self, half_log_snr: Time) -> Any:
        """The process's."""
        return self.process.time_at(half_log_snr)

    def end(self, condition: Condition | None) -> Tree:
        """The process's."""
        return self.process.end(condition)

    def prior(self, like: Tree, condition: Condition | None = None) -> Any:
        """The process's."""
        return self.process.prior(like, condition)

    def pin(self, x_end: Tree, t_end: float = 1.0) -> Process:
        """Of the encoded state `x_end`."""
        pinned = self.process.pin(x_end, t_end)
        assert isinstance(pinned, AffineProcess)
        return Encoded(pinned, self.codec)

    def grid(self, kind: str | None, steps: int) -> TimeGrid:
        """The process's."""
        return self.process.grid(kind, steps)

    def readout(
        self, x: Tree, posterior: Posterior | None = None, condition: Condition | None = None
    ) -> Tree:
        """The process's readout, decoded."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            clean = self.process.readout(x, posterior, condition)
            return self.codec.decode(clean, condition) if self.codec.fields else self.codec.decode(clean)

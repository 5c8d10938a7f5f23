"""The moving average of a model's weights: what one samples from."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

__all__ = ["Average"]

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """Exponential moving average of a module's parameters,

        a_n = d_n a_(n-1) + (1 - d_n) w_n,        a_0 = w_0,        d_n = min(decay, (1 + n) / (10 + n)),

    so that early weights, which are noise, are soon forgotten (the warm-up of Tarvainen and Valpola 2017,
    1703.01780, as TensorFlow has it). Buffers are copied, not averaged.

    Args:
        module: whose parameters are followed. It may be trained on in any way, in place.
        decay: in [0, 1); the weights of the last 1 / (1 - decay) updates count, half of it those of the last
            0.69 / (1 - decay).
        warmup: whether d_n starts below the decay; else d_n = decay.

    Attributes:
        module: a copy that holds the averages, in evaluation mode and without gradients. Use it as the model.
        updates: n so far.

    Raises:
        ValueError: the decay is out of range.
    """

    def __init__(self, module: M, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}")
        self.decay, self.warmup, self.updates = float(decay), warmup, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._averages = [p.detach() for p in self.module.parameters()]
        self._followed = [p.detach() for p in module.parameters()]
        self._buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))

    @classmethod
    def of_half_life(cls, module: M, updates: float, warmup: bool = True) -> Average[M]:
        """The average in which a weight counts half after so many updates: decay = 2^(-1 / updates)."""
        if not updates > 0:
            raise ValueError(f"updates: expected a half-life above 0, got {updates}")
        return cls(module, 0.5 ** (1 / updates), warmup)

    def next_decay(self) -> float:
        """d_n of the coming update."""
        n = self.updates + 1
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's weights as they are now."""
        torch._foreach_lerp_(self._averages, self._followed, 1 - self.next_decay())
        for ours, theirs in self._buffers:
            ours.copy_(theirs)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averages and how many updates made them."""
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.updates = int(state["updates"])
        self.module.load_state_dict(state["module"])

"""Known parts of a state, re-imposed after every draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import AffineProcess, Denoiser, Guide, Process, Step, Time, Tree, leaves

__all__ = ["Clamp"]


class Clamp(Guide):
    """After every draw the entries where `mask` is true are set to `values`.

    Clean values suit a model trained to see known entries clean, and discrete states. With `noised` they are
    instead a draw of the forward law at the level reached, which suits any model, and is only approximately
    the conditional law (replacement of 2011.13456; its bias is the reason for RePaint's resampling,
    2201.09865).

    Args:
        mask: boolean, broadcastable to a state; for a tree state {leaf: mask}.
        values: clean values, of the state's shape; for a tree state {leaf: values}.
        noised: impose noised values.

    Raises:
        ValueError: leaves of mask and values that differ.
    """

    def __init__(self, mask: Any, values: Any, noised: bool = False) -> None:
        if isinstance(mask, dict) != isinstance(values, dict) or (
            isinstance(mask, dict) and set(mask) != set(values)
        ):
            raise ValueError("Clamp: mask and values must have the same leaves")
        for part in leaves(mask):
            if not isinstance(part, Tensor) or part.dtype != torch.bool:
                raise ValueError(f"mask: expected boolean tensors, true where known; got {part!r}")
        self.mask, self.values, self.noised = mask, values, noised

    def check(self, denoiser: Denoiser) -> None:
        """The leaves named must be the state's."""
        parts = getattr(denoiser.process, "parts", None)
        if bool(parts) != isinstance(self.mask, dict) or (parts and not set(self.mask) <= set(parts)):
            given = f"leaves {sorted(self.mask)}" if isinstance(self.mask, dict) else "one tensor"
            held = f"the leaves {sorted(parts)}" if parts else "one tensor, no leaves"
            raise ValueError(f"Clamp: mask and values are of {given}, but the state has {held}")
        if denoiser.shape is not None:
            self._check_shapes(denoiser.shape)

    def _check_shapes(self, shape: Any) -> None:
        named = (
            [(self.mask, self.values, shape, "")]
            if not isinstance(self.mask, dict)
            else [(self.mask[k], self.values[k], shape[k], f"[{k!r}]") for k in self.mask]
        )
        for mask, values, event, name in named:
            for what, given in (("mask", mask), ("values", values)):
                try:
                    torch.broadcast_shapes(given.shape[-len(event) :] if event else (), event)
                except RuntimeError:
                    got = f"{tuple(given.shape)}, samples are {tuple(event)}"
                    raise ValueError(f"{what}{name}: of shape {got}") from None

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """x with the known entries in place."""
        if not isinstance(x, dict):
            return self._imposed(x, self.mask, self.values, step, step.rule.process, step.s, "clamp")
        parts = step.rule.process.parts
        times = step.s if isinstance(step.s, dict) else dict.fromkeys(x, step.s)
        known = {
            k: self._imposed(x[k], self.mask[k], v, step, parts[k], times[k], f"clamp {k}")
            for k, v in self.values.items()
        }
        return {**x, **known}

    def _imposed(
        self, x: Tensor, mask: Tensor, values: Tensor, step: Step, process: Process, time: Time, name: str
    ) -> Tensor:
        values = values.to(x).expand(x.shape)
        if self.noised:
            values = process.marginal(values, time, step.condition).sample(step.noise.fold(name))
        elif isinstance(process, AffineProcess):  # what is left of an anchor at time 0 is read off at the end
            values = process.add_anchor(values, process.at(0.0).anchor, step.condition)
        return torch.where(mask.to(x.device), values, x)

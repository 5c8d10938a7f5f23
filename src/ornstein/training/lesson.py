"""A denoiser and its objective as one module: what is wrapped for several processes, optimised and saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Denoiser, Losses, Noise, Objective

__all__ = ["Given", "Lesson"]


@dataclass(frozen=True)
class Given:
    """One batch with its noise: an object of its own, so that wrappers hand it on as it is."""

    batch: dict[str, Any]
    noise: Noise


class Lesson(nn.Module):
    """(batch, noise) -> the number to differentiate, and numbers for the log.

    Args:
        denoiser: what is trained.
        objective: what it is trained on; its own parameters are trained too, its references are not.
        precision: "bf16" evaluates networks under autocast, "no" leaves everything as it is.
    """

    def __init__(self, denoiser: Denoiser, objective: Objective, precision: str = "no") -> None:
        super().__init__()
        self.denoiser, self.objective = denoiser, objective
        self.reduced = precision == "bf16"
        self.names: tuple[str, ...] = ()
        for reference in objective.references:
            reference.eval().requires_grad_(False)
        frozen = [t for r in objective.references for t in (*r.parameters(), *r.buffers())]
        self._frozen = {id(t) for t in frozen}

    def on(self, device: torch.device | str) -> Lesson:
        """Moved to a device, with the references."""
        for reference in self.objective.references:
            reference.to(device)
        return self.to(device)

    def train(self, mode: bool = True) -> Lesson:
        """Training mode for all but the references."""
        super().train(mode)
        for reference in self.objective.references:
            reference.eval()
        return self

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """The total, and a vector of it and of the named losses (`names` says which)."""
        losses = self._losses(given)
        total, named = losses.total, _named(losses)
        self.names = ("loss", *named)
        values = torch.stack([v.detach().float() for v in (total, *named.values())])
        # a loss that is not finite must not have finite gradients, on any process: 0 times it is NaN
        return total * total.detach().mul(0).add_(1), values

    def _losses(self, given: Given) -> Losses:
        if not self.reduced:
            return self.objective(self.denoiser, given.batch, given.noise)
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            return self.objective(self.denoiser, given.batch, given.noise)

    def learned(self) -> list[nn.Parameter]:
        """The parameters to optimise."""
        own = (p for p in self.parameters() if p.requires_grad)
        return [p for p in own if id(p) not in self._frozen]

    def saved(self) -> dict[str, Tensor]:
        """The state to save: all but the references'."""
        state = self.state_dict(keep_vars=True)
        return {k: v.detach() for k, v in state.items() if id(v) not in self._frozen}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Take back what `saved` gave; the references stay."""
        kept = {k: v for k, v in self.state_dict(keep_vars=True).items() if id(v) in self._frozen}
        self.load_state_dict({**saved, **kept})


def _named(losses: Losses) -> dict[str, Tensor]:
    """Means of the parts, where there is more than one."""
    if len(losses.named) + len(losses.batch) < 2:
        return {}
    parts = {k: v.mean() for k, v in losses.named.items()} | dict(losses.batch)
    return {f"loss/{k}": v for k, v in parts.items()}

"""A code whose parts are shown from chosen noise levels on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Module, suggest

__all__ = ["MODES", "TimeMasked"]

MODES = ("base", "stop_grad", "both")


class TimeMasked(Module):
    """A code (B, d) in K parts, of which stage i of the diffusion time, ends[i-1] < t <= ends[i], is meant for part i:

        base       parts 1..i are seen, the others are 0
        stop_grad  all parts are seen, and only part i learns
        both       parts 1..i are seen, and only part i learns (Yue et al., "Exploring Diffusion Time-steps for
                   Unsupervised Representation Learning", 2024, arXiv 2401.11430)

    Attributes are lost in an order as noise grows; part i then holds what is lost in stage i and no earlier one can
    restore. With one part it is the identity: PDAE (Zhang et al. 2022, arXiv 2212.12990).

    Args:
        ends: increasing times, the last of them 1.
        dims: entries of each part; their sum is d.
        mode: one of the above.

    Raises:
        ValueError: ends that do not increase to 1, parts of no entries, an unknown mode, or a code of another size.
    """

    ends: Tensor
    starts: Tensor

    def __init__(self, ends: Sequence[float], dims: Sequence[int], mode: str = "both") -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(suggest(mode, MODES, "mode"))
        rising = all(a < b for a, b in pairwise([0.0, *ends]))
        if not ends or not rising or ends[-1] != 1.0:
            raise ValueError(f"ends: expected times rising from above 0 to 1, got {list(ends)}")
        if len(dims) != len(ends) or min(dims) < 1:
            raise ValueError(f"dims: expected {len(ends)} numbers of at least 1, got {list(dims)}")
        self.mode, self.dims = mode, tuple(dims)
        self.register_buffer("ends", torch.tensor(ends, dtype=torch.float64), persistent=False)
        self.register_buffer("starts", torch.tensor([0, *dims]).cumsum(0), persistent=False)

    @classmethod
    def uniform(cls, stages: int, size: int, mode: str = "both") -> TimeMasked:
        """`stages` stages of equal length in time, `size` entries shared out as equally as they go."""
        if not 1 <= stages <= size:
            raise ValueError(f"stages: expected 1 to {size}, one entry a part at least, got {stages}")
        cuts = [round(i * size / stages) for i in range(stages + 1)]
        return cls(
            [(i + 1) / stages for i in range(stages)],
            [b - a for a, b in pairwise(cuts)],
            mode,
        )

    @property
    def size(self) -> int:
        """Entries of a code."""
        return sum(self.dims)

    def parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """The code split into its parts, (B, dims[i]) each."""
        return z.split(self.dims, dim=1)

    def forward(self, z: Tensor, t: Any) -> Tensor:
        """What stage t is shown of z, (B, d); t is a number or (B,)."""
        if z.ndim != 2 or z.shape[1] != self.size:
            raise ValueError(f"z: expected codes (B, {self.size}), got {tuple(z.shape)}")
        times = torch.as_tensor(t, dtype=torch.float64, device=z.device).expand(len(z)).contiguous()
        stage = torch.searchsorted(self.ends, times).clamp(max=len(self.dims) - 1)
        entry = torch.arange(self.size, device=z.device)
        low, high = (self.starts[stage + i].unsqueeze(1) for i in (0, 1))
        seen = z if self.mode == "base" else torch.where((entry >= low) & (entry < high), z, z.detach())
        return seen if self.mode == "stop_grad" else torch.where(entry < high, seen, 0.0)

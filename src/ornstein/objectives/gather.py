"""The rows of all processes that share a batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gathered", "own_rows"]


def _world() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def gathered(value: Tensor) -> Tensor:
    """The rows of every process in the order of their ranks; `value` itself in one process.

    All processes must call it together, with as many rows each. No gradient passes.
    """
    count = _world()
    if count == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(count)]
    torch.distributed.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)


def own_rows(n: int) -> slice:
    """Where the `n` rows of this process lie among those of all."""
    rank = torch.distributed.get_rank() if _world() > 1 else 0
    return slice(rank * n, (rank + 1) * n)

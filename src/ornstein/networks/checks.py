"""Refusals that all networks share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["check_level", "check_positive"]


def check_positive(**sizes: int | Sequence[int] | None) -> None:
    """Refuse a size that is not a positive integer; None is a size left open.

    Raises:
        ValueError: naming the argument.
    """
    for name, given in sizes.items():
        for size in given if isinstance(given, list | tuple) else [given]:
            if size is not None and not (isinstance(size, int) and size > 0):
                raise ValueError(f"{name}: expected a positive integer, got {size!r}")


def check_level(level: Tensor, batch: int, name: str = "level") -> None:
    """Refuse a level that is not one number a sample.

    Raises:
        ValueError: its shape is not (batch,).
    """
    if level.shape != (batch,):
        raise ValueError(f"{name}: expected shape ({batch},), one a sample, got {tuple(level.shape)}")

"""What loaders of data refuse."""

from __future__ import annotations

__all__ = ["check_least"]


def check_least(**limits: tuple[int, int]) -> None:
    """Every argument, given with the least that it may be, is an integer that is no less.

    Raises:
        ValueError: the first that is not.
    """
    for name, (value, least) in limits.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")

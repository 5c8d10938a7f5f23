"""Refuse what is no picture in [-1, 1] before it is misread."""

from __future__ import annotations

import warnings

from torch import Tensor

__all__ = ["check_pictures"]

SMALLEST = 16  # pixels a side


def check_pictures(images: Tensor) -> None:
    """Images (N, 3, S, S) on the scale of [-1, 1]; what overshoots it, as models do, is no error.

    Raises:
        TypeError: no tensor of floats.
        ValueError: not square colour images of 16 pixels a side or more, or values as of bytes.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images: expected a tensor of floats (N, 3, S, S) in [-1, 1], got {given}; of bytes, torch.as_tensor(x) / "
            "127.5 - 1 is one, channels first"
        )
    if (
        images.ndim != 4
        or images.shape[1] != 3
        or images.shape[2] != images.shape[3]
        or images.shape[2] < SMALLEST
    ):
        raise ValueError(f"images: expected (N, 3, S, S), S at least {SMALLEST}, got {tuple(images.shape)}")
    if not len(images) or not bool(images.amin() >= 0):
        return
    if bool(images.amax() > 2):
        raise ValueError(
            "images: expected values in [-1, 1], got none below 0 and some above 2; x / 127.5 - 1?"
        )
    warnings.warn("images: no value is below 0; [-1, 1] is expected, 2 x - 1 for [0, 1]", stacklevel=3)

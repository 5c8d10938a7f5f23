"""What objectives read of a batch, checked as they read it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ornstein.core import Condition

__all__ = ["condition_of", "weighed"]


def condition_of(batch: dict[str, Any]) -> Condition | None:
    """The batch's condition, which may be left out.

    Raises:
        TypeError: fields that do not say for which rows they are present.
    """
    found = batch.get("condition")
    if found is not None and not isinstance(found, Condition):
        raise TypeError(
            f"condition: expected an ornstein.core.Condition, such as Condition({{'label': ...}}), or None; got "
            f"{type(found).__name__}"
        )
    return found


def weighed(sample: Tensor, weight: Tensor | None) -> Tensor:
    """The losses (B,) of samples, each times its weight, where the batch has weights.

    Raises:
        ValueError: weights that are not one number a sample.
    """
    if weight is None:
        return sample
    if weight.shape != sample.shape:
        raise ValueError(
            f"weight: expected one number for each of {len(sample)} samples, got the shape {tuple(weight.shape)}"
        )
    return sample * weight

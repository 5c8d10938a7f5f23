"""Data on a lattice of values, as pixels are: what a density says of their probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ornstein.core import Noise

__all__ = ["Quantised", "dequantised"]


@dataclass(frozen=True)
class Quantised:
    """`levels` values evenly spaced from `low` to `high`, both included: width = (high - low) / (levels - 1).

    Uniform dequantisation (2011.13456, after 1511.01844) adds u uniform in (-width/2, width/2) and bounds

        log P(x) >= E_u log p(x + u) + dim log width

    The default is a byte image in [-1, 1]; the built-in digits are Quantised(17).

    Raises:
        ValueError: fewer than 2 levels, or low not below high.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.levels < 2 or not self.low < self.high:
            raise ValueError(
                f"expected at least 2 levels and low < high, got {self.levels} from {self.low} to {self.high}"
            )

    @property
    def width(self) -> float:
        """Distance of neighbouring values."""
        return (self.high - self.low) / (self.levels - 1)

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        """x + u, with u uniform in a cell.

        Raises:
            ValueError: some entry of `x` is none of the values.
        """
        index = (x - self.low) / self.width
        legal = (index - index.round()).abs() < 1e-3
        if not bool((legal & (index > -0.5) & (index < self.levels - 0.5)).all()):
            raise ValueError(
                f"x: expected {self.levels} values from {self.low} to {self.high} (see Quantised), got others"
            )
        return x + self.width * (noise.uniform(x) - 0.5)


def dequantised(quantised: Quantised | None, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """x + u and the log-volume to add (B,), or x itself and 0 for data that have a density."""
    if quantised is None:
        return x, x.new_zeros(len(x))
    if not isinstance(quantised, Quantised):
        raise TypeError(f"quantised: expected a Quantised lattice, such as Quantised(256), got {quantised!r}")
    volume = x[0].numel() * math.log(quantised.width)
    return quantised.draw(x, noise), x.new_full((len(x),), volume)

"""The reverse of geometric Brownian motion stepped in X itself, not in its logarithm."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ornstein.core import Denoiser
from ornstein.processes import SDE, GeometricBrownian

__all__ = ["ambient"]


def ambient(denoiser: Denoiser) -> SDE:
    """The reversed motion of X, in the time 1 - t in which it runs (Shetty et al. 2025, 2510.02730):

        dX = (2 v^2 - growth + v^2 X s(X)) X d(1 - t) + v X dW,    v the volatility

    with X s(X) = s_log(log X) - 1 from a denoiser of log X. Its Euler-Maruyama step multiplies X by a Gaussian
    factor, which is of strong order 1/2 and can change the sign, unlike every step in the logarithm: X < 0 is
    read at |X|. Run it with `simulate(ambient(denoiser), X, times)`, times rising from 0 (noise) to below 1.

    Raises:
        ValueError: the process of the denoiser is not `GeometricBrownian`, plain or `Encoded`.
    """
    process: Any = getattr(denoiser.process, "process", denoiser.process)
    if not isinstance(process, GeometricBrownian):
        raise ValueError(f"ambient: expected a denoiser of GeometricBrownian, got {type(process).__name__}")
    power = process.volatility**2

    def drift(time: float, x: Tensor) -> Tensor:
        log_score: Any = denoiser(x.abs().log(), 1.0 - time).score
        return (2 * power - process.growth + power * (log_score - 1)) * x

    return SDE(drift, lambda time, x: process.volatility * x)

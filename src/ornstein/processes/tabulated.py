"""A schedule that is known at some times only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ornstein.core import AffineProcess

__all__ = ["Tabulated"]


class Tabulated(AffineProcess):
    """alpha and sigma given at nodes; between them alpha and sigma^2 are monotone cubics.

    The schedule has the given values at the nodes, a continuous derivative, and a log-SNR that falls
    everywhere, since the interpolant (PCHIP: Fritsch and Butland 1984, A method for constructing
    local monotone piecewise cubic interpolants) never overshoots. Where sigma is left out the
    process preserves variance, sigma^2 = 1 - alpha^2.

    Args:
        alpha: at the nodes, >= 0, never rising; 0 only at the last.
        sigma: at the nodes, >= 0, never falling; 0 only at the first. Default sqrt(1 - alpha^2).
        times: of the nodes, rising from 0 to 1; by default evenly spaced.

    Raises:
        ValueError: fewer than three nodes, tables of different lengths, or values that do not keep
            to the above.
    """

    def __init__(
        self,
        alpha: Sequence[float],
        sigma: Sequence[float] | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        given = {"alpha": alpha, "sigma": sigma, "times": times}
        table = {k: torch.tensor(v, dtype=torch.float64) for k, v in given.items() if v is not None}
        _check_lengths(table)
        self._times = table.pop("times", torch.linspace(0, 1, len(alpha), dtype=torch.float64))
        _check_values(self._times, table["alpha"], table.get("sigma"))
        # plain attributes: as buffers they would lose digits when a model is moved to half precision
        self._curves = [_cubics(self._times, values**n) for n, values in enumerate(table.values(), 1)]

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Sequence[float]) -> Tabulated:
        """The process of a model trained at N discrete steps: alpha_bar[k] is alpha^2 at step k.

        Step k is at time (k + 1) / N and time 0 is clean data. (DDPM, 2006.11239, counts the steps
        from 1; tables such as the `alphas_cumprod` of diffusers count from 0.)

        Args:
            alpha_bar: N numbers in [0, 1), falling.

        Raises:
            ValueError: as of the constructor.
        """
        return cls([1.0, *(math.sqrt(float(value)) for value in alpha_bar)])

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cubics of the interval that holds t."""
        times = self._times.to(t.device)
        index = (torch.searchsorted(times, t.detach().contiguous(), right=True) - 1).clamp(min=0)
        values = [_evaluated(curve, index, t - times[index]) for curve in self._curves]
        alpha = values[0]
        variance = values[1] if len(values) > 1 else (1 - alpha) * (1 + alpha)  # 1 - alpha^2
        return alpha, torch.zeros_like(t), variance.clamp(min=0).sqrt()


def _check_lengths(table: dict[str, Tensor]) -> None:
    lengths = {name: len(values) for name, values in table.items()}
    if min(lengths.values()) < 3 or len(set(lengths.values())) != 1:
        given = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ValueError(f"Tabulated: expected at least 3 nodes, as many in each table; got {given}")


def _check_values(times: Tensor, alpha: Tensor, sigma: Tensor | None) -> None:
    if times[0] != 0 or times[-1] != 1 or not bool((times.diff() > 0).all()):
        raise ValueError(f"times: expected to rise from 0 to 1, got {times.tolist()}")
    if sigma is None and not alpha[0] <= 1:
        raise ValueError(f"alpha: expected at most 1 where sigma is left out, got {float(alpha[0])}")
    sigma = (1 - alpha**2).sqrt() if sigma is None else sigma
    for name, values in (("alpha", alpha), ("sigma", -sigma)):
        if not bool((values.diff() <= 0).all()):
            raise ValueError(f"{name}: expected never to {'fall' if name == 'sigma' else 'rise'}")
    if not (alpha[-1] >= 0 and sigma[0] >= 0 and bool(((alpha / sigma).diff() < 0).all())):
        raise ValueError("Tabulated: expected alpha, sigma >= 0 and alpha / sigma to fall everywhere")


def _cubics(times: Tensor, values: Tensor) -> Tensor:
    """Coefficients (4, nodes), the highest power first, in the offset from each node.

    The last node has an interval of its own with its value and slope, so that it is met exactly too.
    """
    from scipy.interpolate import PchipInterpolator

    curve = PchipInterpolator(times.numpy(), values.numpy())
    last = torch.tensor([0.0, 0.0, float(curve(1.0, 1)), float(values[-1])], dtype=torch.float64)
    return torch.cat([torch.from_numpy(curve.c), last[:, None]], 1)


def _evaluated(cubics: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    a, b, c, d = cubics.to(offset.device)[:, index].unbind()
    return ((a * offset + b) * offset + c) * offset + d

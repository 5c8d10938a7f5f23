"""A denoiser that is the gradient of a log-density."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ornstein.core import AffineProcess, Condition, Time, align, scaled

from .network import NetworkDenoiser

__all__ = ["PotentialDenoiser"]


class PotentialDenoiser(NetworkDenoiser):
    """A scalar network as a log-density up to a function of time,

        log q_t(x) = potential(x / r_t, clock(t)),    r_t^2 = alpha^2 scale^2 + sigma^2

    Its score, grad potential / r_t, has no curl; its `log_density` enters the Fokker-Planck equation.

    Args:
        network: a network with `potential(x, level)`, such as `networks.Potential`, which returns its gradient.
        process: an affine process that keeps some signal at time 1.
        shape: event shape.
        scale: root-mean-square of the data's entries.

    Raises:
        ValueError: a network without a potential, or a process without signal at time 1.
    """

    process: AffineProcess

    def __init__(
        self, network: nn.Module, process: AffineProcess, shape: Any = None, scale: float = 0.5
    ) -> None:
        if not hasattr(network, "potential"):
            raise ValueError(
                f"network: expected one with a potential, such as networks.Potential; got {network!r}"
            )
        if not isinstance(process, AffineProcess):
            raise ValueError(f"process: expected an affine process, got {process!r}")
        super().__init__(network, process, "score", shape, scale)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log q_t(x) up to a function of time, (B,), for (B, ...) and times (B,); differentiable in both."""
        level = self.process.clock(t).to(x.dtype)
        found: Tensor = self.network.potential(scaled(self._size(t) ** -1, x), level)  # type: ignore[operator]
        return found

    def _size(self, t: Time) -> Any:
        level = self.process.at(t)
        return (level.alpha**2 * self.scale**2 + level.sigma**2) ** 0.5

    def _mean(
        self, process: AffineProcess, x: Tensor, t: Time, output: Tensor, condition: Condition | None
    ) -> Tensor:
        return process.mean_from("score", x, output / align(self._size(t), output), t, condition)

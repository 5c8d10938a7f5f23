"""What a noisy state is worth: estimates of the reward of the data it leads to."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ornstein.core import Condition, Denoiser, Time, Tree

__all__ = ["PosteriorValue"]


class PosteriorValue:
    """value(x_t) = reward(D(x_t)): one network call, exact for rewards that are linear in x_0.

    Args:
        reward: r(x_0, condition) -> (B,).
        denoiser: the model whose estimate is judged.
    """

    def __init__(self, reward: Callable[[Tree, Condition | None], Tensor], denoiser: Denoiser) -> None:
        self.reward, self.denoiser = reward, denoiser

    def __call__(self, x: Tree, t: Time, condition: Condition | None = None) -> Tensor:
        """(B,). At time 0 the state is the data and no network is called."""
        if isinstance(t, float) and t == 0.0:
            return self.reward(x, condition)
        return self.reward(self.denoiser(x, t, condition).mode, condition)

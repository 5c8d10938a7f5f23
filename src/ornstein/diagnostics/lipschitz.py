"""A sampler as a map of Gaussian noise, and how much it stretches (2501.07741).

All of a run's noise z ~ N(0, I) decides x_0 = F(z). If F is L-Lipschitz, then for every 1-Lipschitz f

    P(|f(x_0) - E f(x_0)| > s) <= 2 exp(-s^2 / (2 L^2))

so that no sampler with such a map has heavy tails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import Denoiser, Gaussian, Keyed, Noise, Recorded, Sampler

from .linearised import Linearised, leading

__all__ = ["NoiseMap", "lipschitz", "product_bound"]


class NoiseMap:
    """A run as a function of all its noise, (B, M) -> samples: the start and every step's draw, joined.

    Attributes:
        noise: the noise of the run that was recorded, (B, M), standard normal.

    Args:
        sampler: a solver on a grid.
        denoiser: guided or not.
        start: a count, whose draws from the prior belong to the noise, or states, which are then fixed.
        seed: an integer or a `Noise`.
        **fields: condition fields.

    Raises:
        ValueError: a run that draws nothing, or draws of another kind than normal ones.
    """

    def __init__(
        self, sampler: Sampler, denoiser: Denoiser, start: Any, seed: int | Noise = 0, **fields: Any
    ) -> None:
        self.sampler, self.denoiser, self.start, self.fields = sampler, denoiser, start, fields
        rows = start if isinstance(start, int) else len(start)
        source = seed if isinstance(seed, Noise) else Keyed(seed, rows)
        self._record = Recorded(source=source)
        self.sampler(denoiser, start, seed=self._record, **fields)
        if not self._record.draws or any("normal" not in key for key in self._record.draws):
            raise ValueError(
                f"sampler: expected a run on normal noise, this one drew {[*self._record.draws] or 'none'}"
            )
        self.noise = torch.cat([_rows_first(v, key).flatten(1) for key, v in self._record.draws.items()], 1)

    def __call__(self, noise: Tensor) -> Tensor:
        """The samples of this noise, differentiable in it."""
        draws, first = {}, 0
        for key, drawn in self._record.draws.items():
            like = _rows_first(drawn, key)
            part = noise[:, first : first + like[0].numel()].reshape(like.shape)
            draws[key] = part.movedim(0, len(key[-1]))
            first += like[0].numel()
        made: Tensor = self.sampler(
            self.denoiser, self.start, seed=Recorded(draws), grad=torch.is_grad_enabled(), **self.fields
        )
        return made

    def linearised(self) -> Linearised:
        """J = dF / dz at the recorded noise."""
        return Linearised(self, self.noise)


def _rows_first(drawn: Tensor, key: Any) -> Tensor:
    """A draw of shape (M, B, ...) with the batch in front."""
    return drawn.movedim(len(key[-1]), 0)


def lipschitz(
    sampler: Sampler,
    denoiser: Denoiser,
    start: Any,
    *,
    iterations: int = 20,
    seed: int | Noise = 0,
    **fields: Any,
) -> Tensor:
    """|dF / dz| of a sampler at random noises, (B,): the Lipschitz constant is the largest over all of them.

    For affine maps (Gaussian data) all rows agree and are the constant. Otherwise the largest row is a lower bound.

    What is not named here is as of `NoiseMap`.

    Args:
        iterations: of subspace iteration.
    """
    linear = NoiseMap(sampler, denoiser, start, seed, **fields).linearised()
    return leading(linear, 1, iterations).values[:, 0]


def product_bound(
    sampler: Sampler,
    denoiser: Denoiser,
    start: Any,
    *,
    iterations: int = 20,
    seed: int | Noise = 0,
    **fields: Any,
) -> Tensor:
    """The bound that steps give one by one, (B,): sqrt(sum_i c_i^2 prod_{j > i} L_j^2) >= |dF / dz|, with c_i the scale
    of draw i and L_j the stretching |d mean / d x| of step j where the run passes.

    It is what proofs use; how far it lies above `lipschitz` says how much of the stretching cancels between steps.

    The arguments are those of `lipschitz`.

    Raises:
        ValueError: steps that remember others, or whose noise has no single scale.
    """
    square: Any = 0.0
    for step in sampler.steps(denoiser, start, seed=seed, **fields):
        law = step.distribution
        if step.memory or not isinstance(law, Gaussian) or not isinstance(law.scale, float | int):
            raise ValueError(f"sampler: expected Gaussian steps of one scale without memory, got {sampler!r}")
        stretch: Any = 1.0
        if step.index >= 0:
            stretch = leading(_step(sampler, denoiser, step), 1, iterations).values[:, 0]
        square = stretch**2 * square + law.scale**2
        step.next  # noqa: B018  drawn when read
    return torch.as_tensor(square).sqrt()


def _step(sampler: Sampler, denoiser: Denoiser, step: Any) -> Linearised:
    """The mean of one step as a function of its state."""

    def mean(x: Tensor) -> Tensor:
        made: Any = sampler.step(denoiser, x, step.index, step.condition, grad=True).distribution
        return torch.as_tensor(made.mean)

    return Linearised(mean, step.x)

"""Processes on categories: each entry keeps its value with probability alpha_t = 1 - t, or is corrupted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ornstein.core import Categorical, Condition, Posterior, Process, Time, Tree, align

__all__ = ["Absorbing", "DiscreteProcess", "UniformNoise"]


class DiscreteProcess(Process):
    """States are ids 0 ... K-1 (B, ...), and whatever further ids the process adds.

    Args:
        categories: K, the number of data categories; at least 2.
    """

    discrete = True

    def __init__(self, categories: int) -> None:
        super().__init__()
        if not isinstance(categories, int) or categories < 2:
            raise ValueError(f"categories: expected an integer of at least 2, got {categories!r}")
        self.categories = categories

    @property
    def states(self) -> int:
        """How many ids a noisy entry may have."""
        return self.categories

    def alpha(self, t: Time) -> Any:
        """Probability that an entry is still intact at time t: 1 - t."""
        return 1.0 - t

    def clock(self, t: Time) -> Any:
        """log(alpha / (1 - alpha)), held within [-10, 10]."""
        time = torch.as_tensor(t, dtype=torch.float64)
        odds = torch.logit(self.alpha(time), eps=4.6e-5).clamp(-10.0, 10.0)
        return odds if isinstance(t, Tensor) else odds.item()

    def marginal(self, x_0: Tree, t: Time, condition: Condition | None = None) -> Categorical:
        """q(x_t | x_0), for ids or for rows of probabilities."""
        probs = (
            x_0 if x_0.is_floating_point() else one_hot(x_0, self.categories).to(torch.get_default_dtype())
        )
        return Categorical(self._corrupted(probs, align(self.alpha(t), probs)).log())

    def bridge(
        self, x_t: Tree, x_0: Any, t: Time, s: Time, condition: Condition | None = None
    ) -> Categorical:
        """q(x_s | x_t, x_0), averaged over x_0 where it is a Posterior or rows of probabilities."""
        self._refuse_upwards(t, s)
        probs: Any = x_0.probs if isinstance(x_0, Posterior) else x_0
        if not probs.is_floating_point():
            probs = one_hot(probs, self.categories).to(torch.get_default_dtype())
        a_t, a_s = (align(self.alpha(v), probs) for v in (t, s))
        return Categorical(self._bridged(x_t, probs, a_t, a_s).log())

    def kernel(self, x_t: Tree, t: Time, s: Time, condition: Condition | None = None) -> Categorical:
        """q(x_s | x_t), s >= t."""
        if isinstance(t, float) and isinstance(s, float) and s < t:
            raise ValueError(
                f"kernel: {type(self).__name__} steps forwards, got t={t} to s={s}; backwards needs a denoiser"
            )
        probs = one_hot(x_t, self.states).to(torch.get_default_dtype())
        if isinstance(t, float) and t == s:
            return Categorical(probs.log())
        keep = align(self.alpha(s) / self.alpha(t), probs)
        return Categorical(self._noised(probs, keep).log())

    def _corrupted(self, probs: Tensor, keep: Any) -> Tensor:
        """Probabilities of a noisy entry from probabilities (..., K) of the clean one."""
        raise NotImplementedError

    def _noised(self, probs: Tensor, keep: Any) -> Tensor:
        """The same from probabilities over all ids of a noisy entry."""
        raise NotImplementedError

    def _bridged(self, x_t: Tensor, probs: Tensor, a_t: Any, a_s: Any) -> Tensor:
        raise NotImplementedError


class Absorbing(DiscreteProcess):
    """Corrupted entries become the mask, id K, and stay so (Austin et al. 2021, 2107.03006; Sahoo et al.
    2024, 2406.07524). The prior is a point mass: everything is masked.
    """

    @property
    def states(self) -> int:
        """K and the mask."""
        return self.categories + 1

    @property
    def mask(self) -> int:
        """The mask's id."""
        return self.categories

    def prior(self, like: Tree, condition: Condition | None = None) -> Categorical:
        """All masked."""
        certain = one_hot(torch.full_like(like, self.mask), self.states)
        return Categorical(certain.to(torch.get_default_dtype()).log())

    def readout(self, x: Tree, posterior: Any = None, condition: Condition | None = None) -> Tree:
        """Masks that are left (a run that stopped early) are filled with the posterior's mode."""
        return x if posterior is None else torch.where(x == self.mask, posterior.mode, x)

    def _corrupted(self, probs: Tensor, keep: Any) -> Tensor:
        masked = torch.ones_like(probs[..., :1]) * (1 - keep)
        return torch.cat([probs * keep, masked], -1)

    def _noised(self, probs: Tensor, keep: Any) -> Tensor:
        stays = probs[..., :-1] * keep
        return torch.cat([stays, 1 - stays.sum(-1, keepdim=True)], -1)

    def _bridged(self, x_t: Tensor, probs: Tensor, a_t: Any, a_s: Any) -> Tensor:
        """A masked entry is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t); others stay."""
        reveal: Any
        if isinstance(a_t, Tensor):
            reveal = torch.where(a_s == a_t, 0.0, (a_s - a_t) / (1 - a_t))
        else:
            reveal = 0.0 if a_s == a_t else (a_s - a_t) / (1 - a_t)
        hidden = torch.cat([probs * reveal, torch.ones_like(probs[..., :1]) * (1 - reveal)], -1)
        known = one_hot(x_t, self.states).to(probs.dtype)
        return torch.where((x_t == self.mask).unsqueeze(-1), hidden, known)


class UniformNoise(DiscreteProcess):
    """Corrupted entries become uniform over the K categories (Hoogeboom et al. 2021, 2102.05379; Austin et
    al. 2021, 2107.03006).
    """

    def prior(self, like: Tree, condition: Condition | None = None) -> Categorical:
        """Uniform."""
        return Categorical(torch.zeros(*like.shape, self.categories, device=like.device))

    def _corrupted(self, probs: Tensor, keep: Any) -> Tensor:
        return probs * keep + (1 - keep) / self.categories

    _noised = _corrupted

    def _bridged(self, x_t: Tensor, probs: Tensor, a_t: Any, a_s: Any) -> Tensor:
        """sum over x_0 of p(x_0) q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0), in O(K)."""
        here = one_hot(x_t, self.categories).to(probs.dtype)
        if not isinstance(a_t, Tensor) and a_t == a_s:
            return here
        step = a_t / a_s
        weights = probs / (a_t * here + (1 - a_t) / self.categories)
        back = a_s * weights + (1 - a_s) / self.categories * weights.sum(-1, keepdim=True)
        bridged = (step * here + (1 - step) / self.categories) * back
        still = torch.as_tensor(a_t == a_s, device=probs.device)
        bridged = torch.where(still, here, bridged)
        return bridged / bridged.sum(-1, keepdim=True)

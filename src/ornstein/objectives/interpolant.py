"""Losses of two-sided interpolants, in antithetic pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Losses, Noise, Objective, Posterior, align, combine, suggest, sum_event
from ornstein.processes import Interpolant

from .batch import condition_of, weighed

__all__ = ["TARGETS", "InterpolantMatching"]

Quadratic = Callable[[Posterior, Tensor, Any], tuple[Tensor, Tensor]]


def _b(posterior: Posterior, z: Tensor, path: Any) -> tuple[Tensor, Tensor]:
    """I' + gamma' z, with gamma' = (gamma gamma') / gamma."""
    level, slope, flow = path
    return posterior.velocity, flow + align(slope.sigma / level.sigma, z) * z


def _v(posterior: Posterior, z: Tensor, path: Any) -> tuple[Tensor, Tensor]:
    _, slope, flow = path
    value = posterior.velocity
    if bool(slope.sigma.any()):  # else there is no latent noise, and no score of it
        value = value + align(slope.sigma, z) * posterior.score
    return value, flow


def _score(posterior: Posterior, z: Tensor, path: Any) -> tuple[Tensor, Tensor]:
    return posterior.score, z / -align(path[0].sigma, z)


def _eta(posterior: Posterior, z: Tensor, path: Any) -> tuple[Tensor, Tensor]:
    return posterior.noise, z


TARGETS: dict[str, Quadratic] = {"b": _b, "v": _v, "score": _score, "eta": _eta}


class InterpolantMatching(Objective):
    """|f(x_t)|^2 / 2 - target . f(x_t), over the event's size, where f is one of

        b        the velocity,   target alpha' x_0 + beta' y + gamma' z
        v        its part,       target alpha' x_0 + beta' y
        score                    target -z / gamma
        eta      E[z | x_t],     target z

    whose minimiser is the target's conditional mean (2303.08797). It may be negative: what is missing to a square does
    not depend on the model. In an antithetic pair, x_t with +z and with -z share time and ends: what diverges in gamma'
    and 1 / gamma at the ends of the path then cancels, and without it the losses of b and of the score have infinite
    variance.

    Args:
        target: one of the above, or None for the sum of those that the denoiser's networks predict.
        antithetic: whether to take pairs, at two network calls a sample.
        coupling: "independent" draws y from the process's base; "paired" reads it from the condition's `anchor`.
        first: distance that times keep from both ends.

    Raises:
        ValueError: unknown names; a paired batch without anchors; a target that divides by gamma where it is zero.
    """

    def __init__(
        self,
        target: str | None = None,
        antithetic: bool = True,
        coupling: str = "independent",
        first: float = 1e-4,
    ) -> None:
        super().__init__()
        if target is not None and target not in TARGETS:
            raise ValueError(suggest(target, TARGETS, "target"))
        if coupling not in ("independent", "paired"):
            raise ValueError(suggest(coupling, ("independent", "paired"), "coupling"))
        if not 0 < first < 0.5:
            raise ValueError(f"first: expected a number in (0, 0.5), got {first}")
        self.target, self.antithetic, self.coupling, self.first = target, antithetic, coupling, first

    def forward(self, model: Any, batch: dict[str, Any], noise: Noise) -> Losses:
        """The losses of one batch."""
        process, x_0 = model.process, batch["x_0"]
        names = self._names(model, process)
        y, condition = self._other_end(process, x_0, condition_of(batch), noise)
        t = batch["time"] if batch.get("time") is not None else self._times(x_0, noise)
        z = noise.fold("latent").normal(x_0)
        halves = [self._half(model, (x_0, y), sign * z, t, condition) for sign in self._signs()]
        named = {
            name: torch.stack(
                [_loss(*TARGETS[name](posterior, own, path)) for posterior, own, path in halves]
            ).mean(0)
            for name in names
        }
        sample = torch.stack(list(named.values())).sum(0)
        return Losses(weighed(sample, batch.get("weight")), named, {})

    def _signs(self) -> tuple[float, ...]:
        return (1.0, -1.0) if self.antithetic else (1.0,)

    def _half(
        self, model: Any, ends: tuple[Tensor, Tensor], z: Tensor, t: Tensor, condition: Condition | None
    ) -> tuple[Posterior, Tensor, Any]:
        level, slope = model.process.at(t), model.process.slopes(t)
        x_t = combine(level.alpha, ends[0], level.anchor, ends[1]) + align(level.sigma, z) * z
        flow = combine(slope.alpha, ends[0], slope.anchor, ends[1])
        return model(x_t, t, condition), z, (level, slope, flow)

    def _names(self, model: Any, process: Any) -> tuple[str, ...]:
        if not isinstance(process, Interpolant):
            raise ValueError(
                f"InterpolantMatching needs a model of an Interpolant, got {type(process).__name__}"
            )
        names = (self.target,) if self.target else tuple(model.predictions)
        if process.gamma == "zero":
            if self.target in ("score", "eta"):
                raise ValueError(
                    f"target {self.target!r}: an Interpolant with gamma 'zero' has no latent noise"
                )
            names = ("v",)
        elif self.target is None and getattr(model, "noise", True) is None:
            names = names[:1]
        return names

    def _other_end(
        self, process: Interpolant, x_0: Tensor, condition: Condition | None, noise: Noise
    ) -> tuple[Tensor, Condition | None]:
        """y, and the condition without it: the model is not to see it."""
        if self.coupling == "independent":
            y = process.base_law(x_0).sample(noise.fold("base"))
        elif condition is None or "anchor" not in condition:
            raise ValueError("InterpolantMatching(coupling='paired'): pass y as the condition's anchor")
        else:
            y = condition["anchor"]
        return y, (condition and condition.without("anchor")) or None

    def _times(self, x_0: Tensor, noise: Noise) -> Tensor:
        u = noise.fold("time").uniform(x_0.new_empty(len(x_0), 1)).squeeze(1)
        return self.first + (1 - 2 * self.first) * u.double()


def _loss(value: Tensor, target: Tensor) -> Tensor:
    return sum_event(0.5 * value**2 - target * value) / value[0].numel()

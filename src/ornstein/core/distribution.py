"""What a step returns: a deterministic function of noise, with a density where it has one.

These are light records: building torch's Independent(Normal) costs more than a whole solver step.
`.torch()` gives torch's own object where one exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .noise import Noise
from .space import EUCLIDEAN, Space
from .tree import Tree, align, sum_event

__all__ = ["Categorical", "Distribution", "Gaussian", "Matrix", "Product", "Pushforward"]


class Distribution:
    """A law over the next state, the batch in front."""

    __slots__ = ()

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """The noise that `transform` takes, (*shape, B, ...); None for a point mass."""
        raise NotImplementedError

    def transform(self, noise: Tree) -> Tree:
        """The state that this noise leads to."""
        raise NotImplementedError

    def sample(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """A draw, or with `shape` = (M,) M candidates of every row, (M, B, ...)."""
        return self.transform(self.noise(source, shape))

    def noise_of(self, x: Tree, source: Noise | None = None) -> Tree:
        """Noise that `transform` takes to `x`; random, given `x`, for a Categorical (then pass `source`)."""
        raise NotImplementedError

    def residual(self, x: Tree) -> Tree:
        """x - mean, legal for point masses too."""
        raise NotImplementedError

    def log_prob(self, x: Tree) -> Tensor:
        """Log-density or log-probability in nats, (B,).

        Raises:
            ValueError: the law is a point mass and has no density.
        """
        raise NotImplementedError

    def kl(self, other: Any) -> Tensor:
        """KL(self || other) in nats, (B,), in closed form."""
        raise NotImplementedError

    def tilt(self, gradient: Tree) -> Distribution:
        """The law proportional to self(x) exp(<gradient, x>)."""
        raise NotImplementedError

    def torch(self) -> Any:
        """The same law as an object of torch.distributions."""
        raise ValueError(f"{type(self).__name__} has no counterpart in torch.distributions")


def _same_kind(a: Distribution, b: Any) -> None:
    if type(a) is not type(b):
        raise ValueError(f"kl: {type(a).__name__} against {type(b).__name__} has no closed form here")


class Matrix:
    """A linear map from noise to state: an invertible matrix (D, D) or (B, D, D) on the flattened event."""

    __slots__ = ("matrix",)

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, z: Tensor, axes: int) -> Tensor:
        """matrix z, for z (..., B, *event) with `axes` axes of the event."""
        lead = z.ndim - axes
        flat = z.flatten(lead).unsqueeze(-1)
        return torch.matmul(self.matrix, flat).squeeze(-1).reshape(z.shape)

    def solve(self, x: Tensor) -> Tensor:
        """matrix^-1 x."""
        flat = x.flatten(1).unsqueeze(-1)
        solved: Tensor = torch.linalg.solve(self.matrix.expand(len(x), -1, -1), flat)
        return solved.reshape(x.shape)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log |det matrix|, (B,)."""
        log_det: Tensor = torch.linalg.slogdet(self.matrix)[1]
        return log_det.expand(len(x))


class Gaussian(Distribution):
    """N(mean, scale^2) in a space: x = mean + scale z.

    Args:
        mean: (B, ...).
        scale: a number, a tensor aligned from the left, or a `Matrix`; 0 is a point mass.
        space: where z lives.
        gain: d mean / d posterior mean, so that a guide can say "add d to the mean" as "add d / gain to the
            posterior mean"; None where the mean is not an affine function of one posterior.
    """

    __slots__ = ("gain", "mean", "scale", "space")

    def __init__(self, mean: Tree, scale: Any = 0.0, space: Space = EUCLIDEAN, gain: Any = None) -> None:
        self.mean, self.scale, self.space, self.gain = mean, scale, space, gain

    @property
    def deterministic(self) -> bool:
        """Whether this is a point mass by construction."""
        return isinstance(self.scale, float | int) and self.scale == 0

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """Standard normal noise of the space."""
        return None if self.deterministic else self.space.randn(self.mean, source, shape)

    def transform(self, noise: Tree) -> Tree:
        """mean + scale noise."""
        if noise is None:
            return self.mean
        if isinstance(self.scale, Matrix):
            return self.mean + self.scale.apply(noise, self.mean.ndim - 1)
        if isinstance(self.scale, float):
            return torch.add(self.mean, noise, alpha=self.scale)
        return self.mean + align(self.scale, self.mean) * noise

    def sample(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """A draw; all M candidates of a point mass coincide."""
        if self.deterministic:
            return self.mean.expand(*shape, *self.mean.shape) if shape else self.mean
        return self.transform(self.noise(source, shape))

    def noise_of(self, x: Tree, source: Noise | None = None) -> Tree:
        """(x - mean) / scale."""
        self._require_density("noise_of")
        if isinstance(self.scale, Matrix):
            return self.scale.solve(x - self.mean)
        return (x - self.mean) / align(self.scale, self.mean)

    def residual(self, x: Tree) -> Tree:
        """x - mean."""
        return x - self.mean

    def log_prob(self, x: Tree) -> Tensor:
        """-(|z|^2 + dim log 2 pi) / 2 - log |scale|, with the space's dimension."""
        self._require_density("log_prob")
        z = self.noise_of(x)
        square = self.space.inner(z, z) + self.space.dim(z) * math.log(2 * math.pi)
        return -0.5 * square - self._log_scale(x)

    def kl(self, other: Any) -> Tensor:
        """Closed form for scales that are numbers or tensors; two equal point masses have 0."""
        _same_kind(self, other)
        gap = self.mean - other.mean
        if self.deterministic and other.deterministic:
            same = (gap.flatten(1) if gap.ndim > 1 else gap[:, None]).abs().amax(1) == 0
            return torch.where(same, 0.0, math.inf)
        if isinstance(self.scale, Matrix) or isinstance(other.scale, Matrix):
            raise ValueError("kl: scales that are matrices have no closed form here; use .torch()")
        ours, theirs = (align(s, self.mean) * torch.ones_like(gap) for s in (self.scale, other.scale))
        ratio = ours / theirs
        terms = ratio**2 + (gap / theirs) ** 2 - 1 - 2 * ratio.log()
        same = (ours == 0) & (theirs == 0) & (gap == 0)  # the same point in both
        terms = torch.where((ours == 0) | (theirs == 0), math.inf, terms)
        return 0.5 * sum_event(torch.where(same, 0.0, terms))

    def tilt(self, gradient: Tree) -> Gaussian:
        """N(mean + scale^2 gradient, scale^2)."""
        if isinstance(self.scale, Matrix):
            m = self.scale.matrix
            shift = Matrix(m @ m.transpose(-1, -2)).apply(gradient, gradient.ndim - 1)
        else:
            shift = align(self.scale, self.mean) ** 2 * gradient
        return Gaussian(self.mean + shift, self.scale, self.space, self.gain)

    def torch(self) -> Any:
        """Independent(Normal) or MultivariateNormal over the flattened event."""
        self._require_density("torch")
        if isinstance(self.scale, Matrix):
            m = self.scale.matrix
            return torch.distributions.MultivariateNormal(self.mean.flatten(1), m @ m.mT)
        scale = torch.as_tensor(align(self.scale, self.mean), dtype=self.mean.dtype)
        normal = torch.distributions.Normal(self.mean, scale.expand_as(self.mean))
        return torch.distributions.Independent(normal, self.mean.ndim - 1)

    def __repr__(self) -> str:
        scale = self.scale if isinstance(self.scale, float | int) else f"<{type(self.scale).__name__}>"
        return f"Gaussian(mean={tuple(self.mean.shape)}, scale={scale})"

    def _log_scale(self, x: Tensor) -> Tensor:
        if isinstance(self.scale, Matrix):
            return self.scale.log_abs_det(x)
        if isinstance(self.scale, Tensor):
            return sum_event(align(self.scale, self.mean).log().expand_as(self.mean))
        return self.space.dim(x) * math.log(self.scale)

    def _require_density(self, asked: str) -> None:
        point = self.deterministic or (isinstance(self.scale, Tensor) and bool((self.scale == 0).any()))
        if point:
            raise ValueError(
                f"{asked}: this Gaussian has scale 0 and is a point mass without a density; "
                "use a stochastic solver (whose last row, to time 0, is one all the same), or .residual(x)"
            )


class Categorical(Distribution):
    """Independent categorical entries: x (B, ...) integers, logits (B, ..., K), -inf allowed.

    Its noise is Gumbel noise: x = argmax(logits + noise).
    """

    __slots__ = ("gain", "logits")

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.gain = None

    @property
    def deterministic(self) -> bool:
        """Never known from the construction alone."""
        return False

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tensor:
        """Gumbel noise of the logits' shape."""
        return source.gumbel(self.logits, shape)

    def transform(self, noise: Tree) -> Tensor:
        """argmax(logits + noise)."""
        return torch.argmax(self.logits + noise, -1)

    def relaxed(self, noise: Tensor, temperature: float) -> Tensor:
        """Rows of the simplex, softmax((logits + noise) / temperature): Jang, Gu and Poole 2016, 1611.01144."""
        return ((self.logits + noise) / temperature).softmax(-1)

    def noise_of(self, x: Tree, source: Noise | None = None) -> Tensor:
        """A draw of the Gumbel noise given that `x` won (truncated Gumbels, Maddison et al. 2014, 1411.0030)."""
        if source is None:
            raise ValueError("noise_of: many noises lead to one category; pass source= to draw one")
        log_p = self.logits.log_softmax(-1)
        won = torch.nn.functional.one_hot(x, log_p.shape[-1]).bool()
        top, free = source.fold("top").gumbel(log_p[..., :1]), source.fold("rest").gumbel(log_p)
        below = -torch.logaddexp(-top, -(log_p + free))
        perturbed = torch.where(won, top, below)  # a common shift of all logits changes no argmax
        # what cannot win, or lies far below the top, is not held back by it
        return torch.where(torch.isinf(log_p), free, perturbed - log_p)

    def residual(self, x: Tree) -> Tensor:
        """one_hot(x) - probabilities."""
        probs = self.logits.softmax(-1)
        return torch.nn.functional.one_hot(x, probs.shape[-1]).to(probs.dtype) - probs

    def log_prob(self, x: Tree) -> Tensor:
        """Sum over entries; 0 for a certain entry and -inf for an impossible one, never NaN."""
        log_p = self.logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return sum_event(log_p)

    def kl(self, other: Any) -> Tensor:
        """sum p (log p - log q); entries with p = 0 count 0."""
        _same_kind(self, other)
        log_p, log_q = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        terms = torch.where(torch.isinf(log_p), torch.zeros_like(log_p), log_p.exp() * (log_p - log_q))
        return sum_event(terms.sum(-1))

    def tilt(self, gradient: Tree) -> Categorical:
        """Logits plus the gradient with respect to the one-hot state."""
        return Categorical(self.logits + gradient)

    def torch(self) -> Any:
        """Independent(Categorical)."""
        law = torch.distributions.Categorical(logits=self.logits)
        return torch.distributions.Independent(law, self.logits.ndim - 2)


class Product(Distribution):
    """Leaves of a tree, independent given the state: densities and divergences add."""

    __slots__ = ("parts",)

    def __init__(self, parts: dict[str, Distribution]) -> None:
        self.parts = parts

    @property
    def deterministic(self) -> bool:
        """Whether every leaf is a point mass."""
        return all(getattr(p, "deterministic", False) for p in self.parts.values())

    @property
    def gain(self) -> dict[str, Any]:
        """The gain of every leaf."""
        return {k: getattr(p, "gain", None) for k, p in self.parts.items()}

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """A tree of the leaves' noises, each folded by its name."""
        return {k: p.noise(source.fold(k), shape) for k, p in self.parts.items()}

    def transform(self, noise: Tree) -> Tree:
        """Leaf by leaf."""
        return {k: p.transform(noise[k]) for k, p in self.parts.items()}

    def sample(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """Leaf by leaf, so that point masses too give M candidates."""
        return {k: p.sample(source.fold(k), shape) for k, p in self.parts.items()}

    def noise_of(self, x: Tree, source: Noise | None = None) -> Tree:
        """Leaf by leaf."""
        return {k: p.noise_of(x[k], source.fold(k) if source else None) for k, p in self.parts.items()}

    def residual(self, x: Tree) -> Tree:
        """Leaf by leaf."""
        return {k: p.residual(x[k]) for k, p in self.parts.items()}

    def log_prob(self, x: Tree) -> Tensor:
        """Sum over leaves."""
        return torch.stack([p.log_prob(x[k]) for k, p in self.parts.items()]).sum(0)

    def kl(self, other: Any) -> Tensor:
        """Sum over leaves."""
        _same_kind(self, other)
        return torch.stack([p.kl(other.parts[k]) for k, p in self.parts.items()]).sum(0)

    def tilt(self, gradient: Tree) -> Product:
        """Leaf by leaf; a leaf without a gradient stays."""
        return Product({k: p.tilt(gradient[k]) if k in gradient else p for k, p in self.parts.items()})


class Pushforward(Distribution):
    """A message drawn from `law`, then the deterministic map `map`. The density is the message's."""

    __slots__ = ("law", "map")

    def __init__(self, law: Distribution, map: Callable[[Tree], Tree]) -> None:
        self.law, self.map = law, map

    @property
    def deterministic(self) -> bool:
        """Whether the message is a point mass."""
        return getattr(self.law, "deterministic", False)

    def noise(self, source: Noise, shape: tuple[int, ...] = ()) -> Tree:
        """The message's noise."""
        return self.law.noise(source, shape)

    def transform(self, noise: Tree) -> Tree:
        """map(message)."""
        return self.map(self.law.transform(noise))

    def noise_of(self, x: Tree, source: Noise | None = None) -> Tree:
        """Of a message `x`, not of a mapped state."""
        return self.law.noise_of(x, source)

    def residual(self, x: Tree) -> Tree:
        """Of a message `x`."""
        return self.law.residual(x)

    def log_prob(self, x: Tree) -> Tensor:
        """Density of the message `x`: a push-forward may have none in the space of states."""
        return self.law.log_prob(x)

    def kl(self, other: Any) -> Tensor:
        """Between messages that share a map: an upper bound of the divergence between states."""
        _same_kind(self, other)
        if self.map is not other.map:
            raise ValueError("kl: the two Pushforwards have different maps")
        return self.law.kl(other.law)

    def tilt(self, gradient: Tree) -> Pushforward:
        """Tilt the message's law."""
        return Pushforward(self.law.tilt(gradient), self.map)

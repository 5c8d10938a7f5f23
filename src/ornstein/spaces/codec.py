"""Codecs: maps between data and the space in which a process runs (logarithms, principal axes, latents)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core import Condition, Module

__all__ = ["Codec", "LinearCodec", "LogCodec"]


class Codec(Module):
    """z = encode(x) and x = decode(z), the batch in front. `spaces.Encoded` runs a process on z.

    A subclass gives `encode` and `decode`, and `log_abs_det` where its map has a density to change. A codec that
    was trained is frozen where a process carries it, and its weights are saved with the model.

    Attributes:
        fields: condition fields that `decode` or `encode` read (frames beside the one that is decoded, ...).
    """

    fields: frozenset[str] = frozenset()

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Data (B, ...) to states (B, ...); of a random encoder, the mean.

        Raises:
            ValueError: data outside the domain.
        """
        raise NotImplementedError

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """States to data."""
        raise NotImplementedError

    def log_abs_det(self, x: Tensor) -> Tensor:
        """Log-volume change at the data, (B,): log p(x) = log p_z(encode(x)) + log |det d encode / dx|.

        Raises:
            ValueError: the map is not a change of variables.
        """
        raise ValueError(f"{type(self).__name__} is not a change of variables: it has no log |det|")

    def encoded_score(self, x: Tensor, score: Tensor) -> Tensor:
        """The score of z at encode(x) from the score of x at x:

            s_z = (dx/dz)^T s_x - d/dz log_abs_det(x(z))

        For the logarithm it is x s_x + 1.
        """
        with torch.enable_grad():
            z = self.encode(x).detach().requires_grad_()
            decoded = self.decode(z)
            log_p = (decoded * score.detach()).sum() - self.log_abs_det(decoded).sum()
        return torch.autograd.grad(log_p, z)[0]


class LogCodec(Codec):
    """z = log(x + shift), entry by entry, for data above -shift: what is decoded never crosses it.

    Args:
        shift: added before the logarithm; data with zeros need one, and it decides what small values weigh.
    """

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = float(shift)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """log(x + shift)."""
        moved = x + self.shift
        if not bool((moved > 0).all()):
            raise ValueError(
                f"LogCodec: expected data above {-self.shift:g}, got {float(x.min()):g}; "
                "give shift= or scale the data"
            )
        return moved.log()

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """exp(z) - shift."""
        return z.exp() - self.shift

    def log_abs_det(self, x: Tensor) -> Tensor:
        """-sum log(x + shift)."""
        return -self.encode(x).flatten(1).sum(1)


class LinearCodec(Codec):
    """z = W (x - mean) / scale with orthonormal rows W: principal axes, or any rotation; x = mean + scale W^T z.

    As made it keeps the first `components` entries; `LinearCodec.fit` sets the numbers from data.

    Args:
        shape: event shape of the data.
        components: k, the number of rows, at most the event's size D; all of them by default. States are (B, k).

    Raises:
        ValueError: components outside 1 ... D.
    """

    axes: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Any, components: int | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        size = math.prod(self.shape)
        components = size if components is None else components
        if not 1 <= components <= size:
            raise ValueError(f"components: expected 1 to {size}, got {components}")
        self.register_buffer("axes", torch.eye(components, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(cls, x: Tensor, components: int | None = None) -> LinearCodec:
        """Principal axes of `x` (N, ...), the largest first, scaled so that states have mean square 1.

        Args:
            x: the data, N >= 2.
            components: how many axes; all by default.
        """
        codec = cls(tuple(x.shape[1:]), components)
        flat = x.flatten(1)
        mean = flat.mean(0)
        vectors = torch.linalg.eigh((flat - mean).T.cov(correction=0).double())[1].flip(1)
        codec.axes = vectors.T[: len(codec.axes)].to(x).contiguous()
        codec.mean, codec.scale = mean, ((flat - mean) @ codec.axes.T).square().mean().sqrt()
        return codec

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """W (x - mean) / scale, (B, k)."""
        return (x.flatten(1) - self.mean) @ self.axes.T / self.scale

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """mean + scale W^T z, (B, *shape)."""
        return (self.mean + self.scale * z @ self.axes).reshape(len(z), *self.shape)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """-D log scale, where no component is left out."""
        if len(self.axes) < self.axes.shape[1]:
            return super().log_abs_det(x)
        return -len(self.axes) * self.scale.log().expand(len(x))

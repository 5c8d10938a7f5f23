"""Noise is a function of (seed of the row, step, leaf) and of nothing else.

No generator's history enters, so sample i of seed s is bit-equal alone, in any batch and in any order, runs
can be resumed and replayed, and copies of a trajectory can be given noise of their own.

The numbers come from a counter-based hash of 64-bit keys (SplitMix64, Steele, Lea and Flood 2014), all rows at once.
One generator a row would be no cheaper, slow for large batches of small states, and on a CPU torch's generators read
only 32 bits of their seed: among 100,000 rows two would be equal.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Keyed", "Noise", "Recorded", "Shared"]

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = 0x9E3779B97F4A7C15
_FOLD = 0xD1B54A32D192ED03  # keeps a folded source from ever being the unfolded one
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _mix_int(z: int) -> int:
    for shift, factor in _MIX:
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return z ^ (z >> 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)  # a logical shift of signed integers


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, in place."""
    for shift, factor in _MIX:
        z.bitwise_xor_(_shifted(z, shift)).mul_(_signed(factor))
    return z.bitwise_xor_(_shifted(z, 31))


class Noise:
    """A source of noise for a batch of rows. `like` gives batch, event shape, dtype and device.

    `shape` = (M,) asks for M independent draws of every row, in front: (M, B, ...). The first ones do
    not depend on M.
    """

    def fold(self, name: str | int) -> Noise:
        """An independent source for a step, stage, guide or leaf of this name."""
        raise NotImplementedError

    def normal(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers, (*shape, B, ...)."""
        raise NotImplementedError

    def uniform(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in (0, 1), (*shape, B, ...)."""
        raise NotImplementedError

    def gumbel(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard Gumbel numbers -log(-log u), (*shape, B, ...)."""
        return self.uniform(like, shape).log_().neg_().log_().neg_()

    def __getitem__(self, index: Any) -> Noise:
        """The source of the rows `index`: a row keeps its noise wherever it goes."""
        raise NotImplementedError

    def branch(self, index: Tensor, name: str | int) -> Noise:
        """The rows `index`, where second and later copies of one row get keys of their own."""
        raise NotImplementedError


class Keyed(Noise):
    """Noise by key. Row i of `Keyed(seed, n)` is row 0 of `Keyed(seed, torch.tensor([i]))`, bit for bit.

    Args:
        seed: one integer for the run, or an integer tensor (B,) with a seed of its own for every row.
        ids: which samples of the seed the rows are: a count (rows 0 ... n-1) or an integer tensor (B,).
            With a seed for every row it defaults to sample 0 of each.
    """

    def __init__(self, seed: int | Tensor = 0, ids: int | Tensor | None = None) -> None:
        if isinstance(seed, Tensor):
            seeds = seed.to("cpu", torch.int64).reshape(-1)
            rows = torch.zeros_like(seeds) if ids is None else ids
        else:
            if ids is None:
                raise ValueError("ids: say how many rows, or which, an integer seed is for")
            rows = ids
            seeds = torch.tensor([_signed(int(seed))])
        rows = torch.arange(rows) if isinstance(rows, int) else rows.to("cpu", torch.int64)
        self._keys = _mix(_mix(seeds + _signed(_GOLDEN)) + rows * _signed(_GOLDEN))
        self._salt = 0

    @classmethod
    def _of(cls, keys: Tensor, salt: int) -> Keyed:
        made = cls.__new__(cls)
        made._keys, made._salt = keys, salt
        return made

    def __len__(self) -> int:
        return len(self._keys)

    def fold(self, name: str | int) -> Keyed:
        """An independent source of this name."""
        word = name if isinstance(name, int) else zlib.crc32(name.encode()) + (1 << 40)
        return self._of(self._keys, _mix_int(((self._salt ^ _FOLD) + word * _GOLDEN) & _MASK))

    def __getitem__(self, index: Any) -> Keyed:
        """The same keys for the chosen rows."""
        keys = self._keys[index.cpu() if isinstance(index, Tensor) else index]
        return self._of(keys.reshape(-1), self._salt)

    def branch(self, index: Tensor, name: str | int) -> Keyed:
        """New keys for repeated rows; the first copy of each row keeps its own."""
        index = index.cpu()
        copies = _occurrence(index)
        word = self.fold(name)._salt
        fresh = _mix(self._keys[index] ^ _signed(word)).add_(copies * _signed(_GOLDEN))
        return self._of(torch.where(copies == 0, self._keys[index], _mix(fresh)), self._salt)

    def normal(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Box and Muller's transform (1958) of hashed counters."""
        return self._drawn(like, shape, _normal)

    def uniform(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """In (0, 1): never 0 nor 1, so that logarithms are finite."""
        drawn = self._drawn(like, shape, _uniform)
        eps = torch.finfo(drawn.dtype).eps
        return drawn.clamp_(eps / 4, 1 - eps / 2)

    def _drawn(
        self, like: Tensor, shape: tuple[int, ...], draw: Callable[[Tensor, int, torch.dtype], Tensor]
    ) -> Tensor:
        event, copies = like.shape[1:], math.prod(shape)
        if len(self._keys) != like.shape[0]:
            raise ValueError(f"noise: made for {len(self._keys)} rows, asked for {like.shape[0]}")
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        keys = torch.cat([self._row_keys(m) for m in range(copies)]).to(like.device)
        drawn = draw(keys, event.numel(), dtype).reshape(*shape, like.shape[0], *event)
        return drawn.to(like.dtype) if like.is_floating_point() else drawn

    def _row_keys(self, copy: int) -> Tensor:
        salt = _mix_int((self._salt ^ (copy * _GOLDEN)) & _MASK) if copy else self._salt
        return self._keys ^ _signed(salt)  # offsets into one hashed sequence of 2^64 numbers


def _occurrence(index: Tensor) -> Tensor:
    """How many earlier entries of `index` are equal to each entry."""
    order = torch.argsort(index, stable=True)
    place = torch.arange(len(index))
    first = torch.searchsorted(index[order].contiguous(), index[order].contiguous())
    return torch.empty_like(place).scatter_(0, order, place - first)


def _counters(keys: Tensor, count: int) -> Tensor:
    steps = torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
    return _mix(keys[:, None] + steps)


def _normal(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Each 64-bit hash gives two signed words, one for a radius and one for an angle."""
    half = (size + 1) // 2
    words = _counters(keys, half).view(torch.int32).to(dtype)
    # |word| in place of word + 2^31 keeps small uniforms, and so the tails, at full relative precision
    radius = words[:, :half].abs().add_(0.5).mul_(2.0**-31).clamp_(max=1.0).log_().mul_(-2.0).sqrt_()
    angle = words[:, half:] * (2.0**-31 * math.pi)
    return torch.cat([radius * angle.cos(), angle.sin_().mul_(radius)], 1)[:, :size]


def _uniform(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    return _shifted(_counters(keys, size), 11).to(dtype).add_(0.5).mul_(2.0**-53)


class Shared(Noise):
    """The same draw for every row: what differs between the rows is then never the noise."""

    def __init__(self, source: Noise | int = 0) -> None:
        self.source = Keyed(source, 1) if isinstance(source, int) else source

    def fold(self, name: str | int) -> Shared:
        """An independent shared source."""
        return Shared(self.source.fold(name))

    def __getitem__(self, index: Any) -> Shared:
        """Itself: all rows are alike."""
        return self

    def branch(self, index: Tensor, name: str | int) -> Shared:
        """Itself: copies share their noise too, which is what this source is asked for."""
        return self

    def normal(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """One row's normals, expanded."""
        return self.source.normal(like[:1], shape).expand(*shape, *like.shape).clone()

    def uniform(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """One row's uniforms, expanded."""
        return self.source.uniform(like[:1], shape).expand(*shape, *like.shape).clone()


class Recorded(Noise):
    """Replays what was drawn; what is missing comes from `source`, if there is one, and is kept.

    `draws` maps the names folded so far, with the kind, to a tensor: ("prior", "normal"), (0, "normal"), ...
    """

    def __init__(self, draws: dict[Any, Tensor] | None = None, source: Noise | None = None) -> None:
        self.draws: dict[Any, Tensor] = {} if draws is None else draws
        self.source = source
        self._path: tuple[str | int, ...] = ()

    def fold(self, name: str | int) -> Recorded:
        """The same record, further down its path."""
        folded = Recorded(self.draws, self.source.fold(name) if self.source else None)
        folded._path = (*self._path, name)
        return folded

    def __getitem__(self, index: Any) -> Recorded:
        """The recorded rows `index`."""
        chosen = {k: v[index] for k, v in self.draws.items()}
        part = Recorded(chosen, self.source[index] if self.source else None)
        part._path = self._path
        return part

    def branch(self, index: Tensor, name: str | int) -> Noise:
        """Refused: a record has one draw a row, and copies need their own."""
        raise ValueError("Recorded noise has no draws for copies of a row; use Keyed noise to branch")

    def _draw(self, kind: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        key = (*self._path, kind)
        if key not in self.draws:
            if self.source is None:
                raise KeyError(f"Recorded noise has no draw {key}; it has {list(self.draws)}")
            self.draws[key] = getattr(self.source, kind)(like, shape)
        drawn = self.draws[key]
        if drawn.shape != (*shape, *like.shape):
            raise ValueError(
                f"Recorded draw {key} is {tuple(drawn.shape)}, asked for {(*shape, *like.shape)}"
            )
        return drawn.clone()

    def normal(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """The recorded normals."""
        return self._draw("normal", like, shape)

    def uniform(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """The recorded uniforms."""
        return self._draw("uniform", like, shape)

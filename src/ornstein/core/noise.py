"""Noise is a function of (seed of the row, step, leaf) and of nothing else.

No generator's history enters, so sample i of seed s is bit-equal alone, in any batch and in any order, runs
can be resumed and replayed, and copies of a trajectory can be given noise of their own.

The numbers come from a counter-based hash of 64-bit keys (SplitMix64, Steele, Lea and Flood 2014), all rows at once,
and are the same, to rounding, in every floating dtype and on every device. One generator a row would be no cheaper,
slow for large batches of small states, and on a CPU torch's generators read only 32 bits of their seed: among 100,000
rows two would be equal.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Keyed", "Noise", "Recorded", "Shared"]

CHUNK = 1 << 15  # numbers hashed at a time: what they leave in memory then stays in a core's cache
Words = NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FOLD = 0xD1B54A32D192ED03  # keeps a folded source from ever being the unfolded one
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def _mix_int(z: int) -> int:
    """SplitMix64's finaliser."""
    for shift, factor in _MIX:
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return z


def _mix(z: Words) -> Words:
    """The same on arrays, in place."""
    for shift, factor in _MIX:
        z ^= z >> np.uint64(shift)
        if factor != 1:
            z *= np.uint64(factor)
    return z


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
        """Standard Gumbel numbers -log(-log(1 - u)), (*shape, B, ...).

        An argmax is decided by the large ones, and floating numbers are dense near 0 but not near 1: -log(-log u)
        would have few values above 12 in float32 and none above 17, which is seen in samples (2409.02908).
        """
        wide = (
            like.float() if like.dtype in (torch.float16, torch.bfloat16) else like
        )  # halves would round u to 1
        return self.uniform(wide, shape).neg_().log1p_().neg_().log_().neg_().to(like.dtype)

    def __getitem__(self, index: Any) -> Noise:
        """The source of the rows `index`: a row keeps its noise wherever it goes."""
        raise NotImplementedError

    def branch(self, index: Tensor, name: str | int) -> Noise:
        """The rows `index`, where second and later copies of one row get keys of their own."""
        raise NotImplementedError

    def fold_rows(self, names: Tensor) -> Noise:
        """Row i as in `fold(names[i])`: for samples that are at different steps."""
        raise ValueError(f"{type(self).__name__} noise cannot be folded row by row; use Keyed noise")


class Keyed(Noise):
    """Noise by key. Row i of `Keyed(seed, n)` is row 0 of `Keyed(seed, torch.tensor([i]))`, bit for bit.

    Args:
        seed: one integer for the run, or an integer tensor (B,) with a seed of its own for every row.
        ids: which samples of the seed the rows are: a count (rows 0 ... n-1) or an integer tensor (B,).
            With a seed for every row it defaults to sample 0 of each.
    """

    def __init__(self, seed: int | Tensor = 0, ids: int | Tensor | None = None) -> None:
        if isinstance(seed, Tensor):
            first = _mix(_words(seed) + np.uint64(_GOLDEN))
            ids = torch.zeros(len(first), dtype=torch.int64) if ids is None else ids
        else:
            first = np.array([_mix_int((seed + _GOLDEN) & _MASK)], np.uint64)
        if ids is None:
            raise ValueError("ids: say how many rows, or which, an integer seed is for")
        rows = np.arange(ids, dtype=np.uint64) if isinstance(ids, int) else _words(ids)
        self._keys, self._salt = _mix(first + rows * np.uint64(_GOLDEN)), 0

    @classmethod
    def _of(cls, keys: Words, salt: int) -> Keyed:
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
        chosen = index.cpu().numpy() if isinstance(index, Tensor) else index
        return self._of(self._keys[chosen].reshape(-1), self._salt)

    def fold_rows(self, names: Tensor) -> Keyed:
        """Row i as in `fold(names[i])`."""
        salts = np.array([self.fold(name)._salt for name in names.tolist()], np.uint64)
        return self._of(self._keys ^ salts, 0)

    def branch(self, index: Tensor, name: str | int) -> Keyed:
        """New keys for repeated rows; the first copy of each row keeps its own."""
        rows = index.cpu().numpy()
        kept, copies = self._keys[rows], _occurrence(rows)
        fresh = _mix(kept ^ np.uint64(self.fold(name)._salt)) + copies * np.uint64(_GOLDEN)
        return self._of(np.where(copies == 0, kept, _mix(fresh)), self._salt)

    def normal(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Box and Muller's transform (1958) of hashed counters."""
        return self._drawn(like, shape, _normals, _normals_on)

    def uniform(self, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """In (0, 1): never 0 nor 1, so that logarithms are finite."""
        drawn = self._drawn(like, shape, _uniforms, _uniforms_on)
        limits = torch.finfo(drawn.dtype)
        return drawn.clamp_(limits.tiny, 1 - limits.eps / 2) if limits.bits < 32 else drawn

    def _drawn(
        self,
        like: Tensor,
        shape: tuple[int, ...],
        hashed: Callable[..., Any],
        on_device: Callable[..., Tensor],
    ) -> Tensor:
        size, copies = like.shape[1:].numel(), math.prod(shape)
        if len(self._keys) != like.shape[0]:
            raise ValueError(f"noise: made for {len(self._keys)} rows, asked for {like.shape[0]}")
        double = like.dtype == torch.float64
        keys = np.concatenate([self._row_keys(m) for m in range(copies)]) if shape else self._row_keys(0)
        if like.device.type == "cpu":
            drawn = torch.from_numpy(_in_chunks(hashed, keys, size, np.float64 if double else np.float32))
        else:
            signed = torch.from_numpy(keys.view(np.int64)).to(like.device)
            drawn = on_device(signed, size, torch.float64 if double else torch.float32)
        drawn = drawn.reshape(*shape, *like.shape)
        return drawn.to(like.dtype) if like.is_floating_point() else drawn

    def _row_keys(self, copy: int) -> Words:
        salt = _mix_int((self._salt ^ (copy * _GOLDEN)) & _MASK) if copy else self._salt
        return self._keys ^ np.uint64(salt)


def _words(values: Tensor) -> Words:
    return values.to("cpu", torch.int64).reshape(-1).numpy().view(np.uint64)


def _occurrence(index: NDArray[Any]) -> Words:
    """How many earlier entries of `index` are equal to each entry."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    found = np.empty(len(index), np.uint64)
    found[order] = np.arange(len(index)) - np.searchsorted(ordered, ordered)
    return found


# --- on a CPU. Every intermediate is contiguous: on strided arrays logarithms and sines may round otherwise.


@lru_cache(maxsize=64)
def _weyl(count: int) -> Words:
    return np.arange(1, count + 1).astype(np.uint64) * np.uint64(_GOLDEN)


def _counters(keys: Words, count: int) -> Words:
    return _mix(keys[:, None] + _weyl(count))


def _in_chunks(hashed: Callable[..., None], keys: Words, size: int, dtype: Any) -> NDArray[Any]:
    drawn = np.empty((len(keys), size), dtype)
    rows = max(1, CHUNK // max(size, 1))
    for first in range(0, len(keys), rows):
        hashed(keys[first : first + rows], drawn[first : first + rows])
    return drawn


def _normals(keys: Words, out: NDArray[Any]) -> None:
    half = (out.shape[1] + 1) // 2
    words = _counters(keys, half).view(np.uint32)
    radius, angle = words[:, :half].astype(out.dtype), words[:, half:].astype(out.dtype)
    radius += 0.5
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle *= 2.0**-31 * math.pi
    np.multiply(radius, np.cos(angle), out=out[:, :half])
    rest = out.shape[1] - half
    np.multiply(radius[:, :rest], np.sin(angle)[:, :rest], out=out[:, half:])


def _uniforms(keys: Words, out: NDArray[Any]) -> None:
    out[:] = _counters(keys, out.shape[1]) >> np.uint64(11)
    out += 0.5
    out *= 2.0**-53
    np.minimum(out, 1 - np.finfo(out.dtype).eps / 2, out=out)


# --- the same on other devices, where integers are signed


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _counters_on(keys: Tensor, count: int) -> Tensor:
    z = keys[:, None] + torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
    for shift, factor in _MIX:
        z.bitwise_xor_(_shifted(z, shift)).mul_(_signed(factor))
    return z


def _normals_on(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    half = (size + 1) // 2
    words = _counters_on(keys, half).view(torch.int32).to(torch.int64).bitwise_and_(0xFFFFFFFF).to(dtype)
    radius = words[:, :half].add(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = words[:, half:] * (2.0**-31 * math.pi)
    return torch.cat([radius * angle.cos(), angle.sin_().mul_(radius)], 1)[:, :size]


def _uniforms_on(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    drawn = _shifted(_counters_on(keys, size), 11).to(dtype).add_(0.5).mul_(2.0**-53)
    return drawn.clamp_(max=1 - torch.finfo(dtype).eps / 2)


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

    `draws` maps the names folded so far, the kind and the shape asked for to a tensor: (-1, "normal", ()) is the start,
    (0, "normal", ()) the first step, (0, "normal", (4,)) four candidates of it.
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
        chosen = {k: v[(slice(None),) * len(k[-1]) + (index,)] for k, v in self.draws.items()}
        part = Recorded(chosen, self.source[index] if self.source else None)
        part._path = self._path
        return part

    def branch(self, index: Tensor, name: str | int) -> Noise:
        """Refused: a record has one draw a row, and copies need their own."""
        raise ValueError("Recorded noise has no draws for copies of a row; use Keyed noise to branch")

    def _draw(self, kind: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        key = (*self._path, kind, shape)
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

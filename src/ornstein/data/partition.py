"""Dividing samples into train and held-out by their content alone.

The order of a data set and the version of a random generator have no say, so the same samples are
held out on every machine, and a sample that occurs twice never stands on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_fraction", "digests", "held_out_mask"]


def check_fraction(held_out: float) -> float:
    """The fraction itself, refused outside [0, 1)."""
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out: expected a fraction in [0, 1), got {held_out!r}")
    return float(held_out)


def digests(items: Iterable[bytes]) -> NDArray[np.bytes_]:
    """A 16-byte fingerprint of every item, as an array that can be sorted."""
    return np.array([hashlib.blake2b(item, digest_size=16).hexdigest() for item in items], "S32")


def held_out_mask(
    keys: NDArray[np.bytes_], fraction: float, strata: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Which samples to hold out: in every stratum, the ones with the smallest digests.

    Args:
        keys: digests (N,) of the samples' content.
        fraction: share to hold out, in [0, 1). The total is round(fraction N); a stratum has its
            own share of it to within one sample.
        strata: integers (N,), e.g. class labels; None for a single stratum.

    Returns:
        A boolean mask (N,). Samples with equal content are on the same side: where a threshold
        falls between copies, all of them stay in train.
    """
    strata = np.zeros(len(keys), int) if strata is None else np.asarray(strata)
    names, counts = np.unique(strata, return_counts=True)
    quotas = np.diff(np.rint(check_fraction(fraction) * np.cumsum(counts)).astype(int), prepend=0)
    held = np.zeros(len(keys), bool)
    for name, quota in zip(names, quotas, strict=True):
        members = np.flatnonzero(strata == name)
        held[members[np.argsort(keys[members], kind="stable")[:quota]]] = True
    return held & ~np.isin(keys, keys[~held])

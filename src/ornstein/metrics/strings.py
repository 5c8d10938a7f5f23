"""How good are generated words?"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .estimate import Estimate, bootstrap, wilson

__all__ = ["WordScore", "word_score"]


@dataclass(frozen=True)
class WordScore:
    """What share of generated strings are words, and how like words they are.

    Attributes:
        valid: share that are words of the whole list.
        known: share that are words of the training list.
        novel: share that are words of the held-out list: valid, and never seen.
        unique: number of different strings over the number of strings.
        divergence: Jensen-Shannon distance between the character n-grams of the strings and those
            of the held-out words, in [0, 1] (square root of the divergence in bits).
        order: n of the n-grams.
    """

    valid: Estimate
    known: Estimate
    novel: Estimate
    unique: float
    divergence: Estimate
    order: int

    def __str__(self) -> str:
        return (
            f"words: {self.valid}; novel words: {self.novel}; different: {self.unique:.3f}; "
            f"{self.order}-gram distance: {self.divergence}"
        )


def word_score(
    strings: Sequence[str],
    train: Collection[str],
    held_out: Collection[str],
    order: int = 2,
    resamples: int = 200,
    seed: int = 0,
) -> WordScore:
    """Score generated strings against the words trained on and the words held out.

    The n-grams of a string include its beginning and end. Their distance from the held-out words is
    biased upwards where strings are few: compare with as many training words.

    Args:
        strings: generated strings; repeats count.
        train: the words trained on.
        held_out: other words of the same list.
        order: n of the n-grams.
        resamples: bootstrap replicates, of the strings alone.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two strings, no held-out words, or `order` below 1.

    Source of the distance: Endres and Schindelin, A new metric for probability distributions
    (2003).
    """
    if len(strings) < 2:
        raise ValueError(f"strings: expected at least 2, got {len(strings)}")
    if not held_out:
        raise ValueError("held_out: expected at least one word, got none")
    if order < 1:
        raise ValueError(f"order: expected at least 1, got {order}")
    seen, unseen = set(train), set(held_out) - set(train)
    return WordScore(
        valid=_share(strings, seen | unseen),
        known=_share(strings, seen),
        novel=_share(strings, unseen),
        unique=len(set(strings)) / len(strings),
        divergence=_divergence(strings, held_out, order, resamples, seed),
        order=order,
    )


def _share(strings: Sequence[str], words: Collection[str]) -> Estimate:
    return wilson(sum(string in words for string in strings), len(strings))


def _divergence(
    strings: Sequence[str], words: Collection[str], order: int, resamples: int, seed: int
) -> Estimate:
    numbers: dict[str, int] = {}
    grams, owners = _grams(strings, order, numbers)
    others, _ = _grams(words, order, numbers)
    reference = others.bincount(minlength=len(numbers)).double()

    def statistic(weights: Tensor) -> Tensor:
        counts = torch.zeros(len(weights), len(numbers), dtype=torch.float64)
        counts.index_add_(1, grams, weights[:, owners])
        return _jensen_shannon(counts / counts.sum(1, keepdim=True), reference / reference.sum())

    return bootstrap(statistic, (len(strings),), resamples, seed)


def _grams(strings: Collection[str], order: int, numbers: dict[str, int]) -> tuple[Tensor, Tensor]:
    """All n-grams as numbers, new ones added to `numbers`, and the string that each comes from."""
    marked = [f"{'^' * (order - 1)}{string}$" for string in strings]
    found = [
        (numbers.setdefault(text[i : i + order], len(numbers)), owner)
        for owner, text in enumerate(marked)
        for i in range(len(text) - order + 1)
    ]
    grams, owners = torch.tensor(found).T
    return grams, owners


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """(H((p + q) / 2) - H(p) / 2 - H(q) / 2)^(1/2), entropies H in bits, along the last axis."""
    entropy = lambda r: -torch.special.xlogy(r, r).sum(-1) / math.log(2)  # noqa: E731
    gap = entropy((p + q) / 2) - entropy(p) / 2 - entropy(q) / 2
    return gap.clamp(0, 1).sqrt()

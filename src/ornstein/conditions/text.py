"""Words as ids and as vectors: a tokeniser over given words, where each token stands in the prompt, and the interface
of text encoders.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ornstein.core import Module

__all__ = ["Spans", "TextEncoder", "Tokeniser"]

PAD, START, END, SPELL = range(4)
BYTES = 256
_PIECE = re.compile(r"\w+|[^\w\s]")


class Spans(NamedTuple):
    """Where the tokens of a prompt stand in it.

    Attributes:
        prompt: the words.
        ranges: for each token (start, stop), the characters that it stands for; the start and the end token stand for
            none. Token i is row i of what an encoder makes.
    """

    prompt: str
    ranges: tuple[tuple[int, int], ...]

    def tokens(self, start: int, stop: int) -> list[int]:
        """The tokens that stand for any of the characters `start` to `stop`."""
        return [i for i, (a, b) in enumerate(self.ranges) if a < b and a < stop and b > start]

    def of(self, words: str, occurrence: int = 0) -> list[int]:
        """The tokens of a word or of several; the last of them is what a causal encoder tells most of the words by.

        Args:
            words: as they stand in the prompt, in capitals or not.
            occurrence: 0 for the first place where they stand, -1 for the last.

        Raises:
            ValueError: the prompt does not have them so often, or they were cut off.
        """
        places = list(re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", self.prompt, re.IGNORECASE))
        if not -len(places) <= occurrence < len(places):
            raise ValueError(f"words: {words!r} stands {len(places)} times in {self.prompt!r}")
        found = self.tokens(*places[occurrence].span())
        if not found:
            raise ValueError(f"words: {words!r} was cut off: {self.prompt!r} is too long for the encoder")
        return found


def warn_cut(lost: Sequence[str], length: int) -> None:
    """Say which ends of prompts were cut off, if any were."""
    if lost:
        more = f", and the ends of {len(lost) - 1} more prompts" if len(lost) > 1 else ""
        warnings.warn(
            f"text: the encoder reads {length} tokens; cut off was {lost[0]!r}{more}",
            UserWarning,
            stacklevel=4,
        )


class Tokeniser(Module):
    """Texts as ids: words of a vocabulary, in lower case, and marks on their own.

        id 0: padding, 1: start, 2: end, 3: the next word is spelled, 4 ... 259: bytes, from 260 on: the vocabulary

    A word that the vocabulary lacks is spelled in the bytes of its UTF-8 form, so that nothing is lost (`decode` gives
    it back) and two such words differ. The empty prompt is start and end. All rows have the same length, so that
    conditions of different prompts can be joined; what is too long is cut off with a warning that says what.

    Args:
        vocabulary: words in lower case, or marks.
        length: L, tokens of a row, with start and end; at least 2.

    Raises:
        ValueError: an entry of the vocabulary that is no such word, or stands twice; a length below 2.
    """

    def __init__(self, vocabulary: Sequence[str], length: int = 32) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"length: expected at least 2 tokens, the start and the end; got {length}")
        for word in vocabulary:
            if not _PIECE.fullmatch(word) or word != word.lower():
                raise ValueError(f"vocabulary: expected single words in lower case, or marks; got {word!r}")
        self.length, self.vocabulary = length, tuple(vocabulary)
        self.ids = {word: SPELL + 1 + BYTES + i for i, word in enumerate(self.vocabulary)}
        if len(self.ids) < len(self.vocabulary):
            raise ValueError("vocabulary: a word stands twice")

    @property
    def size(self) -> int:
        """How many ids there are."""
        return SPELL + 1 + BYTES + len(self.vocabulary)

    def forward(self, words: Sequence[str]) -> Tensor:
        """Texts as ids (B, L)."""
        rows, lost = [], []
        for prompt in words:
            pieces = list(self._pieces(prompt))
            if len(pieces) > self.length - 2:
                lost.append(prompt[pieces[self.length - 2][1][0] :])
            ids = [START, *(i for i, _ in pieces[: self.length - 2]), END]
            rows.append(ids + [PAD] * (self.length - len(ids)))
        warn_cut(lost, self.length)
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), self.length)

    def spans(self, prompt: str) -> Spans:
        """Where the tokens of a prompt stand in it."""
        ranges = [where for _, where in self._pieces(prompt)][: self.length - 2]
        return Spans(prompt, ((0, 0), *ranges, (len(prompt), len(prompt))))

    def decode(self, ids: Tensor) -> list[str]:
        """The texts of ids (B, L): in lower case, one space between words and marks."""
        return [" ".join(_words(row, self.vocabulary)) for row in ids.tolist()]

    def _pieces(self, prompt: str) -> Iterator[tuple[int, tuple[int, int]]]:
        """Ids and the characters that they stand for, without start and end."""
        for found in _PIECE.finditer(prompt):
            known = self.ids.get(found.group().lower())
            if known is not None:
                yield known, found.span()
                continue
            yield SPELL, (found.start(), found.start() + 1)
            for place, letter in enumerate(found.group(), found.start()):
                spelled = letter.lower().encode("utf-8", "surrogatepass")
                yield from ((SPELL + 1 + byte, (place, place + 1)) for byte in spelled)


def _words(row: Sequence[int], vocabulary: Sequence[str]) -> Iterator[str]:
    spelled = b""
    for i in [*row, END]:
        if SPELL < i <= SPELL + BYTES:
            spelled += bytes([i - SPELL - 1])
            continue
        if spelled:
            yield spelled.decode("utf-8", "replace")
            spelled = b""
        if i > SPELL + BYTES:
            yield vocabulary[i - SPELL - 1 - BYTES]


class TextEncoder(Module):
    """A tokeniser and a network as one: words -> ids (B, L) -> embeddings (B, L, W) -> tokens (B, L, D).

        encoder(ids) == {"tokens": encode(embed(ids), mask(ids)), "mask": mask(ids), "pooled": pool(tokens, mask(ids))}

    Both ends are open: embeddings may be changed before `encode` (a learned word, one for each time), and tokens after
    it (an offset of one word, another prompt's tokens). `spans` says which rows are whose.

    Args:
        tokeniser: `Tokeniser`, or anything with its `length`, `size`, `spans` and call.
        network: `embed(ids)`, `encode(embeddings, mask)` and `pool(tokens, mask)`, such as `networks.TextTransformer`.

    Raises:
        ValueError: a network made for other ids or another length.
    """

    def __init__(self, tokeniser: Module, network: nn.Module) -> None:
        super().__init__()
        made: Any = tokeniser
        inner: Any = network
        if (inner.vocabulary, inner.length) != (made.size, made.length):
            raise ValueError(
                f"network: made for {inner.vocabulary} ids in rows of {inner.length}, the tokeniser has {made.size} in "
                f"rows of {made.length}"
            )
        self.tokeniser, self.network = made, inner

    @property
    def length(self) -> int:
        """L, tokens of a row."""
        return int(self.network.length)

    @property
    def features(self) -> int:
        """D, numbers of a token: what a network that reads them is made with."""
        return int(self.network.features)

    def tokenise(self, words: Sequence[str]) -> Tensor:
        """Texts as ids (B, L), all rows of one length.

        Raises:
            TypeError: one string in place of a list of them.
        """
        if isinstance(words, str):
            raise TypeError(f"words: expected a list of texts, got the one text {words!r}")
        ids: Tensor = self.tokeniser(words)
        return ids

    def spans(self, prompt: str) -> Spans:
        """Where the tokens of a prompt stand in it."""
        found: Spans = self.tokeniser.spans(prompt)
        return found

    def mask(self, ids: Tensor) -> Tensor:
        """(B, L), true for the tokens that are there, with start and end."""
        return ids != PAD

    def embed(self, ids: Tensor) -> Tensor:
        """What the network is given, (B, L, W): a vector for each token, which does not know of the others."""
        made: Tensor = self.network.embed(ids)
        return made

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, L, D), each told of others; zeros where the mask is false."""
        made: Tensor = self.network.encode(embeddings, mask)
        return made

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """One vector (B, P) for the whole text."""
        made: Tensor = self.network.pool(tokens, mask)
        return made

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """{"tokens": (B, L, D), "mask": (B, L), "pooled": (B, P)} of ids (B, L)."""
        mask = self.mask(ids)
        tokens = self.encode(self.embed(ids), mask)
        return {"tokens": tokens, "mask": mask, "pooled": self.pool(tokens, mask)}

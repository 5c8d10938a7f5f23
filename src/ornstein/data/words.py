"""English words as sequences of characters, all of one length."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, TensorSplit
from .partition import check_fraction, digests, held_out_mask

__all__ = ["ALPHABET", "PAD", "decode_words", "encode_words", "words"]

ALPHABET = string.ascii_lowercase
PAD = len(ALPHABET)  # the id that ends a word and fills the rest
_SHIPPED = Path(__file__).with_name("words.txt")
_SHORTEST = 3
_SHOWN = ALPHABET + "_?"  # a pad inside a word, an id outside the vocabulary (a mask left over)


def words(path: str | os.PathLike[str] | None = None, length: int = 8, held_out: float = 0.1) -> Dataset:
    """Lower-case English words as ids (length,): a..z are 0..25, 26 ends a word and fills the rest.

    Args:
        path: a text file with one word a line, e.g. /usr/share/dict/words; lines that are not 3 to
            `length` letters a-z are left out. By default the common words of SCOWL that the package
            ships, so that models trained on different machines mean the same data.
        length: L, characters of a state.
        held_out: fraction of the words to hold out, in equal shares by word length.

    Raises:
        ValueError: the file cannot be read, or holds fewer than two such words.
    """
    if length < _SHORTEST:
        raise ValueError(f"length: expected at least {_SHORTEST} characters, got {length}")
    check_fraction(held_out)
    kept = _read(Path(path) if path is not None else _SHIPPED, length)
    ids = encode_words(kept, length)
    held = held_out_mask(digests(word.encode() for word in kept), held_out, [len(w) for w in kept])
    mask = torch.from_numpy(held)
    return Dataset(
        "words",
        TensorSplit(ids[~mask]),
        TensorSplit(ids[mask]),
        shape=(length,),
        categories=PAD + 1,
        decode=decode_words,
    )


def encode_words(words: list[str], length: int = 8) -> Tensor:
    """Words of letters a-z as ids (N, length).

    Raises:
        ValueError: a word is longer than `length` or has another character.
    """
    pattern = re.compile(f"[a-z]{{0,{length}}}")
    if wrong := next((word for word in words if not pattern.fullmatch(word)), None):
        raise ValueError(f"words: expected at most {length} letters a-z, got {wrong!r}")
    padded = "".join(word.ljust(length, "{") for word in words)  # "{" follows "z"
    codes = np.frombuffer(padded.encode(), np.uint8).astype(np.int64) - ord("a")
    return torch.from_numpy(codes).reshape(len(words), length)


def decode_words(ids: Tensor) -> list[str]:
    """Ids (N, L) as strings without their final pads; others show as "_", leftover masks as "?"."""
    rows = ids.clamp(0, len(_SHOWN) - 1).tolist()
    return ["".join(_SHOWN[i] for i in row).rstrip(_SHOWN[PAD]) for row in rows]


def _read(path: Path, length: int) -> list[str]:
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"path: cannot read the word list {str(path)!r}: {error}") from error
    pattern = re.compile(f"[a-z]{{{_SHORTEST},{length}}}")
    kept = sorted({line.strip() for line in lines if pattern.fullmatch(line.strip())})
    if len(kept) < 2:
        raise ValueError(
            f"path: expected one word a line, of {_SHORTEST} to {length} letters a-z; "
            f"{str(path)!r} has {len(kept)}"
        )
    return kept

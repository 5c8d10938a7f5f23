"""Samples as files: pictures, arrays, text. What a file can hold is checked before a sample is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ornstein.core import leaves, tree_map

from .paths import check_file, check_folder, write
from .screen import say

if TYPE_CHECKING:
    from ornstein.core import Denoiser

__all__ = ["Results", "shape_of_samples"]

_PICTURES, _ARRAYS, _TEXT = (".png",), (".npy", ".npz"), (".txt",)


class Results:
    """Where the samples of a model go.

    Args:
        denoiser: whose samples they are.
        name: the model's, as it was asked for: tells whether ids are words.
        out: a file or, without suffix, a folder for pictures; None for what suits the samples.
        force: overwrite.

    Raises:
        ValueError: a file of another kind than the samples.
        OSError: it exists, or cannot be written.
    """

    def __init__(self, denoiser: Denoiser, name: str, out: Path | None, force: bool) -> None:
        self.shape, self.process = shape_of_samples(denoiser), denoiser.process
        self.leaf = self._picture_leaf()
        self.words = _are_words(name, denoiser)
        discrete = bool(self.process.discrete)
        if out is None:
            out = Path("samples.png") if self.leaf is not None else None if discrete else Path("samples.npz")
        self.out = out
        suffixes = (_PICTURES if self.leaf is not None else ()) + (_TEXT if discrete else ())
        suffixes += _ARRAYS[1:] if isinstance(self.shape, dict) else _ARRAYS
        if out is not None and (out.suffix or self.leaf is None):
            check_file(out, suffixes, force)
        elif out is not None:
            check_folder(out, force)

    def write(self, samples: Any, labels: int | list[int] | None) -> None:
        """Write the samples, or print them where there is no file.

        Raises:
            FloatingPointError: samples that are not finite; nothing is written.
            OSError: the disk is full; nothing is left of the file.
        """
        samples = tree_map(lambda leaf: leaf.detach().cpu(), samples)
        if not all(bool(leaf.isfinite().all()) for leaf in leaves(samples)):
            raise FloatingPointError("the samples hold NaN or infinite values, and were not written")
        if self.out is None:
            say(self._text(samples).rstrip())
        else:
            write(self.out, self._content(samples, labels, self.out.suffix.lower()))
        if isinstance(samples, dict) and self.leaf and (self.out is None or self.out.suffix == ".png"):
            others = {k: v.tolist() for k, v in samples.items() if k != self.leaf}
            say("\n".join(f"{k}: {' '.join(map(str, v))}" for k, v in others.items()))

    def where(self) -> str:
        """The end of a sentence."""
        return f", written to {self.out}" if self.out else ""

    def _content(
        self, samples: Any, labels: int | list[int] | None, suffix: str
    ) -> bytes | Mapping[str, bytes]:
        if suffix in _ARRAYS:
            return _arrays(samples, labels, suffix)
        if suffix in _TEXT:
            return self._text(samples).encode()
        pictures = samples[self.leaf] if self.leaf else samples
        return _sheet(pictures) if suffix else _each(pictures)

    def _text(self, samples: Any) -> str:
        from ornstein.data import decode_words

        rows = decode_words(samples) if self.words else [" ".join(map(str, row)) for row in samples.tolist()]
        return "".join(f"{row}\n" for row in rows)

    def _picture_leaf(self) -> str | None:
        """Which leaf is a picture: "" where the state is one itself, None where there is none."""
        shapes = self.shape if isinstance(self.shape, dict) else {"": self.shape}
        parts = getattr(self.process, "parts", {"": self.process})
        return next((k for k, s in shapes.items() if _is_picture(s, parts[k])), None)


def shape_of_samples(denoiser: Denoiser) -> Any:
    """Of a sample as it comes out: that of a state, or of what a codec makes of one."""
    import torch

    if not hasattr(denoiser.process, "codec"):
        return denoiser.shape
    with torch.no_grad():
        decoded = denoiser.process.readout(torch.zeros_like(denoiser.like(1)))
    return tuple(decoded.shape[1:])


def _is_picture(shape: Any, process: Any) -> bool:
    return shape is not None and len(shape) == 3 and shape[0] in (1, 3, 4) and not process.discrete


def _are_words(name: str, denoiser: Denoiser) -> bool:
    from ornstein.data.words import PAD
    from ornstein.zoo import data_of

    return getattr(denoiser.process, "categories", None) == PAD + 1 and data_of(name) == "words"


def _sheet(pictures: Any) -> bytes:
    from ornstein.data.image import to_bytes
    from ornstein.training.sheets import picture

    return picture(to_bytes(pictures), columns=max(8, math.isqrt(len(pictures))))


def _each(pictures: Any) -> dict[str, bytes]:
    from ornstein.data.image import to_bytes
    from ornstein.training.sheets import picture

    shown = to_bytes(pictures)
    return {f"{i:05d}.png": picture(shown[i : i + 1], columns=1, least=1) for i in range(len(shown))}


def _arrays(samples: Any, labels: int | list[int] | None, suffix: str) -> bytes:
    """An array, or named ones: "x", and "y" for labels, as `ornstein train` reads them."""
    import numpy as np

    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, samples.numpy())
        return file.getvalue()
    named = {k: v.numpy() for k, v in (samples if isinstance(samples, dict) else {"x": samples}).items()}
    if labels is not None:
        named["y"] = np.broadcast_to(np.asarray(labels), (len(samples),))
    np.savez(file, **named)
    return file.getvalue()

"""Pictures: files in, tensors in [-1, 1], bytes out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.tree import select
from .dataset import Dataset, Split

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Header",
    "ImageSplit",
    "from_bytes",
    "image_dataset",
    "open_header",
    "picture_shape",
    "to_bytes",
]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY = {"1", "L", "I;16", "I", "F"}
_CACHE_BYTES = 2**29  # decoded pictures are kept up to 512 MiB a split


def from_bytes(pixels: Tensor) -> Tensor:
    """0..255 of any integer type to float32 in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Images (B, C, H, W) in [-1, 1] to uint8 (B, H, W, C); what lies outside is clipped."""
    pixels = ((x.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


class Header(NamedTuple):
    """What a picture's file says of it before it is decoded: pixels upright, grey or colour."""

    height: int
    width: int
    grey: bool


def open_header(raw: bytes | str, name: str) -> Header:
    """Read the header of encoded bytes or of a file.

    Raises:
        ValueError: it is not a picture that Pillow can read; names it.
    """
    with _open(raw, name) as image:
        width, height = image.size[::-1] if _is_sideways(image) else image.size
        return Header(height, width, image.mode in _GREY)


def _is_sideways(image: Image.Image) -> bool:
    """Whether EXIF swaps width and height; a PNG without it would be decoded to answer."""
    if image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(0x0112, 1) >= 5


def picture_shape(
    headers: Sequence[Header], names: Sequence[str], size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """The common shape (C, H, W) of pictures that are cropped to `size` or, by None, of one size.

    Raises:
        ValueError: `size` or `channels` is out of range, or is needed since sizes differ.
    """
    if channels not in (None, *_MODES):
        raise ValueError(f"channels: expected 1 (grey), 3 (RGB) or 4 (RGBA), got {channels!r}")
    channels = channels or (1 if all(h.grey for h in headers) else 3)
    if size is not None:
        if size < 1:
            raise ValueError(f"size: expected a positive number of pixels, got {size!r}")
        return channels, size, size
    first = headers[0]
    for header, name in zip(headers, names, strict=True):
        if header[:2] != first[:2]:
            raise ValueError(
                f"size: images differ: {names[0]!r} is {first.width}x{first.height}, {name!r} is "
                f"{header.width}x{header.height}; give size=N to crop and resize all to NxN"
            )
    return channels, first.height, first.width


class ImageSplit(Split):
    """Pictures decoded when they are first asked for.

    A picture of another size is cropped centrally to the right proportions and resized by Lanczos.

    Args:
        read: from an index to the picture's encoded bytes.
        names: what to call each picture in errors.
        shape: (C, H, W) of a state.
        fields: named conditions (N, ...).
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        names: Sequence[str],
        shape: tuple[int, int, int],
        fields: dict[str, Tensor],
    ) -> None:
        self.fields = fields
        self._read, self._names, self._shape = read, names, shape
        rows = len(names) if len(names) * np.prod(shape) <= _CACHE_BYTES else 0
        self._cache = torch.empty((rows, *shape), dtype=torch.uint8)
        self._cached = torch.zeros(len(names), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._names)

    def _states(self, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.empty((0, *self._shape))
        return from_bytes(torch.stack([self._pixels(i) for i in indices.tolist()]))

    def _pixels(self, index: int) -> Tensor:
        if self._cached[index]:
            return self._cache[index]
        pixels = _decode(self._read(index), self._names[index], self._shape)
        if len(self._cache):
            self._cache[index], self._cached[index] = pixels, True
        return pixels


def image_dataset(
    name: str,
    read: Callable[[int], bytes],
    names: Sequence[str],
    labels: NDArray[np.int64] | None,
    classes: tuple[str, ...],
    held: NDArray[np.bool_],
    shape: tuple[int, int, int],
) -> Dataset:
    """Pictures read by index, those in the mask `held` (N,) held out."""
    fields = {} if labels is None else {"label": torch.from_numpy(labels)}

    def split(rows: NDArray[np.int64]) -> ImageSplit:
        chosen = [names[i] for i in rows]
        return ImageSplit(lambda i: read(int(rows[i])), chosen, shape, select(fields, rows))

    train, test = split(np.flatnonzero(~held)), split(np.flatnonzero(held))
    return Dataset(name, train, test, shape, classes, decode=to_bytes)


def _decode(raw: bytes, name: str, shape: tuple[int, int, int]) -> Tensor:
    from PIL import Image, ImageOps

    channels, height, width = shape
    with _open(raw, name) as opened:
        try:
            image = _to_mode(ImageOps.exif_transpose(opened), _MODES[channels])
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's three words for damage
            raise ValueError(f"image {name!r} cannot be decoded: {error}") from error
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # deeper than 8 bits: Pillow would clip, not scale
        if not image.mode.startswith("I;16"):
            raise ValueError(f"{image.mode} pixels have no fixed range; save it with 8 or 16 bits")
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGBA").convert(mode) if image.mode == "P" else image.convert(mode)


def _open(raw: bytes | str, name: str) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {name!r} cannot be read: {error}") from error

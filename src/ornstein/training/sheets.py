"""Sheets of samples, drawn while a model trains."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ornstein.core import Denoiser, Tree
from ornstein.denoisers.atomic import write_files

__all__ = ["default_draw", "picture", "write_sheet"]

COLUMNS = ROWS = 8


def default_draw(data: Any, accepted: frozenset[str], seed: int) -> Callable[[Denoiser], Tree]:
    """Eight rows of samples by the recommended solver in 20 steps; with classes, a column for each; with texts, those
    of the first held-out samples.
    """
    classes = len(getattr(data, "classes", ())) if "label" in accepted else 0
    count = ROWS * (classes or COLUMNS)
    texts = getattr(data.held_out, "texts", None) if "text" in accepted else None

    def draw(model: Denoiser) -> Tree:
        from ornstein.solvers import sample

        fields: dict[str, Any] = {"label": torch.arange(count) % classes} if classes else {}
        if texts:
            fields["text"] = [texts[i % len(texts)] for i in range(count)]
        return sample(model, count, steps=20, seed=seed, **fields)

    draw.columns = classes or COLUMNS  # type: ignore[attr-defined]
    return draw


def write_sheet(folder: Path, step: int, shown: Any, columns: int = COLUMNS) -> list[Path]:
    """Write what was drawn: pictures as one PNG, anything else as text; a file for each leaf of a tree.

    Args:
        folder: made if it does not exist.
        step: names the files.
        shown: uint8 pictures (B, H, W, C), a list of words, an array (B, ...), or a dict of them.
        columns: of the sheet.

    Raises:
        OSError: they cannot be written.
    """
    leaves = shown if isinstance(shown, dict) else {"": shown}
    files = {}
    for name, leaf in leaves.items():
        stem = f"step-{step:08d}" + (f"-{name}" if name else "")
        if getattr(leaf, "ndim", 0) == 4 and leaf.dtype.name == "uint8":
            files[f"{stem}.png"] = picture(leaf, columns)
        else:
            files[f"{stem}.txt"] = _text(leaf, columns).encode()
    write_files(folder, files)
    return [folder / name for name in files]


def picture(images: Any, columns: int = COLUMNS, least: int = 512) -> bytes:
    """A grid of pictures (B, H, W, C) with 1, 3 or 4 channels as PNG, small ones enlarged by a whole factor.

    Args:
        images: uint8, row by row.
        columns: of the grid.
        least: enlarge until the grid is about this wide, in pixels.
    """
    import numpy as np
    from PIL import Image

    n, height, width, channels = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:n] = images
    grid = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    factor = max(1, least // (columns * width))
    grid = grid.repeat(factor, 0).repeat(factor, 1)
    file = io.BytesIO()
    Image.fromarray(grid[..., 0] if channels == 1 else grid).save(file, "PNG")
    return file.getvalue()


def _text(values: Any, columns: int) -> str:
    items = [v if isinstance(v, str) else str(v.tolist()) for v in values]
    wide = max(map(len, items), default=0)
    rows = [items[i : i + columns] for i in range(0, len(items), columns)]
    return "".join("  ".join(v.ljust(wide) for v in row).rstrip() + "\n" for row in rows)

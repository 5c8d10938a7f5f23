"""The pictures of the page on scenes, drawn into docs/images.

python docs/hooks/scenes.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from ornstein.core import Keyed
from ornstein.data import CORRUPTIONS, Corruption
from ornstein.data.image import to_bytes
from ornstein.data.scenes import (
    draw_creatures,
    draw_identities,
    draw_scenes,
    draw_sequences,
    render,
    render_creatures,
    render_sequences,
)
from ornstein.training.sheets import picture

IMAGES = Path(__file__).parents[1] / "images"
SIZE = 64


def sheets() -> dict[str, tuple[torch.Tensor, int]]:
    """Images (N, 3, 64, 64) and the columns of their sheet, by name."""
    who = draw_identities(6, 3).repeat_interleave(10, 0)
    moving = render_sequences(draw_sequences(6, 10, 3, bounce=True), SIZE)
    spoiled = render(draw_scenes(10, 1), SIZE)[9:]
    return {
        "scenes-world": (render(draw_scenes(40, 4), SIZE), 10),
        "creatures": (render_creatures(draw_creatures(60, 1, who), SIZE), 10),
        "sequences": (moving.flatten(0, 1), 10),
        "corruptions": (
            torch.cat([Corruption(name, k)(spoiled, Keyed(3, 1)) for name in CORRUPTIONS for k in range(6)]), 12,
        ),
    }  # fmt: skip


if __name__ == "__main__":
    for name, (images, columns) in sheets().items():
        (IMAGES / f"{name}.png").write_bytes(picture(to_bytes(images), columns=columns, least=SIZE))

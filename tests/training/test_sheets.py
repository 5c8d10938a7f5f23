from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ornstein.training.sheets import picture, write_sheet


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_stand_row_by_row(channels: int) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, channels), np.uint8)
    sheet = opened(picture(images, columns=3, least=1))
    assert sheet.shape == ((4, 9) if channels == 1 else (4, 9, channels))
    values = sheet if channels == 1 else sheet[..., 0]
    assert values[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 0]]


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1)).astype(np.uint8)
    large, small = (opened(picture(images, 2, least)) for least in (100, 1))
    assert large.shape == (96, 96)
    assert (large[::6, ::6] == small).all()


def test_words_are_text_and_a_tree_has_a_file_for_each_leaf(tmp_path) -> None:
    write_sheet(tmp_path, 7, ["one", "three", "two"], columns=2)
    assert (tmp_path / "step-00000007.txt").read_text() == "one    three\ntwo\n"
    tree = {"image": np.zeros((2, 4, 4, 1), np.uint8), "label": np.array([3, 12])}
    made = write_sheet(tmp_path, 8, tree)
    assert [p.name for p in made] == ["step-00000008-image.png", "step-00000008-label.txt"]
    assert made[1].read_text() == "3   12\n"

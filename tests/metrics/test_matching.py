from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ornstein.metrics import retrieval, told_apart


class Pair(nn.Module):
    """An image is an angle, a text the angle in degrees: all are unit vectors."""

    def of_images(self, x):
        return torch.stack([x.flatten().cos(), x.flatten().sin()], 1)

    def of_texts(self, ids):
        return self.of_images(ids[:, 0].double() * math.pi / 180)


def angles(*degrees):
    return torch.tensor(degrees, dtype=torch.float64).reshape(-1, 1, 1, 1) * math.pi / 180


def test_the_nearest_text_and_the_nearest_image_are_counted():
    ids = torch.tensor([[0], [90], [180], [270]])
    found = retrieval(Pair(), angles(10, 80, 100, 275), ids)
    assert found["image to text"].value == 0.75 and found["image to text"].n == 4
    assert found["text to image"].value == 1.0  # the image at 100 degrees is nearest to 180 all the same
    one = retrieval(Pair(), angles(10, 80, 100, 275), ids, among=1)
    assert {v.value for v in one.values()} == {1.0}
    two = retrieval(Pair(), angles(10, 80, 100, 275), ids, among=2)
    assert two["image to text"].value == 1.0  # 90 stands in another block than 100


def test_the_same_text_is_found_in_any_of_its_places():
    ids = torch.tensor([[90], [90], [0]])
    found = retrieval(Pair(), angles(91, 89.5, 5), ids)
    assert found["image to text"].value == 1.0 and found["text to image"].value == 1.0


def test_a_pair_is_told_from_another_by_both_sides():
    x, ids = angles(0, 90, 200), torch.tensor([[10], [60], [205]])
    found = told_apart(Pair(), x, ids, angles(30, 70, 206), torch.tensor([[20], [80], [190]]))
    # texts, from the image: 10 < 20, 30 > 10, 5 < 10 degrees; images, from the text: 10 < 20, 30 > 10, 5 > 1
    assert found["texts"].value == pytest.approx(2 / 3) and found["images"].value == pytest.approx(1 / 3)
    assert found["texts"].low < 2 / 3 < found["texts"].high


def test_what_fits_equally_is_not_told_apart():
    x, ids = angles(0, 90), torch.tensor([[10], [60]])
    assert told_apart(Pair(), x, ids, angles(30, 70), ids)["texts"].value == 0
    assert told_apart(Pair(), x, ids, x, torch.tensor([[20], [80]]))["images"].value == 0

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from ornstein.core import Condition
from ornstein.networks import LabelEmbedding, LevelEmbedding, TokenEmbedding, sinusoid


def test_a_sinusoid_has_unit_pairs_and_its_stated_frequencies():
    level = torch.linspace(-10, 10, 21, dtype=torch.double)
    cosines, sines = sinusoid(level, 8).chunk(2, dim=1)
    assert torch.allclose(cosines**2 + sines**2, torch.ones_like(cosines))
    assert torch.allclose(sines[:, 0], (0.1 * level).sin())
    assert torch.allclose(sines[:, -1], (5 * level).sin())
    ratios = sinusoid(torch.tensor([1e-6], dtype=torch.double), 8)[0, 4:]
    assert torch.allclose(ratios[1:] / ratios[:-1], (ratios[1] / ratios[0]).expand(3))


def test_levels_over_the_usual_range_are_told_apart():
    level = torch.linspace(-10, 10, 201)
    distances = torch.cdist(sinusoid(level, 64), sinusoid(level, 64))
    assert (distances + 10 * torch.eye(201)).min() > 0.1


def test_levels_beyond_the_limit_are_the_limit():
    far = torch.tensor([torch.inf, 25.0, -torch.inf])
    assert torch.equal(sinusoid(far, 8), sinusoid(torch.tensor([20.0, 20.0, -20.0]), 8))


def test_low_precision_levels_are_embedded_in_float32():
    level = torch.tensor([1.5, -3.25])
    assert torch.equal(sinusoid(level.bfloat16(), 8), sinusoid(level, 8))
    assert sinusoid(level.double(), 8).dtype is torch.double
    assert LevelEmbedding(4).bfloat16()(level).dtype is torch.bfloat16


def test_soft_rows_are_weighted_sums_of_tokens():
    embedding = TokenEmbedding(5, 3)
    ids = torch.tensor([[0, 4], [2, 2]])
    assert torch.equal(embedding(one_hot(ids, 5).float()), embedding(ids))
    mean = embedding(torch.full((5,), 0.2))
    assert torch.allclose(mean, embedding.weight.mean(0))
    with pytest.raises(ValueError, match=r"soft rows: expected 5 weights .* got shape \(2, 4\)"):
        embedding(torch.zeros(2, 4))


def test_absent_labels_are_the_null_vector():
    embedding = LabelEmbedding(3, 4)
    present = torch.tensor([True, False])
    rows = embedding(Condition({"label": torch.tensor([2, 2])}, {"label": present}), 2)
    assert torch.equal(rows, torch.stack([embedding.table.weight[2], embedding.null]))
    assert torch.equal(embedding(None, 2), embedding.null.expand(2, -1))
    rows.sum().backward()
    assert embedding.table.weight.grad.abs().sum(1).tolist() == [0, 0, 4]
    assert embedding.null.grad.tolist() == [1] * 4

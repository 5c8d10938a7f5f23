"""Diversity and identity in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.metrics.scenes_variety import diversity, identity_score


def test_diversity_by_hand() -> None:
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [7.0, 7.0]])
    found = diversity(images, torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(found[:3], torch.tensor([2.5, 5.0, 2.5]).double() / math.sqrt(2))
    assert found[3].isnan()
    assert (diversity(images[:1].repeat(4, 1), torch.zeros(4)) == 0).all()


def test_diversity_of_noise() -> None:
    """Standard normal images are sqrt(2) apart, a pixel."""
    x = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = torch.arange(40) % 2
    assert float(diversity(x, prompts).mean()) == pytest.approx(math.sqrt(2), rel=0.01)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(diversity(x[order], prompts[order]), diversity(x, prompts)[order])
    with pytest.raises(ValueError, match="prompts"):
        diversity(x, prompts[:3])


def pictures(seed: int, codes: torch.Tensor, spread: float) -> torch.Tensor:
    noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return codes + spread * noise


def test_identity_of_true_pictures_of_others_and_of_copies() -> None:
    codes = pictures(0, torch.zeros(65, 8).double(), 1.0)
    references, others = pictures(1, codes, 0.1), pictures(2, codes, 0.1)
    ids = torch.arange(65)
    true = identity_score(lambda v: v, pictures(3, codes, 0.1), ids, references, others)
    assert float(true.consistency.mean()) == pytest.approx(1, abs=0.03) and (true.recalled == 1).all()
    wrong = identity_score(lambda v: v, pictures(3, codes, 0.1), ids.roll(1), references, others)
    assert float(wrong.consistency.mean()) == pytest.approx(0, abs=0.06) and (wrong.recalled == 0).all()
    assert true.chance == 1 / 65 and true.floor == pytest.approx(0.1 * math.sqrt(2 * 8), rel=0.1)
    copies = identity_score(lambda v: v, references, ids, references, others)
    assert (copies.within == 0).all() and (copies.consistency > 1).all()  # nearer than true pictures are
    assert true.estimates()["recalled"].value == 1


def test_a_row_does_not_depend_on_the_others() -> None:
    codes = pictures(0, torch.zeros(9, 4).double(), 1.0)
    references, others, images = (pictures(seed, codes, 0.3) for seed in (1, 2, 3))
    whole = identity_score(lambda v: v, images, torch.arange(9), references, others)
    one = identity_score(lambda v: v, images[4:5], torch.tensor([4]), references, others)
    torch.testing.assert_close(one.consistency, whole.consistency[4:5])
    with pytest.raises(ValueError, match="one identity an image"):
        identity_score(lambda v: v, images, torch.arange(3), references, others)

from __future__ import annotations

import pytest
import torch

from ornstein import data
from ornstein.core import Keyed
from ornstein.data import LowResolution, Masked, Noisy, degraded, enlarged


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_the_small_image_holds_the_means_of_blocks(digits):
    pairs = degraded(digits, LowResolution(4)).held_out.batch(torch.arange(5))
    blocks = pairs["x_0"].reshape(5, 1, 2, 4, 2, 4).mean((3, 5))
    torch.testing.assert_close(pairs["fields"]["measurement"], blocks)
    assert pairs["fields"]["anchor"].shape == (5, 1, 8, 8)
    torch.testing.assert_close(pairs["fields"]["anchor"], enlarged(blocks, (8, 8)))
    assert torch.equal(pairs["fields"]["label"], digits.held_out.fields["label"][:5])


def test_an_image_is_degraded_alike_whenever_it_is_seen(digits):
    noisy = degraded(digits, LowResolution(2), Noisy(0.3), seed=4).train
    all_of_it = noisy.fields["measurement"]
    some = noisy.batch(torch.tensor([7, 3, 7]))["fields"]["measurement"]
    assert torch.equal(some, all_of_it[[7, 3, 7]]) and not torch.equal(some[0], some[1])
    other = degraded(digits, LowResolution(2), Noisy(0.3), seed=5)
    assert not torch.equal(other.train.fields["measurement"][:9], all_of_it[:9])
    held_out = degraded(digits, Noisy(0.3), seed=4)
    left, right = (s.batch(torch.arange(3)) for s in (held_out.train, held_out.held_out))
    assert not torch.allclose(*(r["fields"]["measurement"] - r["x_0"] for r in (left, right)))


def test_noise_has_its_size_and_the_mask_its_share(digits):
    x = digits.train.x_0[:400]
    gap = Noisy(0.3)(x, Keyed(0, 400)) - x
    assert float(gap.std()) == pytest.approx(0.3, rel=0.02) and float(gap.mean()) == pytest.approx(
        0.0, abs=0.01
    )
    masked = Masked(0.25, fill=-9.0)
    hidden = masked.hidden(x, Keyed(0, 400))
    assert float(hidden.float().mean()) == pytest.approx(0.25, abs=0.01)
    left = masked(x, Keyed(0, 400))
    assert (left[hidden] == -9).all() and torch.equal(left[~hidden], x[~hidden])


def test_the_set_is_the_source_in_all_else(digits):
    pairs = degraded(digits, LowResolution(2))
    assert (len(pairs.train), len(pairs.held_out)) == (len(digits.train), len(digits.held_out))
    assert pairs.shape == digits.shape and pairs.classes == digits.classes
    assert set(pairs.train.fields) == {"label", "measurement", "anchor"} and len(pairs.train.fields) == 3
    assert torch.equal(pairs.train.x_0, digits.train.x_0)


def test_the_built_in_set_names_its_source():
    pairs = data.load("super-resolution", source="digits", factor=2)
    assert pairs.name == "super-resolution" and pairs.options == {"source": "digits", "factor": 2}
    assert pairs.train.batch(torch.arange(2))["fields"]["measurement"].shape == (2, 1, 4, 4)


def test_what_cannot_be_degraded_is_refused(digits):
    with pytest.raises(ValueError, match="at least one"):
        degraded(digits)
    with pytest.raises(ValueError, match="expected images"):
        degraded(data.load("words"), LowResolution(2))
    with pytest.raises(ValueError, match="divisible by 3"):
        degraded(digits, LowResolution(3)).train.batch(torch.arange(2))
    for wrong in (lambda: LowResolution(1), lambda: Noisy(0.0), lambda: Masked(1.0)):
        with pytest.raises(ValueError, match="expected"):
            wrong()

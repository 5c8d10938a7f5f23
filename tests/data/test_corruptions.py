from __future__ import annotations

import itertools
import math

import pytest
import torch

from ornstein import data
from ornstein.core import Keyed
from ornstein.data import CORRUPTIONS, Corruption, degraded

STILL = ("blur", "grey", "dark", "contrast", "pixelate", "sketch")  # nothing is drawn


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return data.load("scenes", size=32, count=40).train.x_0.double()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_are_graded_from_none(name, images):
    noise = Keyed(0, len(images))
    assert torch.equal(Corruption(name, 0)(images, noise), images)
    gaps = [float((Corruption(name, k)(images, noise) - images).square().mean()) for k in range(6)]
    assert gaps[1] > 1e-4 and all(a < b for a, b in itertools.pairwise(gaps))
    spoiled = Corruption(name, 5)(images, noise)
    assert spoiled.shape == images.shape and spoiled.dtype == images.dtype
    assert float(spoiled.min()) >= -1 and float(spoiled.max()) <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strengths_grow_from_one_that_changes_nothing(name):
    none, *others = (Corruption(name, k).strength for k in range(6))
    assert none == (1.0 if name in ("dark", "contrast", "pixelate") else 0.0)
    gaps = [abs(strength - none) for strength in others]
    assert all(a < b for a, b in itertools.pairwise([0.0, *gaps]))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_spoiled_alike_in_any_batch(name, images):
    spoil, noise, order = Corruption(name, 4), Keyed(3, len(images)), torch.tensor([9, 0, 39])
    whole = spoil(images, noise)
    torch.testing.assert_close(spoil(images[order], Keyed(3, order)), whole[order], atol=1e-12, rtol=0)
    same = torch.stack([images[0]] * 5)
    drawn = spoil(same, Keyed(3, 5))
    assert torch.equal(drawn[0].expand_as(drawn), drawn) == (name in STILL)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_gradient_goes_through(name, images):
    x = (0.9 * images[:2]).requires_grad_()
    Corruption(name, 3)(x, Keyed(0, 2)).sum().backward()
    assert bool(x.grad.isfinite().all())


def constant(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.float64)[None, :, None, None].expand(1, 3, 32, 32) * 2 - 1


def spoiled(name: str, severity: int, u: torch.Tensor, key: int = 0) -> torch.Tensor:
    """In [0, 1]."""
    return (Corruption(name, severity)(u, Keyed(key, 1)) + 1) / 2


def test_noise_has_its_size():
    grey = constant(0.5, 0.5, 0.5).expand(40, -1, -1, -1)
    gap = Corruption("noise", 1)(grey, Keyed(0, 40)) - grey
    assert float(gap.std()) == pytest.approx(0.1, rel=0.02)


def test_dark_and_contrast_are_factors(images):
    u = (images[:4] + 1) / 2
    torch.testing.assert_close((Corruption("dark", 3)(images[:4], Keyed(0, 4)) + 1) / 2, 0.45 * u)
    flat = (Corruption("contrast", 3)(images[:4], Keyed(0, 4)) + 1) / 2
    mean = u.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(flat, mean + 0.45 * (u - mean))


def test_grey_is_the_luminance_in_the_end(images):
    found = Corruption("grey", 5)(images, Keyed(0, len(images)))
    wanted = (images * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(1)
    for channel in found.unbind(1):
        torch.testing.assert_close(channel, wanted, atol=1e-6, rtol=0)


def test_blur_keeps_constants_and_spreads_a_point_by_its_deviation():
    torch.testing.assert_close(spoiled("blur", 5, constant(0.2, 0.5, 0.9)), (constant(0.2, 0.5, 0.9) + 1) / 2)
    point = -torch.ones(1, 3, 65, 65, dtype=torch.float64)
    point[..., 32, 32] = 1
    mass = spoiled("blur", 3, point)[0, 0]
    offset = torch.arange(65).double() - 32
    assert float(mass.sum()) == pytest.approx(1)
    for axis in (0, 1):
        spread = (mass.sum(axis) * offset**2).sum().sqrt()
        assert float(spread) == pytest.approx(0.04 * 65, rel=0.02)
    torch.testing.assert_close(mass, mass.T)


def test_blur_goes_by_each_side_of_an_image_that_is_not_square():
    point = -torch.ones(1, 3, 65, 129, dtype=torch.float64)
    point[..., 32, 64] = 1
    mass = spoiled("blur", 3, point)[0, 0]
    for axis, side in enumerate((65, 129)):
        offset = torch.arange(side).double() - side // 2
        spread = (mass.sum(1 - axis) * offset**2).sum().sqrt()
        assert float(spread) == pytest.approx(0.04 * side, rel=0.02)


def test_haze_lies_between_the_image_and_the_air():
    through = spoiled("haze", 3, constant(0.0, 0.3, 0.9), key=5)[0] - 0.9
    torch.testing.assert_close(through[2], torch.zeros(32, 32, dtype=torch.float64))
    share = through[0] / -0.9
    torch.testing.assert_close(through[1] / -0.6, share)
    depth = -share.log() / 0.8
    assert 0.45 < float(depth.min()) < float(depth.max()) < 1.55
    torch.testing.assert_close(depth[1:] - depth[:-1], (depth[1, 0] - depth[0, 0]).expand(31, 32))
    slope = torch.stack([depth[1, 0] - depth[0, 0], depth[0, 1] - depth[0, 0]]).norm() * 32
    assert float(slope) == pytest.approx(1 / math.sqrt(2))
    assert float(depth.mean()) == pytest.approx(1)


def test_the_watermark_is_one_light_box_inside_of_the_image():
    for key in range(8):
        found = spoiled("watermark", 3, constant(0.1, 0.1, 0.1), key)[0, 0]
        marked = found > 0.1 + 1e-6
        torch.testing.assert_close(found[marked], torch.full_like(found[marked], 0.35 * 0.1 + 0.65 * 0.95))
        rows, columns = marked.any(1), marked.any(0)
        assert torch.equal(marked, rows[:, None] & columns)
        for side in (rows, columns):
            assert int(side.sum()) in (11, 12) and int(side.int().diff().abs().sum()) in (1, 2)  # 0.36 of 32


def test_pixels_are_means_of_blocks(images):
    found = Corruption("pixelate", 2)(images[:3], Keyed(0, 3))
    blocks = images[:3].reshape(3, 3, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(found, blocks.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_colour_shift_turns_about_grey():
    grey = constant(0.4, 0.4, 0.4)
    torch.testing.assert_close(Corruption("colour", 5)(grey, Keyed(0, 1)), grey)
    red, turned = constant(0.6, 0.3, 0.3), set()
    for key in range(10):
        found = spoiled("colour", 5, red, key)[0, :, 0, 0]
        assert float(found.mean()) == pytest.approx(0.4)
        turned.add(tuple(round(float(v), 6) for v in found))
    assert turned == {(0.3, 0.6, 0.3), (0.3, 0.3, 0.6)}  # a third of a turn, either way


def test_a_sketch_is_white_with_a_line_at_a_step():
    half = constant(0.1, 0.1, 0.1).clone()
    half[..., 16:] = 0.8
    found = spoiled("sketch", 5, half)[0, 0]
    assert (
        float(found[:, 15].max()) == 0
        and bool((found[:, :15] > 1 - 1e-5).all())
        and bool((found[:, 16:] > 1 - 1e-5).all())
    )


def test_corruptions_stack_on_any_images(images):
    pairs = degraded(
        data.load("scenes", size=16, count=9), Corruption("haze", 2), Corruption("dark", 1), seed=4
    )
    record = pairs.train.batch(torch.arange(5))
    noise = Keyed(4, 5).fold("train")
    hazy = Corruption("haze", 2)(record["x_0"], noise.fold(0))
    assert torch.equal(record["fields"]["measurement"], Corruption("dark", 1)(hazy, noise.fold(1)))
    grey = images[:4, :1]
    for name in set(CORRUPTIONS) - {"grey", "colour"}:
        assert Corruption(name)(grey, Keyed(0, 4)).shape == grey.shape


def test_what_is_not_meant_is_refused(images):
    with pytest.raises(ValueError, match="blur"):
        Corruption("blurr")
    for severity in (6, -1, 1.5, True):
        with pytest.raises(ValueError, match="severity"):
            Corruption("blur", severity)
    for name, x in (("grey", images[:, :1]), ("colour", images[:, :1]), ("dark", images[0])):
        with pytest.raises(ValueError, match=name):
            Corruption(name)(x, Keyed(0, len(x)))
    assert repr(Corruption("haze", 2)) == "Corruption('haze', 2)" and Corruption("haze", 2).strength == 0.5

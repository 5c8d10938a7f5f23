from __future__ import annotations

import pytest
import torch

from ornstein import data, zoo
from ornstein.alignment import search_boundary
from ornstein.core import Sampler
from ornstein.data import LowResolution, degraded
from ornstein.metrics import load_classifier, psnr
from ornstein.solvers import DPMSolverPP
from ornstein.systems import super_resolution


@pytest.fixture(autouse=True)
def single_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def pairs():
    return degraded(data.load("digits"), LowResolution(2))


@pytest.mark.parametrize("process", super_resolution.PROCESSES)
def test_a_short_training_learns_to_read_the_small_image(process, pairs, tmp_path):
    """Digits, 8x8 from 4x4: what is restored is nearer to its own truth than to another image's."""
    run = super_resolution.train(
        "digits", process, factor=2, width=8, steps=60, out=tmp_path, learning_rate=3e-3, ema=0.95, progress=False,
        evaluate_every=0,
    )  # fmt: skip
    test = pairs.held_out.batch(torch.arange(32))
    images = super_resolution.restore(run.denoiser, test["fields"]["measurement"], steps=4).clamp(-1, 1)
    own, other = (psnr(images, truth).mean() for truth in (test["x_0"], test["x_0"].roll(1, 0)))
    assert images.shape == (32, 1, 8, 8) and own > other + 1.5
    assert [line["loss"] for line in run.metrics if "loss" in line][-1] < 1.0


def test_an_unknown_process_is_refused(pairs):
    with pytest.raises(ValueError, match="Did you mean 'flow'"):
        super_resolution.model_for(pairs, "flaw")


def test_the_model_that_ships_restores_clothes():
    try:
        held_out = data.load("super-resolution").held_out
    except ValueError as error:
        pytest.skip(str(error))
    model, test = zoo.load("super-resolution"), held_out.batch(torch.arange(48))
    small = test["fields"]["measurement"]
    images = super_resolution.restore(model, small, steps=6)
    classifier = load_classifier("fashion-mnist")
    ours, plain = (
        super_resolution.quality(x, test["x_0"], classifier) for x in (images, test["fields"]["anchor"])
    )
    assert ours["psnr"].mean() > plain["psnr"].mean() + 3
    assert ours["ssim"].mean() > plain["ssim"].mean() + 0.2
    assert ours["feature distance"].mean() < 0.8 * plain["feature distance"].mean()
    # what was measured is nearly kept, though nothing forces it
    kept = LowResolution(4)(images) - small
    assert float(kept.square().mean().sqrt()) < 0.1


def test_a_shared_start_is_searched_and_used():
    try:
        held_out = data.load("super-resolution").held_out
    except ValueError as error:
        pytest.skip(str(error))
    model = zoo.load("super-resolution")
    references, test = held_out.batch(torch.arange(6)), held_out.batch(torch.arange(6, 14))
    found = search_boundary(
        Sampler(DPMSolverPP(2), 4), model, references, lambda x, y: -psnr(x.clamp(-1, 1), y), 4
    )
    low = test["fields"]["measurement"]
    once, again = (super_resolution.restore(model, low, steps=4, seed=found.source(k)) for k in (0, 1))
    assert torch.equal(once, again)  # the start is given, and the solver draws nothing

"""The frame between two others."""

from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein import data
from ornstein.systems import frame_interpolation as system

PROCESSES = ("consecutive", "consecutive, noises apart", "bridge", "ddpm")


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def frames():
    return data.load("frames", size=8, count=64, held_out=16)


def model(process="consecutive"):
    torch.manual_seed(0)
    made = system.model_for((1, 8, 8), process, width=4)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


@pytest.mark.parametrize("process", PROCESSES)
def test_frames_are_drawn_between_two(process):
    y, z = torch.randn(2, 3, 1, 8, 8)
    found = system.interpolate(model(process), y, z, 4, steps=3, seed=1)
    assert found.shape == (4, 3, 1, 8, 8)
    assert bool(torch.isfinite(found).all())
    assert torch.equal(found, system.interpolate(model(process), y, z, 4, steps=3, seed=1))
    assert bool((found[0] != found[1]).any())


def test_a_frame_does_not_depend_on_the_others_of_its_batch():
    y, z = torch.randn(2, 3, 1, 8, 8)
    own, all_ = (system.interpolate(model(), y[:n], z[:n], steps=3) for n in (1, 3))
    assert torch.allclose(own[0, 0], all_[0, 0], atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES)
def test_training_lowers_the_loss_and_the_model_is_found_again(process, frames, tmp_path):
    run = system.train(
        frames, process, width=8, steps=40, out=tmp_path / "run", batch=16, learning_rate=3e-3, ema=0.9,
        report_every=10, progress=False,
    )  # fmt: skip
    losses = [line["loss"] for line in run.metrics if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    split = frames.held_out
    given = split.fields["previous"], split.fields["next"]
    again = orn.load(tmp_path / "run")
    assert torch.equal(
        system.interpolate(again, *given, steps=2), system.interpolate(run.denoiser, *given, steps=2)
    )


def test_one_call_is_the_posterior_mean_at_the_start():
    """With one step nothing is drawn: that is regression."""
    y, z = torch.randn(2, 3, 1, 8, 8)
    found = system.interpolate(model("bridge"), y, z, 2, steps=1)
    assert torch.equal(found[0], found[1])


def test_the_state_of_a_consecutive_bridge_holds_the_frame_on_each_side(frames):
    made = system.prepared(frames, model())
    for split, source in ((made.train, frames.train), (made.held_out, frames.held_out)):
        record = split.batch(torch.arange(3))
        assert torch.equal(record["x_0"]["previous"], source.batch(torch.arange(3))["x_0"])
        assert torch.equal(record["x_0"]["next"], record["x_0"]["previous"])
        assert set(record["fields"]) == {"previous", "next"}
    assert made.decode(record["x_0"])["next"].shape == (3, 8, 8, 1)
    assert system.prepared(frames, model("ddpm")) is frames


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"unknown process 'brige'\. Did you mean 'bridge'"):
        system.model_for(process="brige")
    with pytest.raises(ValueError, match=r"previous, following: expected two tensors of one shape"):
        system.interpolate(model(), torch.zeros(3, 1, 8, 8), torch.zeros(2, 1, 8, 8))

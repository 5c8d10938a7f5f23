"""Latent diffusion given an image: what is told to the model, and what of an image stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import ornstein as orn
from ornstein import data, networks, spaces
from ornstein.core import Keyed
from ornstein.data import scenes
from ornstein.denoisers import NetworkDenoiser
from ornstein.systems import latent_tasks
from ornstein.systems.latent_tasks import TASKS, enlarge, holes, inpaint, masked, model_for, paint, pairs

N = 6


@pytest.fixture(autouse=True)
def single_precision(double_precision):
    torch.set_default_dtype(torch.float32)  # as the data


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return spaces.AutoencoderCodec(networks.Autoencoder(3, latent=2, factor=4, width=4)).requires_grad_(False)


@pytest.fixture(scope="module")
def world():
    return data.load("scenes", size=16, count=50, control="layout")


@pytest.fixture
def x(world):
    return world.train.batch(torch.arange(N))["x_0"]


def awake(given, codec):
    model = model_for(given, codec, width=8)
    for parameter in model.network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model.eval()


def test_holes_are_rectangles_of_the_sizes_that_were_said():
    found = holes(torch.zeros(400, 3, 40, 60), Keyed(0, 400))
    for axis, size in ((2, 40), (3, 60)):
        line = found.any(5 - axis).squeeze(1)
        length = line.sum(1)
        assert int(length.min()) >= 0.3 * size - 1 and int(length.max()) <= 0.6 * size + 1
        assert bool(((line[:, 1:] != line[:, :-1]).sum(1) <= 2).all())  # one piece
        assert bool(line[:, 0].any()) and bool(line[:, -1].any())  # anywhere
    assert torch.equal(found.sum((2, 3)), found.any(3).sum(2) * found.any(2).sum(2))
    assert torch.equal(holes(torch.zeros(1, 3, 40, 60), Keyed(0, 400)[7:8]), found[7:8])


def test_one_hole_serves_all_and_others_are_refused_by_name(codec, x, world):
    model = awake(pairs(world, codec, "inpainting"), codec)
    hole = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    hole[..., 4:9, 3:12] = True
    each = inpaint(model, x, hole.expand(N, -1, -1, -1), steps=2)
    assert torch.equal(inpaint(model, x, hole, steps=2), each)
    for wrong in (hole[0], hole.float(), hole[..., :8]):
        with pytest.raises(ValueError, match=r"hole: expected booleans of shape \(6, 1, 16, 16\)"):
            inpaint(model, x, wrong, steps=2)


def test_a_condition_does_not_depend_on_what_its_hole_hides(codec, x):
    hole = holes(x, Keyed(1, N))
    given = masked(codec, x, hole)
    assert torch.equal(masked(codec, torch.where(hole, torch.randn_like(x), x), hole), given)
    assert not torch.allclose(masked(codec, x, ~hole), given)
    assert torch.allclose(given[:, 2:], F.avg_pool2d(hole.to(x), 4))
    nothing = torch.zeros_like(hole)
    assert torch.equal(masked(codec, x, nothing)[:, :2], codec.encode(x))
    assert bool((masked(codec, x, ~nothing)[:, 2:] == 1).all())


def test_pairs_are_latents_and_what_is_told_of_each(codec, world, x):
    made = {task: pairs(world, codec, task, seed=3) for task in TASKS}
    for given in made.values():
        assert given.shape == (2, 4, 4) and len(given.train) == 50
        rows = torch.tensor([4, 1])
        batch = given.train.batch(rows)
        assert torch.allclose(batch["x_0"], codec.encode(x[rows]), atol=1e-5)
    told = {task: given.train.batch(torch.arange(N))["fields"]["image"] for task, given in made.items()}
    noise = Keyed(3, 50).fold("train")[:N]
    assert torch.allclose(told["inpainting"], masked(codec, x, holes(x, noise)), atol=1e-5)
    assert torch.allclose(told["super-resolution"], F.avg_pool2d(x, 4), atol=1e-6)
    maps = scenes.layout(world.train.scenes.rows(torch.arange(N)), 16)
    assert torch.allclose(told["layout"], F.avg_pool2d(maps, 4), atol=1e-6)
    few = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:N]
    again = pairs(world, codec, "inpainting", seed=3).train.batch(few)["fields"]["image"]
    assert torch.equal(again, made["inpainting"].train.batch(few)["fields"]["image"])
    assert not torch.equal(
        pairs(world, codec, "inpainting", seed=4).train.batch(few)["fields"]["image"], again
    )


def test_a_filled_hole_leaves_all_other_pixels_as_they_were(codec, world, x):
    model = awake(pairs(world, codec, "inpainting"), codec)
    hole = holes(x, Keyed(5, N))
    found = inpaint(model, x, hole, steps=2)
    known = ~hole.expand_as(x)
    assert torch.equal(found[known], x[known])
    assert not torch.allclose(found[~known], x[~known])
    changed = inpaint(model, torch.where(hole, 0.5, x), hole, steps=2)
    assert torch.equal(changed[~known], found[~known])  # nothing hidden is seen


def test_each_task_reads_what_it_is_told(codec, world, x):
    small, maps = F.avg_pool2d(x, 4), scenes.layout(world.train.scenes.rows(torch.arange(N)), 16)
    for task, draw, told in (("super-resolution", enlarge, small), ("layout", paint, maps)):
        model = awake(pairs(world, codec, task), codec)
        found = draw(model, told, steps=2, seed=1)
        assert found.shape == x.shape
        one = draw(model, told[2:3], steps=2, seed=[1])
        assert torch.allclose(draw(model, told[2:3], steps=2, seed=[1]), one)
        other = draw(model, told.flip(0), steps=2, seed=1)
        assert not torch.allclose(other, found)


def test_the_family_differs_in_its_first_layer_only(codec, world):
    """By the weights of a 3x3 convolution to 8 channels, for what is given and for whether it is."""
    plain = orn.training.encoded(data.load("scenes", size=16, count=4), codec)
    bare = sum(p.numel() for p in model_for(plain, codec, 8).network.parameters())
    for task, channels in (("inpainting", 3), ("super-resolution", 3), ("layout", 14)):
        joined = model_for(pairs(world, codec, task), codec, 8).network
        assert sum(p.numel() for p in joined.parameters()) - bare == 9 * 8 * (channels + 1)


def test_a_model_is_trained_saved_and_read_with_its_codec(codec, world, x, tmp_path):
    options = {"batch": 8, "evaluate_every": 0, "progress": False, "width": 8}
    run = latent_tasks.train("inpainting", world, codec, steps=2, out=tmp_path / "run", **options)
    again = orn.load(tmp_path / "run")
    assert isinstance(again, NetworkDenoiser)
    hole = holes(x, Keyed(5, N))
    own, other = (inpaint(m, x, hole, steps=2) for m in (run.denoiser, again))
    assert torch.allclose(own, other, atol=1e-6)


def test_training_drops_a_tenth_of_what_is_given(codec, world, monkeypatch, tmp_path):
    """So that the network also learns what it does where there is nothing, which guidance compares with."""
    seen, made = [], latent_tasks.model_for

    def watched(*args):
        model = made(*args)
        model.network.register_forward_pre_hook(lambda _, given: seen.append(given[2].present["image"]))
        return model

    monkeypatch.setattr(latent_tasks, "model_for", watched)
    options = {"batch": 50, "evaluate_every": 0, "progress": False, "width": 8, "out": tmp_path}
    latent_tasks.train("super-resolution", world, codec, steps=10, **options)
    present = torch.cat(seen).double()
    assert len(present) >= 500 and 0.85 < float(present.mean()) < 0.95


class Away(torch.Tensor):
    """Stands for a tensor of another device, which is only brought back."""

    def to(self, device):
        return torch.ones(self.shape) if torch.device(device).type == "cpu" else self


class Elsewhere(spaces.Codec):
    """A codec that lies on another device."""

    def __init__(self):
        super().__init__()
        self.register_buffer("place", torch.zeros(1, device="meta"))

    def encode(self, x, condition=None):
        assert x.device.type == "meta"
        return torch.zeros(len(x), 2, 4, 4).as_subclass(Away)


def test_pairs_are_made_where_the_codec_lies_and_kept_where_the_data_lie(world, monkeypatch):
    def told(codec, x, z, fields, noise):
        assert x.device.type == fields["image"].device.type == "meta"
        return torch.zeros(len(x), 1, 4, 4).as_subclass(Away)

    monkeypatch.setitem(TASKS, "layout", told)
    kept = pairs(world, Elsewhere(), "layout").train.batch(torch.arange(2))
    assert torch.equal(kept["x_0"], torch.ones(2, 2, 4, 4))
    assert torch.equal(kept["fields"]["image"], torch.ones(2, 1, 4, 4))


def test_what_is_missing_is_named(codec, world):
    with pytest.raises(ValueError, match="Did you mean 'inpainting'"):
        pairs(world, codec, "inpaintin")
    with pytest.raises(ValueError, match=r"no map in the field 'image'; load scenes with control='layout'"):
        pairs(data.load("scenes", size=16, count=4), codec, "layout")

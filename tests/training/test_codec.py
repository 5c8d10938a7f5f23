"""A codec through the one training loop, and data encoded with it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ornstein as orn
from ornstein import data, denoisers, networks, objectives, processes, spaces, training
from ornstein.cli import measures
from ornstein.data.scenes import dataset


@pytest.fixture(scope="module")
def digits():
    whole = data.load("digits")
    few = {
        name: data.TensorSplit(split.x_0[:200], {"label": split.fields["label"][:200]})
        for name, split in (("train", whole.train), ("held_out", whole.held_out))
    }
    return dataclasses.replace(whole, **few)


def learned(digits, out, **options):
    torch.manual_seed(0)
    codec = spaces.AutoencoderCodec(networks.Autoencoder(1, latent=2, factor=2, width=8))
    return training.fit_codec(codec, digits, out=out, batch=32, progress=False, **options).denoiser.codec


def test_a_codec_is_learned_calibrated_frozen_and_found_in_its_folder(digits, tmp_path):
    x = digits.held_out.x_0
    classifier = networks.Classifier(1, 10, width=4)
    codec = learned(
        digits,
        tmp_path / "run",
        objective=objectives.Reconstruction(classifier),
        steps=60,
        learning_rate=5e-3,
        ema=0.9,
        report_every=20,
    )
    metrics = training.Run(tmp_path / "run").metrics
    assert metrics[-1]["loss/pixels"] < 0.8 * metrics[0]["loss/pixels"]
    assert (codec.decode(codec.encode(x)) - x).abs().mean() < (x - x.mean(0)).abs().mean()
    assert float(codec.encode(digits.train.x_0).std()) == pytest.approx(1, abs=0.15)
    assert not codec.training and not any(p.requires_grad for p in codec.parameters())
    assert all(p.grad is None for p in classifier.parameters())
    for weights in ("ema", "raw"):
        assert torch.equal(orn.load(tmp_path / "run", weights=weights).codec.scale, codec.scale)
    again = orn.load(tmp_path / "run").codec
    assert torch.equal(again.encode(x), codec.encode(x))
    assert torch.equal(again.decode(again.encode(x)), codec.decode(codec.encode(x)))
    assert list((tmp_path / "run" / "samples").glob("*.png"))  # of pairs


def test_encoded_data_are_the_codes_with_their_fields(digits, tmp_path):
    codec = learned(digits, tmp_path / "run", steps=1)
    codes = training.encoded(digits, codec)
    assert codes.shape == (2, 4, 4) and len(codes.held_out) == 200
    assert torch.allclose(codes.train.x_0[:5], codec.encode(digits.train.x_0[:5]), atol=1e-6)
    assert torch.equal(codes.train.fields["label"], digits.train.fields["label"])


class Tenth(spaces.Codec):
    """A tenth of each state; notes where and how many it was given, and lies on a device of its own."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.register_buffer("place", torch.zeros(1, device=device))
        self.seen = []

    def encode(self, x, condition=None):
        self.seen.append((x.device.type, len(x)))
        return (x if x.device.type == "cpu" else torch.ones(x.shape).as_subclass(Away)) / 10

    def decode(self, z, condition=None):
        return 10 * z


class Away(torch.Tensor):
    """Stands for a tensor of another device: it can only be brought back."""

    def to(self, device):
        return torch.zeros(self.shape) + (1.0 if torch.device(device).type == "cpu" else 0.0)


def test_states_are_encoded_where_the_codec_lies_and_kept_where_the_data_lie(digits):
    codec = Tenth("meta")
    codes = training.encoded(digits, codec)
    assert {device for device, _ in codec.seen} == {"meta"}
    assert type(codes.train.codes) is torch.Tensor and bool((codes.train.codes == 1).all())


def test_a_codec_that_holds_nothing_encodes_too(digits):
    codes = training.encoded(digits, spaces.LogCodec(2.0))
    assert torch.equal(codes.held_out.x_0, (digits.held_out.x_0 + 2).log())


def test_every_scene_is_rendered_once_and_maps_are_made_for_batches_only(monkeypatch):
    data_ = data.load("scenes", size=8, count=2500, control="edges")
    drawn, mapped, count = [], [], dataset.control_map
    image = dataset.render
    monkeypatch.setattr(dataset, "render", lambda s, *a: drawn.append(len(s.x)) or image(s, *a))
    monkeypatch.setattr(dataset, "control_map", lambda s, *a: mapped.append(len(s.x)) or count(s, *a))
    codes = training.encoded(data_, Tenth())
    assert sum(drawn) == 2600 and max(drawn) <= 1024
    drawn.clear(), mapped.clear()
    record = codes.train.batch(torch.tensor([2499, 0, 7]))
    assert mapped == [3] and not drawn
    plain = data_.train.batch(torch.tensor([2499, 0, 7]))
    assert torch.equal(record["fields"]["image"], plain["fields"]["image"])
    assert torch.equal(record["x_0"], plain["x_0"] / 10)
    assert codes.train.texts == data_.train.texts and list(codes.train.fields) == ["image"]
    with pytest.raises(IndexError, match=r"\[0, 2500\)"):
        codes.train.batch(torch.tensor([2500]))


def test_losses_by_level_encode_and_tokenise_the_held_out_split_once(digits, monkeypatch):
    codec = Tenth()
    model = denoisers.NetworkDenoiser(
        networks.UNet(1, width=4, multipliers=(1,)),
        spaces.Encoded(processes.RectifiedFlow(), codec),
        shape=(1, 8, 8),
    )
    told = []
    monkeypatch.setattr(measures, "tokenised_split", lambda split, _: told.append(len(split)) or split)
    found = measures.Measured(0)
    measures._by_level(found, model, digits)
    assert sum(n for _, n in codec.seen) == len(digits.held_out) and told == [len(digits.held_out)]
    assert len(found.losses) == 8


def test_a_model_of_codes_draws_data_and_is_saved_with_its_codec(digits, tmp_path):
    codec = learned(digits, tmp_path / "codec", steps=1)
    codes = training.encoded(digits, codec)
    process = spaces.Encoded(processes.RectifiedFlow(), codec)
    network = networks.UNet(2, width=4, multipliers=(1,), labels=10)
    model = denoisers.NetworkDenoiser(network, process, "velocity", codes.shape, scale=1.0)
    before = [p.clone() for p in codec.parameters()]
    run = orn.fit(model, codes, steps=2, batch=16, sample_every=2, out=tmp_path / "run", progress=False)
    images = orn.sample(run.denoiser, 3, steps=2, label=4)
    assert images.shape == (3, 1, 8, 8)
    assert torch.allclose(orn.sample(orn.load(tmp_path / "run"), 3, steps=2, label=4), images, atol=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(before, run.denoiser.process.codec.parameters(), strict=True)
    )
    assert list((tmp_path / "run" / "samples").glob("*.png"))

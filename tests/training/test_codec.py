"""A codec through the one training loop, and data encoded with it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ornstein as orn
from ornstein import data, denoisers, networks, objectives, processes, spaces, training


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

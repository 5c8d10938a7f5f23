"""Codecs on the command line: trained, gone on with, measured, and used by a model."""

from __future__ import annotations

import json

import pytest
import torch

import ornstein as orn
from ornstein import data, denoisers, metrics, spaces

SMALL = (
    "--set codec.class=autoencoder-codec --set network.class=autoencoder --set objective.class=reconstruction "
    "--set network.latent=2 --set network.factor=2 --set network.width=4 "
    "--set training.batch=16 --set training.warmup=0 --set training.checkpoint_every=3 "
    "--set training.evaluate_every=6 --set training.report_every=3"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from tests.cli.conftest import invoke

    folder = tmp_path_factory.mktemp("codecs") / "kl"
    done = invoke(f"train digits --out {folder} --steps 6 {SMALL} --set objective.gradients=0.5")
    assert done.exit_code == 0, done.output
    assert f"data.codec={folder}" in done.output.replace("\n", "")
    return folder


def test_a_codec_is_trained_and_calibrated(trained):
    model = orn.load(trained)
    assert isinstance(model, denoisers.Reconstructor) and isinstance(model.codec, spaces.AutoencoderCodec)
    x = data.load("digits").train.batch(torch.arange(1024))["x_0"]
    own = model.codec.law(x.float())
    spread = own.mean.var(correction=0) + own.scale.square().mean()
    assert float((spread.sqrt() / model.codec.scale).detach()) == pytest.approx(1, abs=1e-4)
    losses = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/pixels", "loss/gradients", "loss/regular"} <= set(losses[0])


def test_a_run_of_a_codec_resumed_or_configured_alike_has_the_same_bits(trained, call, tmp_path):
    before = (trained / "model" / "model.safetensors").read_bytes()
    call(f"train digits --out {trained} --resume")
    assert (trained / "model" / "model.safetensors").read_bytes() == before
    call(f"train digits --config {trained / 'config.yaml'} --out {tmp_path / 'again'}")
    assert (tmp_path / "again" / "model" / "model.safetensors").read_bytes() == before


def test_what_is_measured_of_a_codec_are_its_reconstructions(trained, call, tmp_path):
    call(f"evaluate {trained} -n 50 --out {tmp_path / 'found.json'}")
    found = json.loads((tmp_path / "found.json").read_text())
    split, model = data.load("digits").held_out, orn.load(trained)
    x = split.batch(torch.arange(50) * len(split) // 50)["x_0"].float()
    known = metrics.psnr(model.codec.decode(model.codec.encode(x)).detach().clamp(-1, 1), x).mean()
    row = found["measured"]["PSNR of reconstructions (dB)"]["samples"]
    assert row["value"] == pytest.approx(float(known), rel=1e-5) and row["n"] == 50
    assert found["held_out"]["loss"] == []


def test_a_model_of_its_latents_is_trained_by_naming_it(trained, call, small, tmp_path):
    call(f"train digits --out {tmp_path / 'latent'} --steps 3 {small} --set data.codec={trained}")
    model = orn.load(tmp_path / "latent")
    assert model.shape == (2, 4, 4) and isinstance(model.process, spaces.Encoded)
    assert torch.equal(model.process.codec.scale, orn.load(trained).codec.scale)
    assert orn.sample(model, 2, steps=2).shape == (2, 1, 8, 8)


def test_vector_quantised_ones_too(call, tmp_path):
    call(f"train digits --out {tmp_path / 'vq'} --steps 2 {SMALL} --set codec.kind=vq --set codec.codes=7")
    assert orn.load(tmp_path / "vq").codec.book.shape == (7, 2)


@pytest.mark.parametrize(
    "said, message",
    [
        ("--set codec.class=autoencodercodec --set codec.kind=kll", "Did you mean 'kl'"),
        ("--set codec.class=linear", "unknown codec.class 'linear'"),
        (
            "--set codec.class=AutoencoderCodec --set network.class=Autoencoder --set network.factor=3",
            "factor: expected one of",
        ),
        (
            "--set codec.class=AutoencoderCodec --set network.class=Autoencoder --set network.wide=3",
            "network.wide",
        ),
    ],
)
def test_what_does_not_fit_is_refused(said, message, refused):
    assert message in refused(f"train digits {said} --out run")[1].replace("\n", " ")

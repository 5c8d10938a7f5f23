"""A text encoder and its image tower on the command line."""

from __future__ import annotations

import pytest

import ornstein as orn
from ornstein import denoisers

SMALL = (
    "--set data.count=40 --set data.size=8 --set network.width=8 --set network.levels=2 "
    "--set text.arguments.network.arguments.width=8 --set text.arguments.network.arguments.heads=2 "
    "--set text.arguments.network.arguments.depth=1 --set training.batch=6 --set training.warmup=0 "
    "--set training.report_every=2 --set training.checkpoint_every=2"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from tests.cli.conftest import invoke

    folder = tmp_path_factory.mktemp("pairs") / "run"
    done = invoke(f"train scenes --preset scenes-text --out {folder} --steps 4 {SMALL}")
    assert done.exit_code == 0, done.output
    return folder


def test_the_recipe_trains_a_pair_and_its_encoder_is_found_by_name(trained):
    model = orn.load(trained)
    assert isinstance(model, denoisers.Matcher) and model.shape == (3, 8, 8)
    assert model.encoder.length == 32 and model.encoder.features == 8


def test_a_run_resumed_or_configured_alike_has_the_same_bits(trained, call, tmp_path):
    before = (trained / "model" / "model.safetensors").read_bytes()
    call(f"train scenes --out {trained} --resume")
    assert (trained / "model" / "model.safetensors").read_bytes() == before
    call(f"train scenes --config {trained / 'config.yaml'} --out {tmp_path / 'again'}")
    assert (tmp_path / "again" / "model" / "model.safetensors").read_bytes() == before


def test_an_encoder_that_is_to_be_trained_is_described(refused, tmp_path):
    _, said = refused(
        f"train scenes --preset scenes-text --out {tmp_path / 'no'} --steps 2 --set text=scenes-text"
    )
    assert "describe the encoder that is to be trained" in " ".join(said.split())

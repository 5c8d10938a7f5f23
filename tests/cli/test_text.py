"""Words on the command line: prompts to sample by, and a model of codes that learns captions."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
import yaml

import ornstein as orn
from ornstein import denoisers, guides, networks, spaces, zoo
from ornstein.conditions import TextEncoder, Tokeniser
from ornstein.data import load
from ornstein.data.scenes import WORDS
from ornstein.denoisers.files import save_model

RED, BLUE = "a red circle", "two blue squares"
TRAINED = ("model/model.safetensors", "model/model_raw.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with an untrained codec and an untrained pair of towers, and options that use them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    codec = spaces.AutoencoderCodec(networks.Autoencoder(3, latent=2, factor=4, width=4))
    save_model(denoisers.Reconstructor(codec, (3, 32, 32)), folder / "codec")
    tokeniser = Tokeniser(WORDS, 27)
    towers = networks.TextImage(
        TextEncoder(tokeniser, networks.TextTransformer(tokeniser.size, 27, width=16, depth=1, heads=2)),
        networks.Encoder(3, 16, width=4),
    )
    denoisers.Matcher(towers, (3, 32, 32)).save_pretrained(folder / "text")
    small = (
        f"--preset text-to-image --set data.codec={folder / 'codec'} --set text={folder / 'text'} "
        "--set data.count=64 --set data.size=32 --set network.width=16 --set network.multipliers=[1,1] "
        "--set network.attention=[1] "
        "--set training.batch=8 --set training.checkpoint_every=2 --set training.evaluate_every=0 "
        "--set training.sample_every=4 --set training.report_every=2 --set training.warmup=0"
    )
    return folder, small


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    from tests.cli.conftest import invoke

    run = tmp_path_factory.mktemp("runs") / "scenes"
    done = invoke(f"train scenes {parts[1]} --steps 4 --out {run}")
    assert done.exit_code == 0, done.output
    with torch.no_grad():  # a new network's last layer is zero, and a few steps say little
        model = orn.load(run)
        for parameter in model.denoiser.network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(run / "model")
    return run


def arrays(name: str) -> np.ndarray:
    with np.load(name) as content:
        return content["x"]


def test_a_prompt_says_what_is_drawn(trained, call) -> None:
    call(f"sample {trained} '{RED}' -n 3 --steps 3 --out red.npz")
    call(f"sample {trained} '{BLUE}' -n 3 --steps 3 --out blue.npz")
    model = guides.ClassifierFree(2.0)(orn.load(trained))
    assert np.allclose(arrays("red.npz"), orn.sample(model, 3, steps=3, text=RED).numpy(), atol=1e-5)
    assert not np.allclose(arrays("red.npz"), arrays("blue.npz"), atol=1e-2)
    assert arrays("red.npz").shape == (3, 3, 32, 32)  # decoded


def test_several_prompts_take_turns(trained, call) -> None:
    text = call(f"sample {trained} '{RED}' '{BLUE}' -n 3 --steps 3 --guidance 1 --out x.npz")
    assert f"of {RED!r}, {BLUE!r}, written" in text and "one word each" not in text
    expected = orn.sample(orn.load(trained), 3, steps=3, text=[RED, BLUE, RED])
    assert np.allclose(arrays("x.npz"), expected.numpy(), atol=1e-6)


def test_the_cards_guidance_is_taken_with_a_prompt_only(trained, call, tmp_path) -> None:
    folder = tmp_path / "carded"
    orn.load(trained).save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({"data": "scenes", "guidance": 2.5}))
    call(f"sample {folder} '{RED}' -n 2 --steps 3 --out card.npz")
    call(f"sample {folder} '{RED}' -n 2 --steps 3 --guidance 1 --out plain.npz")
    model = orn.load(folder)
    guided = orn.sample(guides.ClassifierFree(2.5)(model), 2, steps=3, text=RED)
    assert np.allclose(arrays("card.npz"), guided.numpy(), atol=1e-5)
    assert np.allclose(arrays("plain.npz"), orn.sample(model, 2, steps=3, text=RED).numpy(), atol=1e-5)
    call(f"sample {folder} -n 2 --steps 3 --out none.npz")
    assert np.allclose(arrays("none.npz"), orn.sample(model, 2, steps=3).numpy(), atol=1e-5)


def test_words_without_quotes_are_noticed(trained, call, refused) -> None:
    text = call(f"sample {trained} {RED} -n 4 --steps 2 --guidance 1 --out x.npz")
    assert f"3 prompts of one word each; quote a prompt of several words: {RED!r}" in text
    assert "4 samples in 2 network calls at guidance 1, of 'a', 'red', 'circle', written to x.npz" in text
    code, text = refused(f"sample {trained} {RED} -n 2 --steps 2 --out y.npz")
    assert code == 2 and "-n: 3 prompts given for 2 samples" in text


def test_a_run_that_learned_without_prompts_is_guided_by_itself(trained, call, tmp_path) -> None:
    text = call(f"sample {trained} '{RED}' -n 1 --steps 3 --out run.npz")
    assert "1 sample in" in text and "at guidance 2, of" in text
    assert "guidance" not in call(f"sample {trained} -n 1 --steps 3 --out none.npz")
    assert zoo.guidance_of(trained) == zoo.guidance_of(trained / "model") == 2.0
    undropped = tmp_path / "undropped"
    orn.load(trained).save_pretrained(undropped / "model")
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["objective"]["arguments"]["drop"] = 0.0
    (undropped / "config.yaml").write_text(yaml.safe_dump(config))
    assert zoo.guidance_of(undropped) is None


def test_a_codec_is_not_sampled(parts, call, refused) -> None:
    code, text = refused(f"sample {parts[0] / 'codec'} -n 1 --out x.npz")
    assert code == 2 and "data.codec=NAME" in text and "no posterior to sample from" in text
    assert not os.path.exists("x.npz")
    for name in ("codec", "text"):
        assert "process" not in call(f"info {parts[0] / name}")


def test_pictures_of_codes_are_pictures(trained, call) -> None:
    text = call(f"sample {trained} '{RED}' -n 2 --steps 2 --guidance 1 --out out.png")
    assert "2 samples in 2 network calls" in text
    assert os.path.getsize("out.png") > 500


def test_words_for_a_model_that_reads_none_are_refused(run, refused) -> None:
    code, text = refused(f"sample {run} '{RED}' --out x.npz")
    assert code == 2
    assert "'text'" in text
    assert "label" in text


def test_a_run_of_codes_goes_on_to_the_same_bits(parts, call, tmp_path) -> None:
    said = call(f"train scenes {parts[1]} --steps 4 --out whole")
    first = load("scenes", **zoo.data_options_of("whole")).train.texts[0]
    assert f"encoding 66 samples with {parts[0] / 'codec'}" in said.replace("\n", "")
    assert f"ready: ornstein sample whole '{first}'    ornstein evaluate" in said
    call(f"train scenes {parts[1]} --steps 4 --out half --set training.schedule=constant")
    whole = tmp_path / "whole"
    for folder in (whole / "checkpoints").iterdir():
        if "4" in folder.name:
            last = folder
    before = [(whole / name).read_bytes() for name in TRAINED]
    import shutil

    shutil.rmtree(last)
    shutil.rmtree(whole / "model")
    call("train scenes --out whole --resume")
    assert [(whole / name).read_bytes() for name in TRAINED] == before


def test_the_same_run_anew_has_the_trained_encoder(parts, trained, call, tmp_path) -> None:
    call(f"train scenes --config {trained / 'config.yaml'} --out anew --steps 2")
    model, text = orn.load(tmp_path / "anew"), orn.load(parts[0] / "text")
    for name, value in text.pair.text.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name


def test_an_encoder_or_a_codec_made_in_code_is_not_made_anew_at_random(trained, refused, tmp_path) -> None:
    config = (trained / "config.yaml").read_text()
    for key, words in (("text", "random weights"), ("codec", "codec that has no name")):
        lines = [line for line in config.splitlines() if not line.startswith(f"    {key}: /")]
        assert len(lines) == len(config.splitlines()) - 1
        (tmp_path / "code.yaml").write_text("\n".join(lines))
        code, text = refused(f"train scenes --config {tmp_path / 'code.yaml'} --out anew-{key} --steps 2")
        assert code == 2
        assert words in text.replace("\n", " ")


def test_what_the_run_learned_is_the_network_alone(parts, trained) -> None:
    model, text, codec = (orn.load(p) for p in (trained, parts[0] / "text", parts[0] / "codec"))
    for name, value in text.pair.text.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    for name, value in codec.codec.state_dict().items():
        assert torch.equal(model.process.codec.state_dict()[name], value), name


def test_evaluation_reads_the_pictures(trained, call) -> None:
    call(f"evaluate {trained} --set count=64 -n 4 --steps 2 --out found.json")
    with open("found.json") as file:
        found = json.load(file)
    assert found["measured"]["binding"]["reference"]["value"] == 1.0
    assert found["measured"]["binding"]["samples"]["value"] < 0.5
    assert found["measured"]["binding"]["reference_of"] == "true pictures of the prompts"
    assert found["measured"]["energy distance"]["reference_of"] == "training data"
    assert len(found["held_out"]["loss"]) == 8


def test_a_model_without_the_part_that_is_asked_for_is_named(parts, refused) -> None:
    code, text = refused(f"train scenes --set text={parts[0] / 'codec'} --set data.count=8 --steps 1 --out x")
    assert code == 2
    assert "has no encoder" in text

"""A text encoder and its image tower on the command line."""

from __future__ import annotations

import json

import pytest
import torch

import ornstein as orn
from ornstein import denoisers
from ornstein.cli.matches import compared
from ornstein.data import Dataset

SMALL = (
    "--set data.count=50 --set data.size=8 --set network.width=8 --set network.levels=2 "
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
    assert f"ready: ornstein train DATA --set text={folder}" in done.output.replace("\n", "")
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


class Knowing:
    """Towers that know which text is whose, or (`wrong`) take each picture for its twin."""

    def __init__(self, split, tokenise, wrong=False):
        self.text = self
        self.tokenise = tokenise
        record, self.codes = split.batch(torch.arange(len(split))), {}
        said = (split.texts, split.twin_texts)
        shown = (record["x_0"], record["fields"]["twin_image"])
        for x, texts in zip(shown, said[::-1] if wrong else said, strict=True):
            for image, ids in zip(x, tokenise(texts), strict=True):
                self.codes[image.numpy().tobytes()] = self.of_texts(ids[None])[0]

    def of_texts(self, ids):
        seeds = [hash(tuple(row)) % 2**31 for row in ids.tolist()]
        made = [torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.nn.functional.normalize(torch.stack(made))

    def of_images(self, x):
        return torch.stack([self.codes[image.numpy().tobytes()] for image in x])


@pytest.mark.parametrize("wrong", [False, True])
def test_what_is_found_and_told_apart_is_counted(wrong):
    from ornstein.data.scenes import SceneSplit, TwinSplit, World

    tokenise = orn.load("scenes-text").encoder.tokenise
    split = TwinSplit(SceneSplit(60, 5, 8, World()))
    pair = Knowing(split, tokenise, wrong)
    found = compared(pair, Dataset("mine", split, split, (3, 8, 8)), 50)
    assert all(own == reference for own, reference in found.values())  # the same scenes
    apart = {k: own for k, (own, _) in found.items() if "told apart" in k}
    assert {own.value for own in apart.values()} == {float(not wrong)}
    ids, other = tokenise(split.texts[:50]), tokenise(split.twin_texts[:50])
    differ = (ids != other).any(1)
    assert sum(own.n for k, own in apart.items() if "texts" in k) == int(differ.sum()) > 15
    moved = (split.twins.x != split.split.scenes.x)[:50].any(1) | (split.twins.y != split.split.scenes.y)[
        :50
    ].any(1)
    assert apart["held-out mine: mirrored, a relation or place said: texts told apart"].n == int(
        (moved & differ).sum()
    )
    whose = found["held-out mine: image to text, of 50"][0]
    assert whose.n == 50 and (whose.value == 1.0) is not wrong


def test_pairs_never_seen_are_measured_where_data_leave_some_out(trained, tmp_path, call):
    say = "--data scenes --set size=8 --set count=250"
    call(f"evaluate {trained} {say} --out found.json")
    call(f"evaluate {trained} {say} --set combinations=all --out all.json")
    found, whole = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("found", "all"))
    assert found["samples"] == whole["samples"] == 10
    ways = {f"{way}, of 10" for way in ("image to text", "text to image")}
    assert {f"held-out pairs of colour and shape: {way}" for way in ways} < set(found["measured"])
    assert {f"held-out scenes: {way}" for way in ways} < set(whole["measured"])
    assert not [name for name in whole["measured"] if "pairs" in name]


def test_a_card_is_measured_and_says_how(trained, tmp_path, call):
    call(f"card {trained} --out pair -n 40")
    told = json.loads((tmp_path / "pair" / "card.json").read_text())
    assert told["command"] == "ornstein evaluate pair -n 40" and told["data_options"]["twins"]
    assert told["sampling"] == "held-out data, compared"
    said = (tmp_path / "pair" / "README.md").read_text()
    for name in told["measured"]:
        assert f"| {name} | " in said
    assert isinstance(orn.load(tmp_path / "pair"), denoisers.Matcher)


def test_a_card_names_its_folder_and_never_a_model_that_ships(tmp_path, monkeypatch):
    from pathlib import Path

    from ornstein.cli.card import _named, _text
    from ornstein.zoo import registry

    assert _named(Path("scenes")) == "./scenes"
    assert _named(Path("mine/scenes")) == "mine/scenes"
    assert _named(tmp_path / "scenes") == str(tmp_path / "scenes")
    assert _named(registry.HOME / "scenes") == "scenes"
    monkeypatch.chdir(registry.HOME)
    assert _named(Path("scenes")) == "scenes"
    facts = {"data": "scenes", "parameters": 1, "recipe": "", "samples": 1, "sampling": "", "measured": {}}
    said = _text("mine/scenes", {**facts, "duplicates": None, "command": ""})
    assert said.startswith("# scenes\n") and 'orn.load("mine/scenes")' in said


def test_towers_draw_no_samples(trained, refused):
    _, said = refused(f"evaluate {trained} --guidance 2")
    assert "a pair of towers draws no samples" in " ".join(said.split())


def test_an_encoder_that_is_to_be_trained_is_described(refused, tmp_path):
    _, said = refused(
        f"train scenes --preset scenes-text --out {tmp_path / 'no'} --steps 2 --set training.warmup=0 "
        "--set text=scenes-text"
    )
    assert "describe the encoder that is to be trained" in " ".join(said.split())

from __future__ import annotations

import json

import pytest
import torch
import yaml

import ornstein as orn
from ornstein import denoisers, networks, processes, zoo


@pytest.fixture(scope="module")
def model() -> denoisers.NetworkDenoiser:
    torch.manual_seed(0)
    network = networks.UNet(1, width=8, multipliers=(1,), labels=10)
    return denoisers.NetworkDenoiser(network, processes.VariancePreserving("cosine"), "edm", (1, 8, 8)).eval()


@pytest.fixture
def shelf(model, tmp_path, monkeypatch):
    """A zoo of one model, "tiny", and one recipe."""
    monkeypatch.setattr("ornstein.zoo.registry.HOME", tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(tmp_path / "zoo" / "tiny")
    (tmp_path / "zoo" / "tiny" / "card.json").write_text('{"data": "digits", "steps": 3000}')
    (tmp_path / "zoo" / "recipes").mkdir()
    (tmp_path / "zoo" / "recipes" / "tiny.yaml").write_text("training: {steps: 3000}")
    return tmp_path


def same(a, b) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_a_model_that_ships_is_loaded_by_its_name(shelf, model) -> None:
    found = orn.load("tiny")
    assert same(found, model)
    assert not found.training
    assert found.process.spec() == model.process.spec()


def test_folders_are_loaded_by_their_path(shelf, model) -> None:
    model.save_pretrained(shelf / "mine")
    assert same(orn.load(shelf / "mine"), model)
    assert same(orn.load("mine"), model)


def test_a_name_that_ships_comes_before_a_folder(shelf, model) -> None:
    other = networks.UNet(1, width=8, multipliers=(1,), labels=10)
    own = denoisers.NetworkDenoiser(other, processes.VariancePreserving("cosine"), "edm", (1, 8, 8))
    with torch.no_grad():
        next(own.parameters()).add_(1.0)
    own.save_pretrained(shelf / "tiny")
    assert same(orn.load("tiny"), model)
    assert same(orn.load("./tiny"), own)


def test_a_name_near_one_is_suggested(shelf) -> None:
    with pytest.raises(ValueError, match=r"unknown model 'tine'\. Did you mean 'tiny'\?"):
        orn.load("tine")


def test_a_run_that_has_not_ended_says_how_to_go_on(shelf) -> None:
    for step in (5, 10):
        (shelf / "killed" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (shelf / "killed" / "config.yaml").write_text("data: {name: words}")
    with pytest.raises(ValueError, match=r"unfinished run, at step 10.*train words --out killed --resume"):
        orn.load("killed")


def test_a_mistyped_folder_is_not_asked_of_the_hub(shelf, monkeypatch) -> None:
    (shelf / "runs").mkdir()
    monkeypatch.setattr("ornstein.zoo.registry.load_model", lambda *given, **hub: pytest.fail("asked"))
    with pytest.raises(ValueError, match="No folder of that name exists"):
        orn.load("runs/frist")


def test_an_id_is_asked_of_the_hub(shelf, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("ornstein.zoo.registry.load_model", lambda *given, **hub: asked.append((given, hub)))
    orn.load("owner/name", revision="main")
    assert asked == [(("owner/name", "ema"), {"revision": "main"})]


def test_the_card_and_the_data(shelf, model) -> None:
    assert zoo.card("tiny") == {"data": "digits", "steps": 3000}
    assert zoo.data_of("tiny") == "digits"
    model.save_pretrained(shelf / "run" / "model")
    assert zoo.card("run") == {}
    assert zoo.data_of("run") is None
    (shelf / "run" / "config.yaml").write_text("data: {name: words}")
    assert zoo.data_of("run") == zoo.data_of("run/model") == "words"


def test_a_damaged_card_is_named(shelf) -> None:
    (shelf / "zoo" / "tiny" / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"card\.json: not readable as JSON"):
        zoo.card("tiny")


def test_recipes_by_name(shelf) -> None:
    assert zoo.recipes() == ("tiny",)
    assert yaml.safe_load(zoo.recipe("tiny").read_text()) == {"training": {"steps": 3000}}
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        zoo.recipe("tinny")


def test_the_recipes_of_the_models_ship() -> None:
    assert set(zoo.recipes()) >= {"digits", "digits-joint", "fashion-mnist", "words"}


@pytest.mark.parametrize("name", zoo.models())
def test_a_model_that_ships_has_a_recipe_a_card_and_a_modest_size(name: str) -> None:
    folder = zoo.folder_of(name)
    assert (folder / "model.safetensors").stat().st_size < 10_000_000
    assert (folder / "README.md").is_file()
    card = json.loads((folder / "card.json").read_text())
    assert card["data"]
    assert card["recipe"].split()[-1] in zoo.recipes()
    model = orn.load(name)
    if isinstance(model, denoisers.Matcher | denoisers.Reconstructor):
        with pytest.raises(TypeError, match="no posterior to sample from"):
            orn.sample(model, 2, steps=3)
        return
    drawn = orn.sample(model, 2, steps=3)
    parts = drawn.values() if isinstance(drawn, dict) else [drawn]
    assert all(torch.isfinite(part).all() for part in parts)

from __future__ import annotations

import inspect

import pytest
import torch

from ornstein import data, processes
from ornstein.cli.assembly import assemble, scale_of
from ornstein.cli.classes import accepted, made
from ornstein.cli.config import Config, Part, check, layered, overrides, read
from ornstein.cli.train import configured
from ornstein.data.load import BUILT_IN
from ornstein.training import fit
from ornstein.zoo import recipes


def assembled(name: str, *words: str, **options):
    return assemble(check(Config, overrides(words)), data.load(name, **options))


def test_words_of_a_command_line_are_read_as_yaml() -> None:
    words = [
        "training.steps=100",
        "training.learning_rate=1e-3",
        "training.precision=no",
        "a.b=[1, 2]",
        "a.c=true",
    ]
    assert overrides(words) == {
        "training": {"steps": 100, "learning_rate": 1e-3, "precision": "no"},
        "a": {"b": [1, 2], "c": True},
    }


def test_a_number_in_a_word_is_not_a_number() -> None:
    assert overrides(["data.name=5d3b5f2e", "data.revision=trueish"])["data"] == {
        "name": "5d3b5f2e",
        "revision": "trueish",
    }


def test_the_later_layer_wins_name_by_name() -> None:
    assert layered({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}}) == {"a": {"x": 1, "y": 5}, "b": 3}


def test_another_class_brings_none_of_the_arguments_of_the_old_one() -> None:
    old = {"process": {"class": "VariancePreserving", "schedule": "cosine"}}
    assert layered(old, {"process": {"class": "RectifiedFlow"}}) == {"process": {"class": "RectifiedFlow"}}
    same = layered(old, {"process": {"class": "VariancePreserving", "rate_min": 0.2}})
    assert same["process"]["schedule"] == "cosine"


def test_the_numbers_of_training_are_those_of_fit() -> None:
    ours = check(Config, {}).training.model_dump()
    theirs = {k: p.default for k, p in inspect.signature(fit).parameters.items() if k in ours}
    assert ours == {**theirs, "steps": ours["steps"]}
    assert {"steps", "batch", "learning_rate", "ema", "seed"} <= set(ours)


def test_every_class_that_a_configuration_may_name_can_be_trained_with() -> None:
    assert set(accepted("processes")) >= {
        "VariancePreserving",
        "RectifiedFlow",
        "Absorbing",
        "ProductProcess",
    }
    assert not {"DiscreteProcess", "SDE"} & set(accepted("processes"))
    assert "Classifier" not in accepted("networks")


@pytest.mark.parametrize("name", ["rectified-flow", "RectifiedFlow", "rectified_flow", "RECTIFIEDFLOW"])
def test_classes_are_named_as_people_write_them(name: str) -> None:
    assert isinstance(made("processes", {"class": name}), processes.RectifiedFlow)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_assembles_for_the_data_of_its_name(name: str) -> None:
    known = name if name in BUILT_IN else "scenes"
    said = configured(known, None, name, [{"data": {"count": 8}} if known == "scenes" else {}], None)
    dataset = data.load(known, **(said.data.model_extra or {}))
    model, objective, record = assemble(said, dataset)
    assert record["training"]["steps"] == said.training.steps
    parts = getattr(model.process, "parts", {"": model.process})
    assert {k: p.spec() for k, p in parts.items()}  # it can be written as JSON
    again = assemble(check(Config, record), dataset)
    assert again.denoiser.spec() == model.spec()
    assert again.objective.spec() == objective.spec()


def test_a_recipe_is_the_default_of_its_data_but_not_under_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ornstein.zoo.registry.HOME", tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "digits.yaml").write_text("training: {steps: 5, learning_rate: 0.5}")
    (tmp_path / "my.yaml").write_text("training: {steps: 7}")

    def numbers(config=None, preset=None):
        training = configured("digits", config, preset, [], None).training
        return training.steps, training.learning_rate

    assert numbers() == (5, 0.5)
    assert numbers(tmp_path / "my.yaml") == (7, 1e-3)
    assert numbers(tmp_path / "my.yaml", "digits") == (7, 0.5)


def test_what_nobody_says_follows_from_labelled_images() -> None:
    model, _, record = assembled("digits")
    assert record["network"]["channels"] == 1
    assert model.fields == {"label"}
    assert model.network.labels == 10
    assert model.shape == (1, 8, 8)
    assert model.scale == pytest.approx(0.848, abs=2e-3)  # of the scans
    assert model.process.spec()["arguments"]["schedule"] == "cosine"


def test_what_nobody_says_follows_from_words() -> None:
    model, _, record = assembled("words")
    assert record["network"] == {"class": "SequenceTransformer", "outputs": 27, "vocabulary": 28, "length": 8}
    assert isinstance(model.process, processes.Absorbing)
    assert "prediction" not in record


def test_the_vocabulary_follows_the_process() -> None:
    assert assembled("words", "process.class=UniformNoise").config["network"]["vocabulary"] == 27


def test_what_nobody_says_follows_from_a_tree() -> None:
    model, _, record = assembled("digits-joint", "process.parts.image.class=RectifiedFlow")
    assert record["network"]["classes"] == 10
    assert isinstance(model.process.parts["image"], processes.RectifiedFlow)
    assert isinstance(model.process.parts["label"], processes.Absorbing)


@pytest.mark.parametrize(
    ("shape", "dims", "levels"),
    [((3, 64), 1, 4), ((1, 16, 20), 2, 3), ((2, 8, 8, 8), 3, 3), ((3, 32, 32), 2, 4), ((1, 3, 64), 2, 1)],
)
def test_signals_images_and_volumes_get_a_net_of_their_dimension(shape, dims, levels) -> None:
    split = data.TensorSplit(torch.randn(4, *shape))
    dataset = data.Dataset("noise", split, split, shape)
    network = assemble(check(Config, {}), dataset).config["network"]
    assert (network["channels"], network["dims"], len(network["multipliers"])) == (shape[0], dims, levels)


def test_the_scale_is_the_root_mean_square(tmp_path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.full((10, 1, 4, 4), -0.25, np.float32))
    assert scale_of(data.load(str(tmp_path / "x.npy"))) == 0.25


def test_the_arguments_of_a_part_are_all_but_its_class() -> None:
    part = Part.model_validate({"class": "UNet", "width": 8})
    assert (part.name, part.arguments) == ("UNet", {"width": 8})


def test_the_seed_decides_the_first_weights() -> None:
    def weights(seed: int):
        model = assembled("digits", "network.width=8", f"training.seed={seed}").denoiser
        return next(model.parameters())

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))


def test_a_run_of_a_model_made_in_code_is_refused(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("denoiser: {class: mine.Net, parameters: 5}\nobjective: {}\n")
    with pytest.raises(ValueError, match="made in code"):
        read(tmp_path)

"""The shipped classifiers, their recipe and their files."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ornstein import data, metrics

SHIPPED = Path(metrics.__file__).with_name("classifiers")
FASHION = Path("/usr/share/datasets/fashion-mnist")


def test_the_shipped_classifier_is_right_on_held_out_scans():
    held_out = data.load("digits").held_out
    classifier = metrics.load_classifier("digits")
    found = metrics.class_accuracy(classifier, held_out.x_0, held_out.fields["label"])
    assert found.value >= 0.985
    card = json.loads((SHIPPED / "digits.json").read_text())
    assert card["held_out_accuracy"]["value"] == pytest.approx(found.value, abs=0.004)
    assert (SHIPPED / "digits.safetensors").stat().st_size < 500_000
    assert not any(p.requires_grad for p in classifier.parameters())
    assert not classifier.training


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_shipped_classifier_of_clothes_is_right_on_held_out_pictures():
    held_out = data.load("fashion-mnist").held_out
    classifier = metrics.load_classifier("fashion-mnist")
    x, labels = held_out.x_0[::5], held_out.fields["label"][::5]
    found = metrics.class_accuracy(classifier, x, labels)
    card = json.loads((SHIPPED / "fashion-mnist.json").read_text())
    assert found.value >= 0.88
    assert card["held_out_accuracy"]["low"] - 0.02 < found.value < card["held_out_accuracy"]["high"] + 0.02
    shuffled = x.flatten(2)[..., torch.randperm(256, generator=torch.Generator().manual_seed(0))].reshape(
        x.shape
    )
    assert metrics.class_accuracy(classifier, shuffled, labels).value < 0.5


def test_a_shipped_classifier_weighs_under_a_megabyte():
    for file in SHIPPED.glob("*.safetensors"):
        assert file.stat().st_size < 1_000_000
        assert metrics.load_classifier(file.stem).shape[0] == 1


def test_frechet_distance_of_digits_tells_good_from_bad():
    digits = data.load("digits")
    classifier = metrics.load_classifier("digits")
    held_out, good, noisy, narrow = (
        metrics.classifier_features(classifier, x)
        for x in (
            digits.held_out.x_0,
            digits.train.x_0,
            digits.train.x_0 + torch.randn(1500, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
            digits.train.x_0[digits.train.fields["label"] < 5],
        )
    )
    base = metrics.frechet_distance(good, held_out).high
    assert metrics.frechet_distance(noisy, held_out).low > base
    assert metrics.frechet_distance(narrow, held_out).low > base


def small(count):
    digits = data.load("digits")
    few = data.TensorSplit(digits.train.x_0[:count], {"label": digits.train.fields["label"][:count]})
    return dataclasses.replace(digits, train=few, name="few")


def test_the_recipe_learns_and_repeats(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, card = metrics.train_classifier(small(300), epochs=6, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, _ = metrics.train_classifier(small(300), epochs=6, seed=3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert card["held_out_accuracy"]["value"] > 0.8
    assert card["recipe"]["seed"] == 3
    metrics.save_classifier(first, card, tmp_path)
    loaded = metrics.load_classifier("few", tmp_path)
    x = data.load("digits").held_out.x_0
    assert torch.equal(loaded(x), first(x))


def test_classifiers_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"unknown classifier 'digit'. Did you mean 'digits'"):
        metrics.load_classifier("digit")
    (tmp_path / "broken.json").write_text((SHIPPED / "digits.json").read_text())
    with pytest.raises(ValueError, match="classifier 'broken' cannot be read"):
        metrics.load_classifier("broken", tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="classifier 'broken' cannot be read"):
        metrics.load_classifier("broken", tmp_path)


def test_data_without_labels_are_refused():
    with pytest.raises(ValueError, match="expected labelled square images"):
        metrics.train_classifier(data.load("words"))
    with pytest.raises(ValueError, match="expected labelled square images"):
        metrics.train_classifier(data.load("digits-joint"))

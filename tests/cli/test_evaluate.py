from __future__ import annotations

import json

import pytest
import torch

from ornstein import data, solvers
from ornstein.cli.draw import Draw
from ornstein.cli.measures import Seen, alike, measure
from ornstein.solvers import sample
from ornstein.zoo import load

FRECHET = "Fréchet distance (classifier features)"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_training_data_in_place_of_samples_measure_as_training_data(run, digits) -> None:
    """Were the model perfect, its row would read like the reference."""
    train = digits.train

    def perfect(count, fields):
        pool = Seen(train.x_0, train.fields["label"])
        return alike(pool, Seen(torch.empty(count), torch.tensor(fields["label"])), seed=1).x

    found = measure(load(run), digits, perfect)
    for name in (FRECHET, "energy distance", "sliced Wasserstein"):
        row = found.row(name)
        assert row.samples.low <= row.reference.high
        assert row.reference.low <= row.samples.high
        assert row.reference_of == "training data"
    assert found.row("class accuracy").samples.value > 0.97
    assert found.row("class accuracy").reference_of == "held-out data"
    assert found.duplicates == found.count == 297
    assert found.row("nearest training distance over that of held-out data").samples.value == 0


def test_noise_in_place_of_samples_is_far_from_everything(run, digits) -> None:
    found = measure(load(run), digits, lambda count, fields: torch.randn(count, 1, 8, 8), count=100)
    for name in (FRECHET, "energy distance", "sliced Wasserstein"):
        row = found.row(name)
        assert row.samples.low > row.reference.high
    assert found.row("class accuracy").samples.high < 0.4
    assert found.duplicates == 0


def test_the_held_out_loss_is_that_of_training(run, digits) -> None:
    found = measure(load(run), digits, lambda count, fields: digits.train.x_0[:count], count=20)
    assert len(found.losses) == len(found.edges) - 1
    assert found.edges == sorted(found.edges)
    assert all(loss > 0 for loss in found.losses)


def test_the_reference_has_as_many_samples_of_each_class(digits) -> None:
    train = Seen(digits.train.x_0, digits.train.fields["label"])
    labels = torch.tensor([3] * 40 + [8] * 2)
    chosen = alike(train, Seen(torch.empty(42), labels, asked=True), seed=0)
    assert chosen.labels.equal(labels)
    assert len(chosen.x[:40].flatten(1).unique(dim=0)) == 40


@pytest.mark.parametrize("solver", [None, solvers.Ancestral()])
def test_samples_drawn_in_batches_are_those_drawn_at_once(run, monkeypatch, solver) -> None:
    monkeypatch.setattr("ornstein.cli.draw.BATCH", 3)
    model, labels = load(run), [1, 2, 3, 4, 5, 6, 7]
    parts = Draw(model, 3, solver, seed=9)(7, {"label": labels})
    whole = sample(model, 7, steps=3, seed=9, label=labels, solver=solver)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_the_table_and_the_file_say_the_same(run, call, tmp_path) -> None:
    text = call(f"evaluate {run} -n 40 --steps 3 --out found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["data"] == "digits"
    assert found["samples"] == 40
    value = found["measured"]["energy distance"]["samples"]["value"]
    assert f"{value:.4g}" in text
    assert "held-out data" in " ".join(text.split())
    assert found["measured"]["class accuracy"]["reference_of"] == "held-out data"
    assert "reference_of" not in found["measured"]["nearest training distance over that of held-out data"]
    assert len(found["held_out"]["loss"]) == 8


def test_without_a_name_a_run_keeps_its_own_evaluation(call, small, tmp_path) -> None:
    call(f"train digits --out run --steps 1 {small}")
    call("evaluate run -n 10 --steps 2")
    call("evaluate run -n 12 --steps 2")
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["samples"] == 12


def test_words_are_scored_as_words(run) -> None:
    words = data.load("words")

    def perfect(count, fields):
        return words.held_out.x_0[:count]

    from ornstein import denoisers, networks, processes

    network = networks.SequenceTransformer(28, 27, 8, width=16, depth=1, heads=2)
    model = denoisers.NetworkDenoiser(network, processes.Absorbing(27), shape=(8,))
    found = measure(model, words, perfect, count=200)
    assert found.row("words never trained on").samples.value == 1.0
    assert found.row("words never trained on").reference.value == 0.0
    assert found.row("words of the list").reference.value == 1.0


def test_a_tree_is_measured_by_its_image_and_label(digits) -> None:
    from ornstein import denoisers, networks, processes

    joint = data.load("digits-joint")
    parts = {"image": processes.VariancePreserving(), "label": processes.Absorbing(10)}
    network = networks.JointUNet(1, 10, width=8, multipliers=(1,))
    model = denoisers.NetworkDenoiser(network, processes.ProductProcess(parts), "edm", shape=joint.shape)

    def draw(count, fields=None, given=None):
        """Training data in place of samples; whatever is given, the other leaf is that of the first scans."""
        return {**joint.train.batch(torch.arange(count))["x_0"], **(given or {})}

    found = measure(model, joint, draw, count=60)
    assert found.row("class accuracy").samples.value > 0.95
    assert found.row("label given the image").samples.value < 0.3  # labels of other scans
    assert found.row("image given the label (class accuracy)").samples.value < 0.3
    assert found.row(FRECHET) is not None

from __future__ import annotations

import json
import shutil

import pytest

from ornstein import zoo
from ornstein.data import load


def test_a_run_says_how_far_it_is_and_what_its_model_is(run, call) -> None:
    text = call(f"info {run}")
    assert "6 of 6" in text
    assert "moving average (EMA)" in text
    assert "trained on" in text
    assert "UNet(" in text
    assert "label" in text


def test_a_run_without_a_model_yet_is_still_a_run(run, call, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "early")
    shutil.rmtree(tmp_path / "early" / "model")
    text = call("info early")
    assert "run early" in text
    assert "model early" not in text


def test_the_numbers_of_a_card_are_shown(run, call, tmp_path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    accuracy = {"value": 0.991, "low": 0.98, "high": 0.995, "n": 1000}
    card = {"data": "digits", "measured": {"class accuracy": {"samples": accuracy, "reference": None}}}
    card["measured"]["binding"] = {
        "samples": accuracy,
        "reference": accuracy,
        "reference_of": "true pictures",
    }
    (tmp_path / "model" / "card.json").write_text(json.dumps(card))
    text = call("info model")
    assert "class accuracy" in text
    assert "0.991 [0.98, 0.995]" in text
    assert "true pictures" in text


@pytest.mark.parametrize(("name", "said"), [("digits", "1,500"), ("words", "27"), ("digits-joint", "image")])
def test_data_say_their_size_and_shape(name: str, said: str, call) -> None:
    text = call(f"info {name}")
    assert f"data {name}" in text
    assert said in text


def test_the_data_of_a_model_are_shown_as_it_saw_them(call) -> None:
    text = " ".join(call("info scenes").split())
    options = zoo.data_options_of("scenes")
    small = load("scenes", **{**options, "count": 1})
    assert f"data scenes to train on {options['count']:,}" in text
    assert f"shape {small.shape} " in text and f"{small.train.texts[0]!r}" in text
    assert "fields none" not in text and f"size={options['size']}" in text
    assert "shape (3, 24, 24)" in " ".join(call("info scenes --set size=24 --set count=50").split())


@pytest.mark.parametrize(
    "name, near", [("scene", "scenes"), ("scenes-txt", "scenes-text"), ("wrds", "words")]
)
def test_models_and_data_are_suggested(name: str, near: str, refused) -> None:
    code, text = refused(f"info {name}")
    assert code == 2 and f"unknown model or data '{name}'. Did you mean '{near}'?" in text


def test_papers_are_listed_by_kind(call) -> None:
    assert "102 papers" in call("papers")
    text = call("papers --family solvers --role solver")
    assert "mr-sampler" in text
    assert "102 papers" not in text


def test_reproduce_runs_the_claim_asked_for(call, monkeypatch) -> None:
    asked = {}

    def reproduce(slug, budget, seeds, out, *, force):
        asked.update(slug=slug, budget=budget, seeds=seeds, out=out, force=force)

    monkeypatch.setattr("ornstein.claim.reproduce", reproduce)
    call("reproduce score-sde --budget smoke --seeds 3 --force")
    assert asked == {"slug": "score-sde", "budget": "smoke", "seeds": range(3), "out": None, "force": True}

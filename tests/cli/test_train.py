from __future__ import annotations

import json

import pytest
import yaml

WEIGHTS = ("model/model.safetensors", "model/model_raw.safetensors", "metrics.jsonl")


def same_bits(a, b) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in WEIGHTS)


def test_the_run_folder_has_all_that_was_promised(run) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "samples", "model"} <= names
    assert [p.name for p in (run / "samples").iterdir()] == ["step-00000006.png"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["training"]["steps"] == 6
    assert config["training"]["seed"] == 3
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]


def test_the_config_of_a_run_reproduces_it(run, call, tmp_path) -> None:
    call(f"train digits --config {run / 'config.yaml'} --out again")
    assert same_bits(run, tmp_path / "again")


def test_a_run_goes_on_to_the_same_bits(run, call, small, tmp_path, monkeypatch) -> None:
    stopped = _interrupt_after(3, monkeypatch)
    with stopped:
        assert _code(f"train digits --out half --steps 6 --seed 3 {small}") == 130
    assert not (tmp_path / "half" / "model").exists()
    call("train digits --out half --resume")
    assert same_bits(run, tmp_path / "half")


def test_a_finished_run_resumed_stays_as_it_is(call, small, tmp_path) -> None:
    call(f"train digits --out done --steps 3 {small}")
    before = (tmp_path / "done" / "model" / "model.safetensors").read_bytes()
    call("train digits --out done --resume")
    assert (tmp_path / "done" / "model" / "model.safetensors").read_bytes() == before


def test_resuming_with_other_numbers_is_refused(run, refused) -> None:
    code, text = refused(f"train digits --out {run} --resume --set training.batch=32")
    assert code == 2
    assert "training.batch was 16, now 32" in text


def test_a_folder_of_images_is_trained_on_with_its_classes(call, small, tmp_path) -> None:
    import numpy as np
    from PIL import Image

    for i in range(12):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.full((20, 20, 3), 20 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    call(f"train photos --set data.size=8 --out run --steps 2 {small}")
    import ornstein as orn

    model = orn.load("run")
    assert model.shape == (3, 8, 8)
    assert model.network.labels == 2


def test_numbers_are_checked_before_data_are_made(refused, monkeypatch) -> None:
    monkeypatch.setattr("ornstein.data.load", lambda *given, **options: pytest.fail("loaded"))
    code, text = refused("train scenes --preset scenes-text --steps 4 --out run")
    assert code == 2 and "training.warmup: expected fewer than the 4 steps, got 50" in text
    assert "training: unknown schedule" in refused("train words --set training.schedule=cosin --out run")[1]


def test_the_help_lists_the_data_that_ship(call) -> None:
    from ornstein.data.load import BUILT_IN

    text = "".join(line.strip("│ \n") + " " for line in call("train --help").splitlines())
    assert f"{', '.join(sorted(BUILT_IN))};" in " ".join(text.split())


def test_the_default_folder_is_named_after_the_data(call, tmp_path) -> None:
    tiny = "--set network.width=16 --set network.depth=1 --set network.heads=2 --set training.batch=8"
    call(f"train words --steps 1 {tiny} --set training.warmup=0")
    assert (tmp_path / "runs" / "words" / "model" / "config.json").is_file()


def _interrupt_after(step: int, monkeypatch):
    import contextlib

    from ornstein.training.learner import Learner

    original = Learner.step

    def interrupting(self, index, given):
        if index == step:
            raise KeyboardInterrupt
        original(self, index, given)

    @contextlib.contextmanager
    def patched():
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", interrupting)
            yield

    return patched()


def _code(line: str) -> int:
    from typer.testing import CliRunner

    from ornstein.cli import app

    return CliRunner().invoke(app, line.split()).exit_code


@pytest.mark.parametrize("option", ["--seed 4", "--set training.seed=4"])
def test_shortcuts_and_dotted_names_say_the_same(option: str, call, small, tmp_path) -> None:
    call(f"train digits --out a --steps 1 {option} {small}")
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["training"]["seed"] == 4

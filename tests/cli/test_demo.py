from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ornstein.cli import demo, figures

FEW = ("network.width=8", "training.batch=8", "training.sample_every=0", "training.evaluate_every=0")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A demo of a second: the recipe made small, and few samples measured."""
    from ornstein.cli import train
    from ornstein.cli.config import overrides

    full = train.configured

    def small(data, config, preset, above, run):
        return full(data, config, preset, [overrides(FEW), *above], run)

    monkeypatch.setattr(train, "configured", small)
    monkeypatch.setattr(demo, "SAMPLED", 40)


def test_the_demo_writes_what_it_promises(call, tmp_path) -> None:
    text = call("demo --steps 12")
    folder = tmp_path / "demo"
    assert {p.name for p in folder.iterdir()} == {*demo.FILES, "run"}
    report = (folder / "report.md").read_text()
    for name in ("samples.png", "trajectory.png", "nearest.png"):
        assert f"]({name})" in report
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100
    for words in (
        "class accuracy",
        "Fréchet distance",
        "images/s",
        "torch ",
        "12 steps",
        "equal a training scan",
    ):
        assert words in report
    assert re.search(r"\d% are classified as the digit asked for", text)


def test_the_demo_goes_on_where_it_was_killed(call, tmp_path, monkeypatch) -> None:
    from ornstein.training.learner import Learner

    original, seen = Learner.step, []

    def step(self, index, given):
        seen.append(index)
        if len(seen) == 9:
            raise KeyboardInterrupt
        original(self, index, given)

    monkeypatch.setattr(Learner, "step", step)
    from typer.testing import CliRunner

    from ornstein.cli import app

    assert CliRunner().invoke(app, ["demo", "--steps", "12"]).exit_code == 130
    assert not (tmp_path / "demo" / "report.md").exists()
    call("demo --steps 12")
    assert (tmp_path / "demo" / "report.md").exists()


def test_the_commands_of_the_report_exist(call) -> None:
    from typer.main import get_command

    from ornstein.cli import app

    call("demo --steps 11")
    commands = get_command(app).commands
    lines = re.findall(r"^ornstein (.+)$", Path("demo/report.md").read_text(), re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        name, *words = line.split()
        with commands[name].make_context(name, words):
            pass


def test_pictures_have_a_place_for_each_image() -> None:
    import torch

    images = torch.rand(20, 1, 8, 8) * 2 - 1
    assert figures.labelled(images, [str(i) for i in range(10)]).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="expected 1 x 10, got 15"):
        figures.labelled(images[:15], [str(i) for i in range(10)])

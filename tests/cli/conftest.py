"""Runs of the command line inside this process, and one small trained run that tests share."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

SMALL = (
    "--set network.width=8 --set network.multipliers=[1,2] --set training.batch=16 --set training.warmup=0 "
    "--set training.checkpoint_every=3 --set training.evaluate_every=6 --set training.sample_every=6 "
    "--set training.report_every=3"
)


def invoke(line: str):
    from ornstein.cli import app

    return CliRunner().invoke(app, shlex.split(line))


@pytest.fixture
def call():
    """A command line that must succeed; its output."""

    def calling(line: str) -> str:
        result = invoke(line)
        assert result.exit_code == 0, result.output
        return result.output

    return calling


@pytest.fixture
def refused():
    """A command line that must fail; exit code and message."""

    def calling(line: str) -> tuple[int, str]:
        result = invoke(line)
        assert result.exit_code != 0, result.output
        return result.exit_code, result.stderr

    return calling


@pytest.fixture
def small() -> str:
    """Options of `train` that make a training of under a second."""
    return SMALL


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run of six steps on digits. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = invoke(f"train digits --out {folder} --steps 6 --seed 3 {SMALL}")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Files that nobody asked for land where a test can see them."""
    monkeypatch.chdir(tmp_path)

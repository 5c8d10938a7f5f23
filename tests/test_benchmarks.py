"""The benchmarks run, with whatever peers are installed, and say which are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_overhead_measures_every_method_at_every_shape(tmp_path: Path) -> None:
    found = tmp_path / "overhead.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.overhead",
        "--rounds",
        "2",
        "--steps",
        "2",
        "--json",
        str(found),
    ]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for result in json.loads(found.read_text(encoding="utf-8"))["results"]:
        names = {(row["library"], row["name"]) for row in result["rows"]}
        assert {("torch", "multiply-add"), ("ornstein", "2M"), ("ornstein", "2M, both")} <= names
        libraries = {library for library, _ in names} | set(result["missing"])
        assert {"k-diffusion", "azula", "diffusers"} <= libraries
        assert all(row["microseconds"]["median"] > 0 for row in result["rows"])
        assert all(f"{peer} is left out" in printed for peer in result["missing"])


def test_accuracy_is_ahead_of_the_stock_solvers_that_are_installed(tmp_path: Path) -> None:
    """On data that no number of the recommended sampler was chosen on, at a few calls and samples."""
    pytest.importorskip("diffusers")
    found, tables = tmp_path / "accuracy.json", tmp_path / "tables.md"
    command = [
        sys.executable,
        "-m",
        "benchmarks.accuracy",
        "--problems",
        "wine",
        "--calls",
        "8",
        "--samples",
        "64",
    ]
    command += ["--json", str(found), "--tables", str(tables), "--figure", str(tmp_path / "curves.png")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (row,) = json.loads(found.read_text(encoding="utf-8"))["rows"]
    assert row["peers"]["cells"] >= 40
    for measure, limit in {"median": 0.5, "rmse": 0.75, "sliced": 0.8}.items():
        assert row["ours"][measure] < limit * row["peers"][measure][0]
    assert "| wine | 8 |" in tables.read_text(encoding="utf-8")


@pytest.fixture
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.usefixtures("beside_the_benchmarks")
def test_the_training_error_of_the_best_constant_gain_is_one() -> None:
    """And a perfect denoiser has 0."""
    from benchmarks.trainers import Trainer
    from benchmarks.training import held_out_error

    x = 0.6 * torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = SimpleNamespace(held_out=SimpleNamespace(batch=lambda rows: {"x_0": x[rows]}))
    gain = lambda y, level: 0.36 / (0.36 + level**2) * y  # noqa: E731
    nothing = lambda *_: x  # noqa: E731
    assert held_out_error(Trainer("gain", 0, nothing, gain, nothing), data) == pytest.approx(1.0, rel=0.02)
    assert held_out_error(Trainer("perfect", 0, nothing, lambda y, level: x, nothing), data) == 0.0


@pytest.mark.usefixtures("beside_the_benchmarks")
def test_stand_ins_are_taken_away_again() -> None:
    from benchmarks.trainers import without

    with without(("no_such_module", "no_such_module.part")):
        import no_such_module  # noqa: F401
    assert not any(name.startswith("no_such_module") for name in sys.modules)

"""Processes that share a batch train as one does, and a run goes on with another number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed import SHARED

from ornstein.denoisers.files import load_model

HERE = Path(__file__).parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
LAST = 4  # the report after which a run is broken off; its last checkpoint is that of step 3


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    from killed import train

    folder = tmp_path_factory.mktemp("one")
    train(str(folder), **SHARED)
    return folder


def together(folder: Path, *last: str) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(HERE / "shared.py"), str(folder), *last]
    run = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    if not last:
        assert run.returncode == 0, run.stderr
    return run.returncode


def assert_equal_runs(a: Path, b: Path) -> None:
    """The same loss curve, line by line, and the same weights, to rounding."""
    curves = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (a, b)
    ]
    assert [line["step"] for line in curves[0]] == [line["step"] for line in curves[1]] == [2, 4, 6, 8]
    for ours, theirs in zip(*curves, strict=True):
        assert set(ours) == set(theirs)
        for name, value in ours.items():
            assert theirs[name] == pytest.approx(value, rel=2e-5, abs=1e-6), (name, ours["step"])
    for weights in ("ema", "raw"):
        pairs = zip(load_model(a, weights).parameters(), load_model(b, weights).parameters(), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_two_processes_equal_one(tmp_path, one) -> None:
    together(tmp_path)
    assert_equal_runs(one, tmp_path)


def test_a_run_of_two_processes_goes_on_with_one(tmp_path, one, train) -> None:
    assert together(tmp_path, str(LAST)) != 0
    assert not (tmp_path / "model").exists()
    train(tmp_path, **SHARED)
    assert_equal_runs(one, tmp_path)


def test_a_run_of_one_process_goes_on_with_two(tmp_path, one, train) -> None:
    def broken(record: dict) -> None:
        if record["step"] >= LAST:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(tmp_path, **SHARED, callback=broken)
    together(tmp_path)
    assert_equal_runs(one, tmp_path)

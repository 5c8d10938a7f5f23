"""A run that is killed ends with the same bits as one that is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
COMPARED = (
    "config.yaml",
    "metrics.jsonl",
    "model/config.json",
    "model/model.safetensors",
    "model/model_raw.safetensors",
    "checkpoints/step-00000032/state.safetensors",
    "checkpoints/step-00000036/state.safetensors",
    "checkpoints/step-00000036/state.json",
    "samples/step-00000012.txt",
    "samples/step-00000036.txt",
)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def without_timing(path: Path) -> bytes:
    """A file's content; state.json less the length of timing.jsonl."""
    lines = path.read_bytes().splitlines()
    return b"\n".join(line for line in lines if b'"timing"' not in line)


def killed(folder: Path, kills: int) -> int:
    command = [sys.executable, str(HERE / "killed.py"), str(folder), str(kills), "3"]
    run = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_random_moments_changes_no_bit(tmp_path, train) -> None:
    train(tmp_path / "whole")
    assert killed(tmp_path / "killed", 8) >= 6
    for name in COMPARED:
        whole, broken = (without_timing(tmp_path / run / name) for run in ("whole", "killed"))
        assert whole == broken, name
    left = [p for p in (tmp_path / "killed").rglob(".*") if p.name != ".lock"]
    assert not left
    timed = (tmp_path / "killed/timing.jsonl").read_text().splitlines()
    assert len(timed) == 12


def test_an_error_in_a_callback_ends_the_run_which_then_goes_on(tmp_path, train) -> None:
    whole = train(tmp_path / "whole")

    def stop(record: dict) -> None:
        if record["step"] == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", callback=stop)
    assert not (tmp_path / "stopped/model").exists()
    resumed = train(tmp_path / "stopped")
    assert resumed.metrics == whole.metrics
    for ours, theirs in zip(resumed.denoiser.parameters(), whole.denoiser.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_finished_run_is_returned_as_it_is(tmp_path, train) -> None:
    first = train(tmp_path, steps=12)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = train(tmp_path, steps=12)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert all(map(torch.equal, first.denoiser.parameters(), again.denoiser.parameters()))


def test_a_constant_rate_goes_on_for_longer_to_the_same_weights(tmp_path, train) -> None:
    options = {"schedule": "constant", "warmup": 2}
    long = train(tmp_path / "long", steps=24, **options)
    train(tmp_path / "two", steps=12, **options)
    two = train(tmp_path / "two", steps=24, **options)
    assert all(map(torch.equal, long.denoiser.parameters(), two.denoiser.parameters()))
    assert [m["step"] for m in two.metrics] == [m["step"] for m in long.metrics]


def test_other_values_are_refused_and_nothing_is_written(tmp_path, train) -> None:
    train(tmp_path, steps=12)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=r"training\.learning_rate was 0\.001, now 0\.01"):
        train(tmp_path, steps=12, learning_rate=0.01)
    with pytest.raises(ValueError, match="not empty"):
        train(tmp_path, steps=12, resume=False)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

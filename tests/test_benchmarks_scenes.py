"""The benchmark of scenes measures every size, world and change, and writes its tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("scenes")
    found, tables = folder / "scenes.json", folder / "tables.md"
    command = [sys.executable, "-m", "benchmarks.scenes", "--count", "6", "--codec", "no-such-codec"]
    command += ["--json", str(found), "--tables", str(tables)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "left out: no-such-codec" in printed
    return json.loads(found.read_text(encoding="utf-8")), tables.read_text(encoding="utf-8")


def test_everything_is_measured(written: tuple[dict, str]) -> None:
    record, _ = written
    cells = {(r["pixels"], r["world"], r["change"]) for r in record["readings"]}
    assert len(cells) == len(record["readings"]) == 3 * 2 * 4
    for r in record["readings"]:
        images = sum(map(sum, r["confusion"]["style"]))
        assert images == 6 and r["per_second"] > 0
        if (r["pixels"], r["world"], r["change"]) == (32, "apart", "clean"):
            assert r["accuracy"] == dict.fromkeys(r["accuracy"], 1.0) and r["missed"] == 0
    assert record["readable"]["renders"] == 1 and record["readable"]["white noise"] == 0
    assert all(speed > 0 for speed in record["renders"].values())


def test_levels_of_true_pictures_and_of_any(written: tuple[dict, str]) -> None:
    levels = written[0]["floors"]
    assert levels["renders"]["success"] == 1 and levels["renders"]["layout_iou"] > 0.99
    assert levels["other captions"]["success"] < 0.2 and levels["other captions"]["readable"] == 1


def test_tables_are_markdown(written: tuple[dict, str]) -> None:
    for table in written[1].split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1

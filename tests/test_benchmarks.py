"""The benchmarks run, with whatever peers are installed, and say which are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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

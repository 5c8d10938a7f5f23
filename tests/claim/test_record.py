"""Records are whole, complete, and never replaced by those of a lesser run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ornstein.claim import BUDGETS, Result

Run = Callable[..., tuple[Any, str]]
Write = Callable[..., None]
Saved = Callable[[], dict[str, Any]]


def test_each_budget_has_its_seeds(run: Run) -> None:
    seeds = [run("score-sde", budget)[0].seeds for budget in BUDGETS]
    assert seeds == [(0, 1), (3, 4, 5), tuple(range(20))]


def test_a_seed_gives_the_same_numbers_in_any_run(run: Run) -> None:
    few, many = run("score-sde", "quick")[0], run("score-sde", "full")[0]
    assert all(few.numbers[seed] == many.numbers[seed] for seed in few.seeds)


@pytest.mark.parametrize("budget, seeds", [("smoke", None), ("quick", None), ("full", [0, 1])])
def test_a_lesser_run_never_replaces_a_fuller_record(
    budget: str, seeds: list[int] | None, run: Run, saved: Saved
) -> None:
    run("score-sde", "full")
    before = saved()
    result, text = run("score-sde", budget, seeds=seeds)
    assert result.budget == budget
    assert "not written" in text
    assert saved() == before
    run("score-sde", budget, seeds=seeds, force=True)
    assert saved()["budget"] == budget


def test_an_equal_or_fuller_run_replaces_the_record(run: Run, saved: Saved) -> None:
    for budget in ("smoke", "quick", "quick", "full"):
        run("score-sde", budget)
        assert saved()["budget"] == budget


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [0.5], [True]])
def test_wrong_seeds_are_refused(seeds: list[Any], run: Run) -> None:
    with pytest.raises(ValueError, match="seeds must be different whole numbers"):
        run("score-sde", "quick", seeds=seeds)


def test_the_record_says_all_that_is_needed(run: Run, saved: Saved) -> None:
    run("score-sde", "quick")
    record = saved()
    assert set(record) == {field.name for field in fields(Result)}
    assert record["seeds"] == [3, 4, 5]
    assert set(record["numbers"]) == {"3", "4", "5"}
    gain = np.mean([row["new"] - row["old"] for row in record["numbers"].values()])
    assert record["effects"]["gain"]["value"] == pytest.approx(gain, abs=1e-6)
    assert set(record["versions"]) == {"ornstein", "torch"}
    assert record["seconds"] >= 0


def test_the_record_does_not_name_the_host(monkeypatch: pytest.MonkeyPatch, run: Run, saved: Saved) -> None:
    uname = platform.uname()._replace(node="a-secret-host")
    monkeypatch.setattr(platform, "uname", lambda: uname)
    run("score-sde", "smoke")
    assert "a-secret-host" not in json.dumps(saved())


def test_a_record_is_whole_or_the_old_one(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, run: Run, saved: Saved
) -> None:
    run("score-sde", "quick")
    before = saved()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run("score-sde", "full")
    assert saved() == before
    assert [path.name for path in (checkout / "claims" / "results").iterdir()] == ["score-sde.json"]


def test_the_record_is_replaced_in_one_move(monkeypatch: pytest.MonkeyPatch, run: Run, saved: Saved) -> None:
    """When the move happens, the new file beside the old one is already complete."""
    run("score-sde", "quick")
    seen, replace = [], os.replace

    def spy(source: str, target: Path) -> None:
        seen.append((json.loads(Path(source).read_text())["budget"], saved()["budget"]))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    run("score-sde", "full")
    assert seen == [("full", "quick")]


def test_a_run_that_is_stopped_leaves_no_record(checkout: Path, toy: str, write: Write, run: Run) -> None:
    write(toy.replace("progress(0.5", "raise KeyboardInterrupt; progress(0.5"))
    with pytest.raises(KeyboardInterrupt):
        run("score-sde", "quick")
    assert list((checkout / "claims" / "results").iterdir()) == []


def test_a_file_that_is_no_record_is_kept(checkout: Path, run: Run, saved: Saved) -> None:
    path = checkout / "claims" / "results" / "score-sde.json"
    path.parent.mkdir()
    path.write_text("<<<<<<< HEAD")
    with pytest.raises(ValueError, match="not a claim's record; remove it or use force"):
        run("score-sde", "quick")
    assert path.read_text() == "<<<<<<< HEAD"
    run("score-sde", "quick", force=True)
    assert saved()["verdict"] == "reproduced"


def test_the_record_goes_where_it_is_asked_to(checkout: Path, tmp_path: Path, run: Run) -> None:
    run("score-sde", "smoke", out=tmp_path / "elsewhere" / "deeper")
    assert (tmp_path / "elsewhere" / "deeper" / "score-sde.json").is_file()
    assert not (checkout / "claims" / "results").exists()


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_numbers_that_are_not_finite_are_refused(bad: str, toy: str, write: Write, run: Run) -> None:
    write(toy.replace('"old": 9 * shared', f'"old": float("{bad}")'))
    with pytest.raises(ValueError, match=f"measure gave {bad} for 'old' at seed 3"):
        run("score-sde", "quick")

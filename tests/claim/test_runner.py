"""Only the claims of known papers run, and they show how far they are."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[Any, str]]
Write = Callable[..., None]

README = Path(__file__).parents[2] / "claims" / "README.md"


def test_an_unknown_paper_is_answered_with_the_nearest(run: Run) -> None:
    with pytest.raises(ValueError, match=r"unknown paper 'score-sd'.*Did you mean 'score-sde'"):
        run("score-sd", "smoke")


def test_an_unknown_budget_is_answered_with_the_nearest(run: Run) -> None:
    with pytest.raises(ValueError, match=r"unknown budget 'ful'\. Did you mean 'full'"):
        run("score-sde", "ful")


def test_a_paper_without_a_claim_names_those_that_have_one(toy: str, write: Write, run: Run) -> None:
    write(toy, "gdss")
    with pytest.raises(ValueError, match=r"no claim file for 'radd' yet.*: 'gdss', 'score-sde'\."):
        run("radd", "smoke")


def test_only_files_of_known_papers_run(checkout: Path, run: Run) -> None:
    """Neither a stranger in the folder nor a path out of it is ever executed."""
    bomb = f"from pathlib import Path; Path({str(checkout / 'ran')!r}).touch()"
    (checkout / "claims" / "stranger.py").write_text(bomb)
    (checkout / "outside.py").write_text(bomb)
    for slug in ("stranger", "../outside", str(checkout / "outside"), "score-sde/../stranger"):
        with pytest.raises(ValueError, match="unknown paper"):
            run(slug, "smoke")
    (checkout / "claims" / "radd.py").symlink_to(checkout / "outside.py")
    with pytest.raises(ValueError, match="leads out of claims/"):
        run("radd", "smoke")
    assert not (checkout / "ran").exists()


@pytest.mark.parametrize(
    "old, new, error, message",
    [
        ("= Toy()", "= None", TypeError, "must define `claim`, an instance of Claim, not None"),
        ("= Toy()", "= Toy", TypeError, "must define `claim`, an instance of Claim, not <class"),
        ("{slug}", "gdss", ValueError, "holds the claim of 'gdss', not of 'score-sde'"),
        ("    baseline", "    base", TypeError, "Toy must define `baseline`"),
        ('"smoke": (0, 1), ', "", ValueError, "Toy: seeds must name"),
        ('"old"),)', '"old"),) * 2', ValueError, "Toy: two effects have one name"),
        ("import torch", "import no_such", ModuleNotFoundError, "no_such"),
    ],
)
def test_a_wrong_claim_file_is_refused(
    checkout: Path,
    toy: str,
    write: Write,
    run: Run,
    old: str,
    new: str,
    error: type[Exception],
    message: str,
) -> None:
    write(toy.replace(old, new))
    with pytest.raises(error, match=message):
        run("score-sde", "smoke")
    assert not (checkout / "claims" / "results").exists()


def test_a_claim_file_that_fails_leaves_no_module(write: Write, run: Run) -> None:
    write("raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        run("score-sde", "smoke")
    assert "_ornstein_claim_score_sde" not in sys.modules


def test_the_claims_of_another_project_are_not_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, write: Write, run: Run
) -> None:
    (checkout / "pyproject.toml").write_text('[project]\nname = "other"\n')
    write("raise SystemExit('ran')")
    monkeypatch.setattr("ornstein.claim.runner.__file__", str(checkout / "site" / "runner.py"))
    with pytest.raises(FileNotFoundError, match="no checkout of ornstein found"):
        run("score-sde", "smoke")


def test_from_elsewhere_the_checkout_of_the_package_is_found(
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    place = checkout / "src" / "ornstein" / "claim" / "runner.py"
    monkeypatch.setattr("ornstein.claim.runner.__file__", str(place))
    assert run("score-sde", "smoke")[0].slug == "score-sde"
    assert (checkout / "claims" / "results" / "score-sde.json").is_file()


def test_progress_moves_over_seeds_and_within_them(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    from rich.progress import Progress

    moves: list[tuple[float, str]] = []
    update = Progress.update

    def spy(self: Progress, task: Any, **options: Any) -> None:
        moves.append((options["completed"], options["description"]))
        update(self, task, **options)

    monkeypatch.setattr(Progress, "update", spy)
    run("score-sde", "smoke")
    assert [done for done, _ in moves] == [0, 0.5, 1, 1, 1.5, 2]
    assert moves[1][1] == "seed 0 (1 of 2) half way"


def test_the_example_of_the_readme_runs(checkout: Path, run: Run) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (checkout / "claims" / "immiscible.py").write_text(example)
    result, _ = run("immiscible", "quick")
    assert result.verdict == "reproduced"

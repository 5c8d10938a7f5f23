"""The list of papers: complete, valid, findable, and in agreement with the recorded results."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ornstein.papers import (
    FAMILIES,
    ROLES,
    STATUSES,
    VERDICTS,
    paper,
    papers,
    read,
    table,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "claims" / "results"

ENTRY: dict[str, Any] = {
    "slug": "score-sde",
    "number": 0,
    "title": "A title",
    "year": 2020,
    "arxiv": "2011.13456",
    "family": "processes",
    "role": ["process"],
    "claim": "It works.",
    "code": [],
    "status": "planned",
    "verdict": "",
}


def toml(**changes: Any) -> str:
    """One entry as TOML; a change to None leaves the field out."""
    entry = {k: v for k, v in (ENTRY | changes).items() if v is not None}
    return "[[paper]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in entry.items())


def test_the_list_is_the_102_papers() -> None:
    slugs = sorted(entry.slug for entry in papers())
    assert len(slugs) == 102
    digest = hashlib.sha256("\n".join(slugs).encode()).hexdigest()
    assert digest == "04992657059f62afeb86fec494a24f5dbe332fad60709d77ae842d814097b18d"


def test_numbers_count_from_zero() -> None:
    assert [entry.number for entry in papers()] == list(range(102))


def test_arxiv_identifiers_are_unique_and_of_the_year() -> None:
    known = [(entry.arxiv, entry.year) for entry in papers() if entry.arxiv]
    assert len({arxiv for arxiv, _ in known}) == len(known)
    # The 31st of one month may be filed under the next: the list has none across a new year.
    assert all(2000 + int(arxiv[:2]) == year for arxiv, year in known)


def test_claims_are_one_sentence_and_their_own() -> None:
    claims = [entry.claim for entry in papers()]
    assert len(set(claims)) == 102
    assert all(". " not in claim and len(claim) < 300 for claim in claims)


def test_every_word_of_the_vocabulary_is_used() -> None:
    assert {entry.family for entry in papers()} == set(FAMILIES)
    assert {role for entry in papers() for role in entry.role} == set(ROLES)


def test_code_can_be_imported() -> None:
    for path in {path for entry in papers() for path in entry.code}:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_verdicts_are_those_of_the_recorded_results() -> None:
    listed = {entry.slug: entry.verdict for entry in papers() if entry.verdict}
    recorded = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["verdict"] for path in RESULTS.glob("*.json")
    }
    assert listed == {slug: verdict for slug, verdict in recorded.items() if verdict in VERDICTS}


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        paper("score-sde").status = "done"  # type: ignore[misc]


def test_filters_combine() -> None:
    found = papers(family="science", role="guide")
    assert "tsdiff" in {entry.slug for entry in found}
    assert all(entry.family == "science" and "guide" in entry.role for entry in found)
    assert sum(len(papers(status=status)) for status in STATUSES) == 102
    assert sum(len(papers(family=family)) for family in FAMILIES) == 102


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"family": "solver"}, "Did you mean 'solvers'"),
        ({"status": "finished"}, "unknown status 'finished'"),
        ({"role": "sampler"}, "unknown role 'sampler'"),
    ],
)
def test_unknown_filters_are_refused(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        papers(**asked)


@pytest.mark.parametrize(
    "asked, near",
    [
        ("score_sde", "'score-sde'"),
        ("latentdiffusion", "'latent-diffusion'"),
        ("kinetic optimal", "'kinetic-optimal'"),
        ("Langevin", "'langevin-flow'"),
        ("Schrödinger Bridges", "'multi-marginal-sb'"),
    ],
)
def test_an_unknown_paper_is_answered_with_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown paper .*Did you mean {near}"):
        paper(asked)


def test_a_paper_like_none_is_answered_with_the_command() -> None:
    with pytest.raises(ValueError, match=r"unknown paper '#'\. `ornstein papers` lists all 102"):
        paper("#")


def test_a_valid_entry_is_read() -> None:
    (entry,) = read(toml(arxiv=None))
    assert (entry.slug, entry.role, entry.arxiv) == ("score-sde", ("process",), None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"status": "finished"}, "unknown status 'finished'"),
        ({"verdict": "proved", "status": "building"}, "unknown verdict 'proved'"),
        ({"role": ["solvers"]}, "unknown role 'solvers'. Did you mean 'solver'"),
        ({"role": []}, "one or two"),
        ({"role": ["guide", "guide"]}, "one or two"),
        ({"role": ["guide", "solver", "space"]}, "one or two"),
        ({"role": "guide"}, "role must be list"),
        ({"family": "scores"}, "unknown family 'scores'"),
        ({"slug": "../score"}, "slug '../score' is not of the form"),
        ({"arxiv": "arXiv:2011.13456"}, "arxiv .* is not of the form"),
        ({"year": "2020"}, "year must be int"),
        ({"year": 20}, "year '20' is not of the form"),
        ({"claim": "no capital or stop"}, "claim .* is not of the form"),
        ({"code": ["torch.nn.Linear"]}, r"code\[0\] .* is not of the form"),
        ({"title": None}, "score-sde: missing title"),
        ({"titel": "A title"}, "unknown field 'titel'. Did you mean 'title'"),
        ({"verdict": "reproduced"}, "for a paper still planned"),
        ({"status": "done"}, "needs a verdict and code"),
        ({"status": "done", "verdict": "partly"}, "needs a verdict and code"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(toml(**changes))


@pytest.mark.parametrize("changes", [{"number": 1}, {"slug": "other"}])
def test_a_slug_or_number_given_twice_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="given to two papers"):
        read(toml() + toml(**changes))


def test_text_that_is_not_toml_is_refused() -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        read("[[paper]")


def test_the_table_shows_each_paper_in_full() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=400)
    console.print(table())
    text = console.file.getvalue()
    assert "102 papers" in text
    assert all(entry.slug in text and entry.title in text for entry in papers())


def test_the_table_of_some_papers_has_their_rows() -> None:
    networks = papers(role="network")
    assert table(networks).row_count == len(networks) > 0


def test_a_narrow_screen_shows_every_paper_on_one_line():
    from rich.console import Console

    screen = Console(width=80, file=io.StringIO(), record=True)
    screen.print(table(width=80))
    lines = screen.export_text().splitlines()
    assert len(lines) == 102 + 5  # the title, three lines around the names, and the last
    assert all(len(line) <= 80 for line in lines)

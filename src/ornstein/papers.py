"""The 102 papers that ornstein re-measures: what each adds, where its pieces stand, what was found.

The list is `papers.toml` beside this file; `claims/SLUG.py` in the repository measures a paper's
claim (see `ornstein.claim`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from .core.spec import suggest

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FAMILIES", "ROLES", "STATUSES", "VERDICTS", "Paper", "paper", "papers", "table"]

STATUSES = ("planned", "building", "done")
VERDICTS = ("reproduced", "partly", "not reproduced", "not testable here")
ROLES = (
    "process", "space", "network", "denoiser", "guide", "solver", "objective", "reward",
    "diagnostic", "adapter", "metric", "system", "survey",
)  # fmt: skip
FAMILIES = (
    "processes", "solvers", "objectives", "networks", "representations", "guidance", "control",
    "alignment", "discrete", "distillation", "understanding", "science", "dynamics", "surveys",
)  # fmt: skip
SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"


@dataclass(frozen=True)
class Paper:
    """One paper of the list.

    Attributes:
        slug: its short name here; also the name of its claim file.
        number: its place in the list, from 0.
        title: as published.
        year: of the first version.
        arxiv: identifier such as "2011.13456", or None where not known for certain.
        family: one of `FAMILIES`.
        role: what it adds to the library, one or two of `ROLES`.
        claim: what is measured, in one sentence.
        code: import paths of its pieces.
        status: one of `STATUSES`.
        verdict: one of `VERDICTS`, or "" until measured.

    Raises:
        ValueError: a field is not of the form said above, a planned paper has a verdict, or a done
            one has no verdict or no code.
    """

    slug: str
    number: int
    title: str
    year: int
    family: str
    role: tuple[str, ...]
    claim: str
    code: tuple[str, ...]
    status: str
    verdict: str
    arxiv: str | None = None

    def __post_init__(self) -> None:
        _check_words(self)
        _check_forms(self)
        if self.status == "planned" and self.verdict:
            raise ValueError(f"{self.slug}: verdict {self.verdict!r} for a paper still planned")
        if self.status == "done" and not (self.verdict and self.code):
            raise ValueError(f"{self.slug}: status 'done' needs a verdict and code")


def _check_words(entry: Paper) -> None:
    _one_of(entry.slug, "family", entry.family, FAMILIES)
    _one_of(entry.slug, "status", entry.status, STATUSES)
    _one_of(entry.slug, "verdict", entry.verdict, ("", *VERDICTS))
    for role in entry.role:
        _one_of(entry.slug, "role", role, ROLES)
    if not 1 <= len(set(entry.role)) == len(entry.role) <= 2:
        raise ValueError(f"{entry.slug}: role {list(entry.role)} must be one or two, not repeated")


def _check_forms(entry: Paper) -> None:
    forms = {
        "slug": (SLUG, entry.slug),
        "arxiv": (r"\d{4}\.\d{4,5}", entry.arxiv),
        "year": (r"(19|20)\d\d", str(entry.year)),
        "title": (r"\S.*\S", entry.title),
        "claim": (r"[A-Z].*\.", entry.claim),
    }
    forms |= {f"code[{i}]": (r"ornstein(\.\w+)+", path) for i, path in enumerate(entry.code)}
    for field, (form, given) in forms.items():
        if given is not None and not re.fullmatch(form, given):
            raise ValueError(f"{entry.slug}: {field} {given!r} is not of the form {form}")


def _one_of(slug: str, field: str, given: str, accepted: Iterable[str]) -> None:
    if given not in accepted:
        raise ValueError(f"{slug}: " + suggest(given, accepted, field))


def read(text: str) -> tuple[Paper, ...]:
    """The papers of a TOML text, in its order.

    Raises:
        ValueError: an entry has an unknown, missing or wrong field, or a slug or number is given
            twice.
    """
    entries = tuple(_entry(row) for row in tomllib.loads(text).get("paper", []))
    for field in ("slug", "number"):
        given = [getattr(entry, field) for entry in entries]
        twice = sorted({value for value in given if given.count(value) > 1})
        if twice:
            raise ValueError(f"{field} given to two papers: {twice[0]!r}")
    return entries


def _entry(row: Mapping[str, Any]) -> Paper:
    slug = row.get("slug", "entry without a slug")
    names = [field.name for field in fields(Paper)]
    for name in row:
        _one_of(slug, "field", name, names)
    missing = [name for name in names if name not in row and name != "arxiv"]
    if missing:
        raise ValueError(f"{slug}: missing {', '.join(missing)}")
    for name, given in row.items():
        accepted = {"number": int, "year": int, "role": list, "code": list}.get(name, str)
        if type(given) is not accepted:
            raise ValueError(f"{slug}: {name} must be {accepted.__name__}, not {given!r}")
    fixed: dict[str, Any] = {k: tuple(v) if k in ("role", "code") else v for k, v in row.items()}
    return Paper(**fixed)


@cache
def _shipped() -> tuple[Paper, ...]:
    return read(resources.files(__package__).joinpath("papers.toml").read_text(encoding="utf-8"))


def papers(*, family: str | None = None, status: str | None = None, role: str | None = None) -> list[Paper]:
    """The papers, all or those of a family, status and role, in the list's order.

    Raises:
        ValueError: the family, status or role is none of those accepted.
    """
    asked = (("family", family, FAMILIES), ("status", status, STATUSES), ("role", role, ROLES))
    for name, given, accepted in asked:
        if given is not None and given not in accepted:
            raise ValueError(suggest(given, accepted, name))
    return [
        entry
        for entry in _shipped()
        if family in (None, entry.family)
        and status in (None, entry.status)
        and (role is None or role in entry.role)
    ]


def paper(slug: str) -> Paper:
    """The paper of that slug.

    Raises:
        ValueError: there is none; the message names those whose slug or title is near.
    """
    found = {entry.slug: entry for entry in _shipped()}
    if slug in found:
        return found[slug]
    near = difflib.get_close_matches(str(slug), found, n=3) or _titled(str(slug))
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"unknown paper {slug!r}.{hint} `ornstein papers` lists all {len(found)}.")


def _titled(words: str) -> list[str]:
    """Slugs of at most three papers with every word in slug or title; those of the slug first."""
    asked = re.findall(r"\w+", words.lower())
    where = {entry.slug: f"{entry.slug} {entry.title}".lower() for entry in _shipped()}
    found = [slug for slug, text in where.items() if asked and all(w in text for w in asked)]
    return sorted(found, key=lambda slug: not all(w in slug for w in asked))[:3]


def table(entries: Iterable[Paper] | None = None, width: int = 200) -> Table:
    """A rich table of the papers given, or of all: slug, year, role, status, verdict, title; a line each, without year
    and role and with the titles cut, on a screen of fewer than 120 columns.
    """
    from rich.table import Table

    shown, narrow = list(_shipped() if entries is None else entries), width < 120
    columns = (
        ("slug", "status", "verdict", "title")
        if narrow
        else ("slug", "year", "role", "status", "verdict", "title")
    )
    result = Table(title=f"{len(shown)} papers", title_justify="left")
    sizes = {"slug": 25, "status": 8, "verdict": 14, "title": width - 60} if narrow else {}
    for name in columns:
        whole = narrow or name in ("slug", "year")
        style: Any = "ellipsis" if narrow else "fold"
        result.add_column(name, overflow=style, no_wrap=whole, width=sizes.get(name))
    for entry in shown:
        result.add_row(*(_cell(getattr(entry, name)) for name in columns))
    return result


def _cell(value: Any) -> str:
    from rich.markup import escape

    return escape(", ".join(value) if isinstance(value, tuple) else str(value))

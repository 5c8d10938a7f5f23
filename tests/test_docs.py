"""Every Python block of the README and of the docs runs, page by page, in the order it is read, and every
`ornstein` command line names a command and options that exist.

A block that cannot run here stands behind a comment that says why, as in
`<!-- skip: needs a hub account -->`.
"""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^ornstein .*$", re.MULTILINE)
BLOCK = re.compile(r"^(?P<skip><!-- skip: .+ -->\n\n?)?```python.*\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)


def program(page: str) -> str:
    """The page with all but its Python blanked out: tracebacks name the page's own lines."""
    blocks = [match for match in BLOCK.finditer(page) if not match["skip"]]
    kept = {line for match in blocks for line in lines_of(page, *match.span("code"))}
    lines = enumerate(page.splitlines())
    return "\n".join(text if number in kept else "" for number, text in lines)


def lines_of(text: str, start: int, end: int) -> range:
    return range(text.count("\n", 0, start), text.count("\n", 0, end))


def texts() -> dict[Path, str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {page: page.read_text(encoding="utf-8") for page in pages}


def pages_with_code() -> list[Path]:
    return [page for page, text in texts().items() if program(text).strip()]


def command_lines() -> list[str]:
    lines = [shlex.split(line, comments=True) for text in texts().values() for line in COMMAND.findall(text)]
    return sorted({shlex.join(line[1:]) for line in lines})


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / f"{page.stem}.md"
    script.write_text(program(page.read_text(encoding="utf-8")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.set_default_dtype(torch.float32)  # as a reader has it
    runpy.run_path(str(script))


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_names_what_exists(line: str) -> None:
    from typer.main import get_command

    from ornstein.cli import app

    name, *words = shlex.split(line)
    command = get_command(app).commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known | {"--help"}


def test_lines_keep_their_numbers_and_skipped_blocks_do_not_run() -> None:
    page = "text\n\n```python\na = 1\n```\n\n<!-- skip: why -->\n```python\nb = 2\n```\n"
    assert program(page).rstrip("\n") == "\n\n\na = 1"

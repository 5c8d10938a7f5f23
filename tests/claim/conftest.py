"""A checkout of the repository in miniature, with one claim that takes no time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ornstein.claim import reproduce

TOY = """
import torch

from ornstein.claim import Claim, Effect, Verdict


class Toy(Claim):
    slug = "{slug}"
    statement = "The method [new] gains one over the baseline."
    baseline = "The same draw without the gain."
    effects = (Effect("gain", of="new", against="old"),)
    seeds = {{"smoke": (0, 1), "quick": (3, 4, 5), "full": range(20)}}

    def measure(self, budget, seed, progress):
        generator = torch.Generator().manual_seed(seed)
        shared, noise = torch.randn(2, generator=generator)
        progress(0.5, "half way")
        return {{"old": 9 * shared, "new": 9 * shared + 1 + 0.1 * noise}}

    def judge(self, effects):
        if effects["gain"].above(0.5):
            return Verdict("reproduced", f"gain {{effects['gain']}}")
        return Verdict("not reproduced", f"gain {{effects['gain']}}")


claim = Toy()
"""


@pytest.fixture
def toy() -> str:
    """The text of a claim file, with {slug} to be filled in."""
    return TOY


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose one claim is the toy's, seen from a folder deep inside."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "ornstein"\n')
    inside = tmp_path / "claims" / "deep"
    inside.mkdir(parents=True)
    (tmp_path / "claims" / "score-sde.py").write_text(TOY.format(slug="score-sde"))
    monkeypatch.chdir(inside)
    return tmp_path


@pytest.fixture
def write(checkout: Path) -> Callable[..., None]:
    """Writes the text of a claim file, that of `score-sde` if no other."""

    def write(text: str, slug: str = "score-sde") -> None:
        (checkout / "claims" / f"{slug}.py").write_text(text.format(slug=slug))

    return write


@pytest.fixture
def run(checkout: Path) -> Callable[..., tuple[Any, str]]:
    """Runs `reproduce` inside the checkout: the result and what was printed."""

    def run(*args: Any, **options: Any) -> tuple[Any, str]:
        console = Console(file=io.StringIO(), width=200)
        result = reproduce(*args, console=console, **options)
        return result, console.file.getvalue()

    return run


@pytest.fixture
def saved(checkout: Path) -> Callable[[], dict[str, Any]]:
    """Reads the record of `score-sde`."""
    return lambda: json.loads((checkout / "claims" / "results" / "score-sde.json").read_text())

"""`import ornstein` costs what `import torch` costs: all else loads when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "matplotlib sklearn accelerate diffusers datasets typer rich scipy PIL huggingface_hub "
    "pydantic yaml tensorboard pandas"
).split()


@pytest.fixture(scope="module")
def added_by_ornstein() -> set[str]:
    """Top-level packages that `import ornstein` loads and `import torch` alone does not."""
    program = (
        "import sys, torch; before = set(sys.modules); import ornstein; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_it_is_ornstein_that_was_imported(added_by_ornstein: set[str]) -> None:
    assert "ornstein" in added_by_ornstein


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_load_late(package: str, added_by_ornstein: set[str]) -> None:
    assert package not in added_by_ornstein

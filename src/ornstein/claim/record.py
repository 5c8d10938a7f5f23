"""The record of a claim's run: one JSON file, replaced whole, never by a lesser run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .definition import BUDGETS

__all__ = ["Result", "fuller"]


@dataclass(frozen=True)
class Result:
    """What one run found, as written to `claims/results/SLUG.json`.

    `numbers` are those of each seed; an effect's record holds its `Effect` and its `Interval`.
    """

    slug: str
    claim: str
    baseline: str
    budget: str
    seeds: tuple[int, ...]
    numbers: Mapping[int, Mapping[str, float]]
    effects: Mapping[str, Mapping[str, Any]]
    verdict: str
    reason: str
    seconds: float
    versions: Mapping[str, str]
    platform: str

    def write(self, path: Path) -> None:
        """Replace the file at once: a reader sees the old record or the new one, whole."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # a temporary file is its owner's alone
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def fuller(path: Path, budget: str, seeds: Sequence[int]) -> str:
    """The budget of the record at `path` if its run was fuller than such a one, else "".

    Fuller is a larger budget, or more seeds of the same.

    Raises:
        ValueError: the file is not a claim's record.
    """
    if not path.is_file():
        return ""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        there = (BUDGETS.index(old["budget"]), len(old["seeds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a claim's record; remove it or use force") from error
    return str(old["budget"]) if there > (BUDGETS.index(budget), len(seeds)) else ""

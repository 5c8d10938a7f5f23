"""Finding a paper's claim in the checkout, running it over seeds, and telling what it found."""

from __future__ import annotations

import importlib.util
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from .. import __version__
from ..core.spec import suggest
from ..papers import paper, papers
from .definition import BUDGETS, Claim, recorded
from .effect import Interval
from .record import Result, fuller

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["reproduce"]


def reproduce(
    slug: str,
    budget: str = "quick",
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    *,
    force: bool = False,
    console: Console | None = None,
) -> Result:
    """Run the claim of a paper; print and record what was found.

    Args:
        slug: a paper of `ornstein.papers.papers()` that has a claim file.
        budget: "smoke" (does it run at all), "quick" or "full".
        seeds: in place of those that the claim names for the budget.
        out: folder of the record; the checkout's `claims/results` when not given.
        force: overwrite the record of a fuller run (a larger budget, or more seeds of the same).
        console: where to print; standard output when not given.

    Raises:
        ValueError: the slug, budget or seeds are not accepted, or the claim gives bad numbers.
        TypeError: the claim file does not define `claim`.
        FileNotFoundError: this is not inside a checkout of the repository.
    """
    paper(slug)
    folder = _claims_folder()
    claim = _load(slug, folder)
    chosen = _seeds(claim, budget, seeds)
    path = Path(out or folder / "results") / f"{slug}.json"
    kept = "" if force else fuller(path, budget, chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    console = console or _console()
    console.print(f"{slug} ({budget}): {claim.statement}", markup=False)
    result = _run(claim, budget, chosen, console)
    if not kept:
        result.write(path)
    _report(result, console)
    where = f"not written: {path} holds a fuller run ({kept})" if kept else f"written to {path}"
    console.print(where, markup=False, soft_wrap=True)
    return result


def _console() -> Console:
    from rich.console import Console

    return Console()


def _claims_folder() -> Path:
    for origin in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (origin, *origin.parents):
            if (folder / "claims").is_dir() and _is_checkout(folder):
                return folder / "claims"
    raise FileNotFoundError(
        "no checkout of ornstein found: claims are files of the repository, not of the installed "
        "package; clone it and run from inside"
    )


def _is_checkout(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8", errors="replace") if project.is_file() else ""
    return re.search(r'^name\s*=\s*"ornstein"', text, re.MULTILINE) is not None


def _load(slug: str, folder: Path) -> Claim:
    path = folder / f"{slug}.py"
    if not path.is_file():
        have = [repr(p.slug) for p in papers() if (folder / f"{p.slug}.py").is_file()]
        raise ValueError(f"no claim file for {slug!r} yet. Papers with one: {', '.join(have) or 'none'}.")
    if path.resolve().parent != folder.resolve():
        raise ValueError(f"the claim file of {slug!r} leads out of claims/: {path.resolve()}")
    claim = getattr(_module(slug, path), "claim", None)
    if not isinstance(claim, Claim):
        raise TypeError(f"{path.name} must define `claim`, an instance of Claim, not {claim!r}")
    if claim.slug != slug:
        raise ValueError(f"{path.name} holds the claim of {claim.slug!r}, not of {slug!r}")
    return claim


def _module(slug: str, path: Path) -> ModuleType:
    name = "_ornstein_claim_" + slug.replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a .py file has both
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _seeds(claim: Claim, budget: str, seeds: Sequence[int] | None) -> tuple[int, ...]:
    if budget not in BUDGETS:
        raise ValueError(suggest(budget, BUDGETS, "budget"))
    chosen = tuple(claim.seeds[budget] if seeds is None else seeds)
    whole = all(type(seed) is int and seed >= 0 for seed in chosen)
    if not chosen or not whole or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be different whole numbers from 0 up, not {list(chosen)}")
    return chosen


def _run(claim: Claim, budget: str, seeds: tuple[int, ...], console: Console) -> Result:
    start = time.perf_counter()
    numbers = _measure(claim, budget, seeds, console)
    found = {effect.name: effect.over(numbers) for effect in claim.effects}
    verdict, reason = recorded(claim.judge(found), budget, found)
    return Result(
        slug=claim.slug,
        claim=claim.statement,
        baseline=claim.baseline,
        budget=budget,
        seeds=seeds,
        numbers=numbers,
        effects={e.name: {"text": e.text} | asdict(e) | asdict(found[e.name]) for e in claim.effects},
        verdict=verdict,
        reason=reason,
        seconds=round(time.perf_counter() - start, 3),
        versions={"ornstein": __version__, "torch": str(torch.__version__)},
        platform=_platform(),
    )


def _measure(
    claim: Claim, budget: str, seeds: Sequence[int], console: Console
) -> dict[int, dict[str, float]]:
    from rich.progress import Progress

    numbers: dict[int, dict[str, float]] = {}
    with Progress(console=console) as bar:
        task = bar.add_task("", total=len(seeds))
        for i, seed in enumerate(seeds):
            advance = _advance(bar, task, i, f"seed {seed} ({i + 1} of {len(seeds)})")
            numbers[seed] = _finite(claim.measure(budget, seed, advance), seed)
            advance(1.0)
    return numbers


def _advance(bar: Progress, task: TaskID, done: int, name: str) -> Callable[..., None]:
    def advance(fraction: float, what: str = "") -> None:
        completed = done + min(max(fraction, 0.0), 1.0)
        bar.update(task, completed=completed, description=f"{name} {what}".strip())

    advance(0.0)
    return advance


def _finite(given: Mapping[str, float], seed: int) -> dict[str, float]:
    numbers = {str(name): float(value) for name, value in given.items()}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(
                f"measure gave {value} for {name!r} at seed {seed}; a claim must say which finite "
                "number stands for a failure"
            )
    return numbers


def _platform() -> str:
    """What the numbers may depend on, without the name of the host."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    python = f"Python {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {python}, {device}"


def _report(result: Result, console: Console) -> None:
    console.print(f"baseline: {result.baseline}", markup=False)
    for name, row in result.effects.items():
        interval = Interval(*(row[key] for key in ("value", "low", "high", "seeds", "level")))
        console.print(f"  {name}: {row['text']} = {interval}", markup=False, highlight=False)
    console.print(f"{result.verdict}: {result.reason}", markup=False, style="bold")
    console.print(f"{result.seconds:.1f} s on {result.platform}", markup=False)

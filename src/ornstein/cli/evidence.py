"""`ornstein papers` and `ornstein reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .application import app, examples

__all__ = ["papers", "reproduce"]


@app.command(
    epilog=examples(
        ("ornstein papers", "all, with their status and verdict"),
        ("ornstein papers --family solvers --status done", "those of a kind"),
    )
)
def papers(
    family: Annotated[str | None, typer.Option(help="solvers, guidance, discrete, ...")] = None,
    status: Annotated[str | None, typer.Option(help="planned, building or done.")] = None,
    role: Annotated[str | None, typer.Option(help="What it adds: solver, guide, process, ...")] = None,
) -> None:
    """List the papers whose claims are re-measured here."""
    from ornstein.papers import papers as chosen
    from ornstein.papers import table

    from .screen import console

    screen = console()
    screen.print(table(chosen(family=family, status=status, role=role), screen.width))


@app.command(
    epilog=examples(
        ("ornstein reproduce score-sde", "a few minutes"),
        ("ornstein reproduce score-sde --budget smoke --out claims-tried", "does it run at all?"),
    )
)
def reproduce(
    slug: Annotated[str, typer.Argument(help="A paper, as `ornstein papers` lists it.")],
    budget: Annotated[str, typer.Option(help="smoke, quick or full.")] = "quick",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many, from 0 up; those of the claim by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the record; claims/results by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the record of a fuller run.")] = False,
) -> None:
    """Measure a paper's claim against its honest baseline, and record effect, interval and verdict."""
    from ornstein.claim import reproduce as run

    from .paths import check_writable

    if out:
        check_writable(out)
    run(slug, budget, range(seeds) if seeds else None, out, force=force)

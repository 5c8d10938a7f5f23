"""`ornstein evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .application import app, examples

if TYPE_CHECKING:
    from .measures import Measured

__all__ = ["evaluate", "measured", "show"]


@app.command(
    epilog=examples(
        ("ornstein evaluate digits", "a model that ships, on the data it was trained on"),
        ("ornstein evaluate scenes-text", "texts and images: which find each other, which are told apart"),
        ("ornstein evaluate runs/first --steps 20 --guidance 1.5 --out guided.json", "other samples of it"),
        (
            "ornstein evaluate runs/photos --data photos/ --set size=32",
            "data that the run does not name fully",
        ),
        notes="Every number has a 95 % interval. The reference is the same number of as many real samples, of which "
        "the table says what they are: a distance means something only beside it.",
    )
)
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model that ships, a run or model folder, or a hub id owner/name.")
    ],
    data: Annotated[
        str | None, typer.Option(help="As for train; that of the model's card or run by default.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Option of the data's loader.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", "--count", min=2, help="Samples; as many as are held out, at most 1,000."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Rows of the grid.")] = 10,
    solver: Annotated[str | None, typer.Option(help="As for sample.")] = None,
    grid: Annotated[str | None, typer.Option(help="As for sample.")] = None,
    guidance: Annotated[float | None, typer.Option(help="As for sample.")] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    weights: Annotated[str, typer.Option(help="ema or raw.")] = "ema",
    out: Annotated[
        Path | None, typer.Option(help="JSON file; evaluation.json in a run folder by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Measure a model on held-out data: loss by noise level, distances, accuracy, memorisation."""
    from ornstein.data import load as load_data
    from ornstein.zoo import data_of, data_options_of, guidance_of, load

    from .config import overrides
    from .paths import check_file, write
    from .sample import solver_named

    denoiser = load(model, weights=weights)
    name = data or data_of(model)
    if name is None:
        raise ValueError(f"--data: nothing says what {model!r} was trained on; give it")
    path = check_file(out, (".json",), force) if out else _in_run(Path(model))
    known = data_options_of(model) if data is None else {}
    dataset = load_data(name, **{**known, **overrides(set_ or [])})
    _check_same(denoiser, dataset)
    if guidance is None and "text" in denoiser.fields:
        guidance = guidance_of(model)
    found = measured(
        denoiser, dataset, n, guidance, seed, steps=steps, solver=solver_named(solver), grid=grid
    )
    show(found, model, dataset.name)
    if path:
        said = {"model": model, "data": dataset.name, "weights": weights, "seed": seed, "guidance": guidance}
        asked = {"steps": steps, "solver": solver or "recommended", "grid": grid or "recommended"}
        write(path, (json.dumps({**said, **asked, **found.as_dict()}, indent=2) + "\n").encode())


def _in_run(folder: Path) -> Path | None:
    return folder / "evaluation.json" if (folder / "config.yaml").is_file() else None


def _check_same(denoiser: Any, dataset: Any) -> None:
    from .results import shape_of_samples

    shape = shape_of_samples(denoiser)
    if shape is not None and shape != dataset.shape:
        raise ValueError(f"--data: samples of {dataset.name!r} are {dataset.shape}, the model's are {shape}")


def measured(
    denoiser: Any, dataset: Any, count: int | None, guidance: float | None, seed: int, **options: Any
) -> Measured:
    """`measures.measure` of samples drawn as the command line says; `options` are steps, solver and grid."""
    from ornstein.denoisers import Matcher
    from ornstein.guides import ClassifierFree

    from .draw import Draw
    from .measures import measure

    if guidance is not None and isinstance(denoiser, Matcher):
        raise ValueError("--guidance: a pair of towers draws no samples")
    guided = denoiser if guidance is None else ClassifierFree(guidance)(denoiser)
    return measure(denoiser, dataset, Draw(guided, seed=seed, **options), count, seed)


def show(found: Measured, model: str, data: str) -> None:
    """Print the tables."""
    from .screen import columns, say

    rows = [
        (r.name, _interval(r.samples), _interval(r.reference), r.reference_of if r.reference else "", r.best)
        for r in found.rows
    ]
    title = f"{found.count} samples of {model}, against held-out data of {data}"
    columns(title, ("measure", "samples", "reference", "reference of", "better"), rows)
    if found.duplicates is not None:
        say(f"samples that equal a training sample: {found.duplicates}")
    edges = [f"{a:.3g} to {b:.3g}" for a, b in zip(found.edges, found.edges[1:], strict=False)]
    levels = zip(edges, (f"{loss:.4g}" for loss in found.losses), strict=True)
    if found.losses:
        columns("held-out loss by noise level", (found.clock, "loss"), levels)


def _interval(estimate: Any) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]" if estimate else ""

"""`ornstein demo`: from real scans to samples, measured, in one command."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .application import app, examples

if TYPE_CHECKING:
    from torch import Tensor

    from ornstein.core import Denoiser
    from ornstein.training import Run

    from .measures import Measured

__all__ = ["demo"]

SAMPLED, ROWS, CALLS = 1000, 8, 10
FILES = ("samples.png", "trajectory.png", "nearest.png", "report.md")


@app.command(
    epilog=examples(
        ("ornstein demo", "about three minutes on two cores"),
        ("ornstein demo --out quick --steps 300", "a rough model in half a minute"),
        notes="Killed, it goes on where it was when it is called again.",
    )
)
def demo(
    out: Annotated[Path, typer.Option(help="Folder of pictures, report and run.")] = Path("demo"),
    steps: Annotated[int, typer.Option(help="Of training.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of training and of samples.")] = 0,
) -> None:
    """Train a class-conditional diffusion model on real scans of digits, sample it in ten steps, write a report."""
    from ornstein.data import load

    from .assembly import assemble
    from .paths import check_folder, check_writable, write
    from .screen import say
    from .train import configured, trained

    begun = time.perf_counter()
    check_writable(out) if (out / "run" / "config.yaml").is_file() else check_folder(out, force=False)
    layers = [{"training": {"steps": steps, "seed": seed}}]
    said = configured("digits", None, "digits", layers, None)
    dataset = load("digits")
    assembled = assemble(said, dataset)
    count = sum(p.numel() for p in assembled.denoiser.parameters())
    say(f"training a U-Net of {count:,} parameters on {len(dataset.train):,} scans, {steps:,} steps")
    run = trained(assembled, dataset, out / "run", resume=True)
    say(f"sampling {SAMPLED} digits in {CALLS} steps of DPM-Solver++(2M)")
    files, found = _results(run.denoiser, dataset, seed)
    report = _report(run, found, steps, time.perf_counter() - begun, out)
    write(out, {**files, "report.md": report.encode()})
    accuracy = found.row("class accuracy")
    say(f"{accuracy.samples.value:.1%} are classified as the digit asked for" if accuracy else "")
    say(f"written: {', '.join(str(out / name) for name in FILES)}")


def _results(model: Denoiser, dataset: Any, seed: int) -> tuple[dict[str, bytes], Measured]:
    from . import figures
    from .draw import Draw
    from .measures import measure

    draw = Draw(model, CALLS, seed=seed)
    found = measure(model, dataset, draw, SAMPLED)
    grid = draw(ROWS * len(dataset.classes), {"label": ROWS * list(range(len(dataset.classes)))})
    first = grid[: len(dataset.classes)]
    pictures = {
        "samples.png": figures.labelled(grid, dataset.classes),
        "trajectory.png": figures.trajectory(_steps(model, [3, 5, 8], seed), ["3", "5", "8"]),
        "nearest.png": figures.beside_nearest(first, _nearest(first, dataset.train.x_0)),
    }
    return pictures, found


def _steps(model: Denoiser, labels: Sequence[int], seed: int) -> list[tuple[str, Tensor, Tensor]]:
    """State and denoised estimate before each of the steps, and the result."""
    from ornstein import Sampler
    from ornstein.solvers import DPMSolverPP

    shown = []
    for step in Sampler(DPMSolverPP(order=2), CALLS).steps(model, len(labels), seed=seed, label=list(labels)):
        if step.posterior is not None:
            shown.append((f"t = {step.t:.2g}", step.x, step.posterior.mean))
    return [*shown, ("result", step.next, step.next)]


def _nearest(images: Tensor, known: Tensor) -> Tensor:
    import torch

    return known[torch.cdist(images.flatten(1), known.flatten(1)).argmin(1)]


def _seconds(run: Run) -> float:
    """Spent training, over all processes that worked on the run: each counts from its own beginning."""
    seconds = [line["seconds"] for line in run.timing]
    ends = [a for a, b in zip(seconds, [*seconds[1:], 0.0], strict=True) if b < a]
    return sum(ends)


def _report(run: Run, found: Measured, steps: int, seconds: float, out: Path) -> str:
    import torch

    from ornstein import __version__

    speeds = sorted(line["items_per_second"] for line in run.timing if line["items_per_second"])
    speed = f"{speeds[len(speeds) // 2]:,.0f} images/s" if speeds else "not measured"
    rows = "\n".join(f"| {r.name} | {r.samples} | {r.reference or ''} | {r.best} |" for r in found.rows)
    count = sum(p.numel() for p in run.denoiser.parameters())
    return f"""# Digits, from scans to samples

A class-conditional diffusion model, trained here from scratch on 1,500 real scans of handwritten digits (8x8, of
scikit-learn) and sampled in {CALLS} network calls with DPM-Solver++(2M). Weights are the moving average (EMA).

| | |
|---|---|
| network | U-Net, {count:,} parameters |
| training | {steps:,} steps, {_seconds(run):.0f} s, {speed} (median), {torch.get_num_threads()} thread(s) |
| this command | {seconds:.0f} s |
| versions | ornstein {__version__}, torch {torch.__version__}, Python {platform.python_version()} |
| machine | {platform.system()} {platform.machine()} |

![samples, one column a class](samples.png)

The same run, step by step: the state, and what the network takes it for.

![state and estimate at each step](trajectory.png)

## How good are they?

{found.count:,} samples, labels as in the held-out scans. Distances are from the 297 held-out scans; the reference is as
many training scans in place of the samples, and for the class accuracy the held-out scans themselves. Intervals are of
95 %. The classifier was trained on the training scans; the Fréchet distance is in its features and is not an FID.

| measure | samples | reference | better |
|---|---|---|---|
{rows}

Samples that equal a training scan: {found.duplicates}. Below, ten samples and the training scan nearest to each.

![samples above, nearest training scans below](nearest.png)

## Go on

```bash
ornstein sample {out / "run"} --label 7 --solver stochastic --steps 50
ornstein evaluate {out / "run"} --guidance 1.5
ornstein info {out / "run"}
ornstein train digits --out runs/mine --set process.class=variance-preserving --set prediction=edm
```
"""

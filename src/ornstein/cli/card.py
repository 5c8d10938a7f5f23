"""ornstein card: measure a trained model, and write it as a folder to ship, weights in half precision."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from .application import app, examples

__all__ = ["card"]


@app.command(
    epilog=examples(
        ("ornstein card runs/digits --out models/digits", "weights, config and card with measured numbers"),
    )
)
def card(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder or the name of a model that ships.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    recipe: Annotated[str, typer.Option(help="The command that trains this model, for the card.")] = "",
    n: Annotated[int, typer.Option("-n", help="Samples to measure.")] = 1000,
    steps: Annotated[int, typer.Option(help="Steps of the recommended solver.")] = 10,
    guidance: Annotated[
        float | None,
        typer.Option(help="Of the samples; for models of text also what `sample` takes by itself."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Measure a trained model and write it as a folder that ships.

    What is measured is the model that is written: its weights are rounded to half precision first, which halves the
    file and changes samples by less than their own noise.
    """
    import torch

    from ornstein.data import load as load_data
    from ornstein.denoisers.files import save_model
    from ornstein.zoo import data_of, data_options_of, load

    from .evaluate import measured, show
    from .paths import check_folder, write

    check_folder(out, force)
    name = data_of(model)
    if name is None:
        raise ValueError(f"nothing says what {model!r} was trained on")
    options = data_options_of(model)
    denoiser, dataset = load(model), load_data(name, **options)
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.half().float()
    found = measured(denoiser, dataset, n, guidance, seed, steps=steps)
    show(found, model, name)
    facts: dict[str, Any] = {
        "data": name,
        **({"data_options": options} if options else {}),
        "recipe": recipe,
        "weights": "moving average (EMA), half precision",
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        **({} if guidance is None else {"guidance": guidance}),
        **_repeated(denoiser, _named(out), n, steps, seed, guidance),
        **found.as_dict(),
    }
    save_model(denoiser, out, card=_text(_named(out), facts), dtype=torch.float16)
    write(out / "card.json", (json.dumps(facts, indent=2) + "\n").encode())


_TOLD_APART = (
    "Told apart is the share of scenes whose own text (image) fits better than the twin's, of those whose texts "
    "differ; 0.5 by chance."
)


def _named(out: Path) -> str:
    """By which name the written model is read: a bare one is a shipped model's, so another folder is named by path."""
    from ornstein.zoo import models, registry

    if out.resolve().parent == registry.HOME:
        return out.name
    return f"./{out}" if str(out) in models() else out.as_posix()


def _repeated(
    denoiser: Any, name: str, n: int, steps: int, seed: int, guidance: float | None
) -> dict[str, str]:
    """What was measured, and the command that measures it again."""
    from ornstein.denoisers import Matcher, Reconstructor

    held_out = {Reconstructor: "held-out data, reconstructed", Matcher: "held-out data, compared"}
    evaluate = f"ornstein evaluate {shlex.quote(name)} -n {n}"
    if type(denoiser) in held_out:
        return {"sampling": held_out[type(denoiser)], "command": evaluate}
    command = f"{evaluate} --steps {steps} --seed {seed}"
    sampling = f"recommended solver, {steps} steps, seed {seed}"
    if guidance is None:
        return {"sampling": sampling, "command": command}
    return {"sampling": f"{sampling}, guidance {guidance:g}", "command": f"{command} --guidance {guidance:g}"}


def _text(name: str, facts: dict[str, Any]) -> str:
    rows = [
        f"| {key} | {_interval(row['samples'])} | {_interval(row['reference'])} | {row.get('reference_of', '')} |"
        for key, row in facts["measured"].items()
    ]
    lines = [
        f"# {Path(name).name}",
        "",
        f"A model of `{facts['data']}` with {facts['parameters']:,} parameters; averaged weights, stored in half "
        "precision and loaded as float32.",
        "",
        "```python",
        "import ornstein as orn",
        "",
        f'model = orn.load("{name}")',
        "```",
        "",
        f"Trained by `{facts['recipe']}`." if facts["recipe"] else "",
        "",
        f"Measured on {facts['samples']} samples ({facts['sampling']}); the reference is the same of real data:",
        "",
        "| measure | samples | reference | reference of |",
        "|---|---|---|---|",
        *rows,
        "",
        _TOLD_APART if any("told apart" in key for key in facts["measured"]) else "",
        "",
        f"Samples that equal a training sample: {facts['duplicates']}."
        if facts["duplicates"] is not None
        else "",
        "",
        f"Repeat with `{facts['command']}`.",
        "",
    ]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines))


def _interval(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}]"

"""`ornstein info`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .application import app, examples

__all__ = ["info"]


@app.command(
    epilog=examples(
        ("ornstein info digits", "the model that ships, and the data set of that name"),
        ("ornstein info runs/first", "how far the run is, and its model"),
        ("ornstein info photos/ --set size=32", "what a folder holds, before training on it"),
    )
)
def info(
    name: Annotated[
        str, typer.Argument(help="A model, a run folder, or data: whatever other commands take.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Option of the data's loader.")
    ] = None,
) -> None:
    """Say what a model, a run or a data set is."""
    from ornstein.core import suggest
    from ornstein.data.load import BUILT_IN
    from ornstein.zoo import data_options_of, models

    from .config import overrides

    path = Path(name)
    known = {*models(), *BUILT_IN}
    if name not in known and "/" not in name and not path.exists():
        raise ValueError(suggest(name, known, "model or data") + " No file or folder of that name exists.")
    is_run = (path / "config.yaml").is_file()
    is_model = name in models() or any((path / p / "config.json").is_file() for p in ("", "model"))
    if is_run:
        _run(path)
    if is_model:
        _model(name)
    if name in BUILT_IN or not (is_run or is_model):
        _data(name, {**(data_options_of(name) if is_model else {}), **overrides(set_ or [])})


def _model(name: str) -> None:
    from ornstein.denoisers import Matcher, Reconstructor
    from ornstein.zoo import card, data_of, folder_of, load

    from .screen import columns, facts

    denoiser = load(name)
    folder = folder_of(name) or Path(name)
    inner = folder / "model" if (folder / "model").is_dir() else folder
    network, process = (getattr(denoiser, part, None) for part in ("network", "process"))
    rows: dict[str, Any] = {
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "network": _spoken(network),
        "process": None if isinstance(denoiser, Matcher | Reconstructor) else _spoken(process),
        "prediction": getattr(denoiser, "prediction", None),
        "condition": ", ".join(sorted(denoiser.fields)) or "none",
        "shape": denoiser.shape,
        "weights": _weights(inner),
        "trained on": data_of(name),
        "folder": inner,
    }
    told = card(name)
    said = {k: v for k, v in told.items() if k not in ("name", "data", "parameters", "measured", "held_out")}
    facts(f"model {name}", {**rows, **said})
    if told.get("measured"):
        measures = [
            (k, _interval(v["samples"]), _interval(v["reference"]), v.get("reference_of", ""))
            for k, v in told["measured"].items()
        ]
        columns("measured, and the same of real data", ("measure", "samples", "reference", "of"), measures)


def _interval(estimate: dict[str, float] | None) -> str:
    return f"{estimate['value']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}]" if estimate else ""


def _weights(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("weights") != "ema":
        return "one set, as saved"
    raw = "; raw ones beside" if (folder / "model_raw.safetensors").is_file() else ""
    return f"moving average (EMA) of training{raw}"


def _spoken(module: Any) -> str | None:
    """Class and arguments."""
    if module is None:
        return None
    if hasattr(module, "parts"):
        return ", ".join(f"{k}: {_spoken(p)}" for k, p in module.parts.items())
    arguments = getattr(module, "_arguments", {})
    return f"{type(module).__name__}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


def _run(path: Path) -> None:
    from ornstein.training import Checkpoints, Run

    from .config import parsed
    from .screen import facts

    said, run = parsed(path), Run(path)
    lines, steps = run.metrics, Checkpoints(path / "checkpoints").steps()
    last = lines[-1] if lines else {}
    losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    speeds = [line["items_per_second"] for line in run.timing if line["items_per_second"]]
    facts(
        f"run {path}",
        {
            "steps": f"{last.get('step', 0):,} of {said['training']['steps']:,}",
            "checkpoints": ", ".join(map(str, steps)) or "none",
            "loss": _short(last.get("loss")),
            "held-out loss": _short(losses[-1] if losses else None),
            "samples/s": round(sum(speeds) / len(speeds)) if speeds else None,
            "skipped steps": last.get("skipped"),
            "batch": said["training"]["batch"],
            "learning rate": said["training"]["learning_rate"],
        },
    )


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _data(name: str, options: dict[str, Any]) -> None:
    from ornstein.data import load

    from .assembly import scale_of
    from .screen import facts

    dataset = load(name, **options)
    text = _first_text(name, dataset)
    facts(
        f"data {dataset.name}",
        {
            "to train on": len(dataset.train),
            "held out": len(dataset.held_out),
            "shape": dataset.shape,
            "classes": ", ".join(dataset.classes) or None,
            "categories": dataset.categories,
            "fields": ", ".join(dataset.train.fields) or ("none" if text is None else None),
            "texts": text and f"one a sample, such as {text!r}",
            "options": ", ".join(f"{k}={v}" for k, v in options.items()) or None,
            "root-mean-square": scale_of(dataset),
        },
    )


def _first_text(name: str, dataset: Any) -> str | None:
    """The text of the first sample, without those of all others, which may take minutes to make."""
    from ornstein.data import load
    from ornstein.data.load import BUILT_IN

    if name in BUILT_IN and "count" in inspect.signature(BUILT_IN[name]).parameters:
        dataset = load(name, **{**dataset.options, "count": 1})
    texts = dataset.train.texts
    return texts[0] if texts else None

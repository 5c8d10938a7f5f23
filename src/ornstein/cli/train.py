"""`ornstein train`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .application import app, examples

if TYPE_CHECKING:
    from ornstein.training import Run

    from .assembly import Assembled
    from .config import Config

__all__ = ["configured", "train", "trained"]


@app.command(
    epilog=examples(
        ("ornstein train digits --out runs/first", "by the recipe of the model that ships"),
        ("ornstein train digits --out runs/first --resume", "go on after a kill, to the same bits"),
        (
            "ornstein train photos/ --set data.size=32 --steps 20000",
            "a folder of images, classes as subfolders",
        ),
        ("ornstein train x.npz --set network.width=48 --set process.class=rectified-flow", "other pieces"),
        ("ornstein train digits --config runs/first/config.yaml --out runs/again", "the same run anew"),
        ("ornstein train scenes --preset text-to-image --out runs/scenes", "pictures from words"),
        notes="[bold]Configuration[/bold] data, network, process, prediction, scale, objective, training. What is not "
        "said follows from the data; an unknown name is answered with the nearest. The run folder keeps all of it.",
    )
)
def train(
    data: Annotated[
        str,
        typer.Argument(
            help="creatures, digits, digits-joint, fashion-mnist, frames, land, moving-scenes, plane, scenes, "
            "super-resolution, words; a folder of images; .npy or .npz; a hub id owner/name."
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(help="YAML file; the config.yaml of a run too.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override, by dotted name; may be repeated."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Recipe of a model that ships. Without --config, that of the data if there is one."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/NAME of the data by default.", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches seen in all (training.steps).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and noise (training.seed).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
) -> None:
    """Train a model and keep it in a run folder. It may be killed at any time and resumed.

    The folder holds config.yaml, metrics.jsonl, checkpoints/, samples/ (sheets drawn on the way) and model/, which
    `ornstein sample`, `evaluate` and `info` read.
    """
    from ornstein.data import load

    from .assembly import assemble, coded
    from .config import overrides
    from .screen import say

    shortcuts = {"training": {k: v for k, v in (("steps", steps), ("seed", seed)) if v is not None}}
    folder = _run_folder(out or Path("runs") / Path(data).stem, resume)
    said = configured(data, config, preset, [overrides(set_ or []), shortcuts], folder if resume else None)
    _check_numbers(said)
    dataset = load(data, **(said.data.model_extra or {}))
    if said.data.codec:  # may take minutes
        count = len(dataset.train) + len(dataset.held_out)
        say(f"encoding {count:,} samples with {said.data.codec}", stderr=True)
    dataset, codec = coded(dataset, said.data.codec) if said.data.codec else (dataset, None)
    if isinstance(said.text, str):  # a trained encoder: the run remembers whose
        dataset = replace(dataset, options={**dataset.options, "text": said.text})
    assembled = assemble(said, dataset, codec)
    _announce(assembled, dataset, folder)
    _finish(trained(assembled, dataset, folder, resume), folder, dataset)


def configured(
    data: str, config: Path | None, preset: str | None, above: list[dict[str, Any]], run: Path | None
) -> Config:
    """The layers in their order: the run to go on with, or else a recipe; a file; what the command line says.

    Raises:
        ValueError: a layer cannot be read, or says what the schema does not know.
    """
    from ornstein.zoo import recipe, recipes

    from .config import Config, check, layered, read

    if preset is None and config is None and data in recipes():
        preset = data
    files = [run, config] if run else [recipe(preset) if preset else None, config]
    found: dict[str, Any] = {}
    for layer in [*(read(file) for file in files if file), *above, {"data": {"name": data}}]:
        found = layered(found, layer)
    checked: Config = check(Config, found)
    return checked


def _check_numbers(said: Config) -> None:
    """Of the training, before data are made."""
    from ornstein.training.options import Options

    try:
        Options.of(**said.training.model_dump())
    except (TypeError, ValueError) as error:
        joint = ": " if str(error).startswith("unknown") else "."
        raise type(error)(f"training{joint}{error}") from error


def _run_folder(out: Path, resume: bool) -> Path:
    from .paths import check_folder, check_writable

    if not resume:
        try:
            return check_folder(out, force=False)
        except FileExistsError as error:
            hint = "add --resume to go on with it, or choose another --out"
            raise FileExistsError(f"--out: {str(out)!r} is not empty; {hint}") from error
    if not (out / "config.yaml").is_file():
        raise ValueError(f"--resume: {str(out)!r} is not a run folder (it has no config.yaml)")
    check_writable(out)
    return out


def _announce(assembled: Assembled, dataset: Any, folder: Path) -> None:
    from .screen import facts

    said, count = assembled.config, sum(p.numel() for p in assembled.denoiser.parameters())
    facts(
        f"train {dataset.name}",
        {
            "data": f"{len(dataset.train):,} samples of shape {dataset.shape}, {len(dataset.held_out):,} held out",
            "classes": len(dataset.classes) or None,
            "network": f"{said['network']['class']}, {count:,} parameters",
            "codec": said.get("codec", {}).get("class"),
            "process": said.get("process", {}).get("class"),
            "prediction": said.get("prediction"),
            "training": f"{said['training']['steps']:,} steps of {said['training']['batch']:,} samples",
            "run folder": folder,
        },
    )


def trained(assembled: Assembled, dataset: Any, folder: Path, resume: bool) -> Run:
    """Train what was assembled; an interrupt says how to go on."""
    from ornstein.denoisers import Reconstructor
    from ornstein.training import fit, fit_codec

    from .screen import say

    model, options = assembled.denoiser, {"out": folder, "resume": resume, **assembled.config["training"]}
    try:
        if isinstance(model, Reconstructor):
            return fit_codec(model.codec, dataset, assembled.objective, **options)
        return fit(model, dataset, assembled.objective, **options)
    except KeyboardInterrupt:
        again = "again" if resume else "with --resume"
        say(f"interrupted; the same command {again} goes on from the last checkpoint", stderr=True)
        raise


def _finish(run: Run, folder: Path, dataset: Any) -> None:
    from ornstein.denoisers import Matcher, Reconstructor

    from .screen import say

    losses = [line["held_out_loss"] for line in run.metrics if "held_out_loss" in line]
    if losses:
        say(f"held-out loss {losses[-1]:.4g}")
    texts = dataset.train.texts if "text" in run.denoiser.fields else None  # others need not be made
    first = f"ornstein sample {folder}{f' {shlex.quote(texts[0])}' if texts else ''}"
    if isinstance(run.denoiser, Reconstructor):
        first = f"ornstein train DATA --set data.codec={folder}"
    elif isinstance(run.denoiser, Matcher):
        first = f"ornstein train DATA --set text={folder}"
    say(f"ready: {first}    ornstein evaluate {folder}    ornstein info {folder}")

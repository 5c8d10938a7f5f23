"""Models by name: those that ship with the package, run folders and model folders, ids of the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ornstein.core import Denoiser, suggest
from ornstein.denoisers.files import load_model

__all__ = [
    "card", "data_of", "data_options_of", "folder_of", "guidance_of", "load", "models", "recipe", "recipes",
]  # fmt: skip

GUIDANCE = 2.0  # for prompts, of a run that has no card
HOME = Path(__file__).parent
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def models() -> tuple[str, ...]:
    """Names of the trained models that ship."""
    return tuple(sorted(path.parent.name for path in HOME.glob("*/config.json")))


def recipes() -> tuple[str, ...]:
    """Names of the recipes that ship: how the models were trained."""
    return tuple(sorted(path.stem for path in HOME.glob("recipes/*.yaml")))


def recipe(name: str) -> Path:
    """The YAML file of a recipe, which `ornstein train --config` reads.

    Raises:
        ValueError: there is none of that name; with the nearest one.
    """
    if name not in recipes():
        raise ValueError(suggest(name, recipes(), "recipe"))
    return HOME / "recipes" / f"{name}.yaml"


def load(name: str | Path, weights: str = "ema", **hub: Any) -> Denoiser:
    """A trained denoiser with its process, in evaluation mode, on the CPU.

    Args:
        name: a model that ships ("digits", "digits-joint", "words"), a model folder, a run folder, or an id
            "owner/name" of the Hugging Face hub. A name that ships comes before a path: write "./digits" for a
            folder of your own.
        weights: "ema", the averaged weights that one samples from, or "raw", the last ones of training, where they
            were kept.
        **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

    Raises:
        ValueError: no such model (with the nearest name), a run that has not ended, or files that are foreign, damaged
            or do not fit together. Pickled files are never read.
        OSError: the hub cannot be reached.
    """
    folder = folder_of(name)
    _check_ended(folder)
    return load_model(name if folder is None else folder, weights, **hub)


def _check_ended(folder: Path | None) -> None:
    if folder is None or not (folder / "config.yaml").is_file():
        return
    if (folder / "model").is_dir() or (folder / "config.json").is_file():
        return
    from ornstein.training import Checkpoints

    step = max(Checkpoints(folder / "checkpoints").steps(), default=0)
    data = _config_of_run(folder).get("data", {}).get("name", "DATA")
    raise ValueError(
        f"model {str(folder)!r}: an unfinished run, at step {step:,}, which has no model yet; go on with `ornstein "
        f"train {data} --out {folder} --resume`"
    )


def folder_of(name: str | Path) -> Path | None:
    """Where a model lies: a folder of the package, or the path itself; None for an id of the hub.

    Raises:
        ValueError: it is none of these.
    """
    if str(name) in models():
        return HOME / str(name)
    if Path(name).exists():
        return Path(name)
    if _HUB_ID.fullmatch(str(name)) and not Path(name).parent.is_dir():  # "runs/frist" beside runs/ is no id
        return None
    raise ValueError(
        suggest(str(name), models(), "model") + " No folder of that name exists; hub ids read 'owner/name'."
    )


def data_of(name: str | Path) -> str | None:
    """The name of the data that a model was trained on, from its card or its run; None where nothing says so.

    Raises:
        ValueError: no such model, or a card or config that cannot be read.
    """
    return card(name).get("data") or _data_of_run(name).get("name")


def data_options_of(name: str | Path) -> dict[str, Any]:
    """Options of the data's loader that a model was trained with, from its card or its run; {} where nothing says so.

    Raises:
        ValueError: no such model, or a card or config that cannot be read.
    """
    found = card(name)
    options = found.get("data_options") if "data" in found else _data_of_run(name).get("options")
    return {k: v for k, v in (options or {}).items() if k not in ("name", "codec", "text")}


def guidance_of(name: str | Path) -> float | None:
    """Scale of classifier-free guidance for prompts: what the model's card says, 2 for a run without a card whose
    objective dropped conditions in training, None for others.

    Raises:
        ValueError: no such model, or a card or config that cannot be read.
    """
    found = card(name)
    if found:
        return found.get("guidance")
    objective = _config_of_run(name).get("objective") or {}
    return GUIDANCE if (objective.get("arguments") or {}).get("drop") else None


def _data_of_run(name: str | Path) -> dict[str, Any]:
    """What the config.yaml of a run folder says of its data."""
    data = _config_of_run(name).get("data")
    return data if isinstance(data, dict) else {}


def _config_of_run(name: str | Path) -> dict[str, Any]:
    """The config.yaml of a run folder, {} where there is none."""
    folder = folder_of(name)
    if folder is None:
        return {}
    run = folder if (folder / "config.yaml").is_file() else folder.resolve().parent
    if not (run / "config.yaml").is_file():
        return {}
    import yaml

    try:
        config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{run / 'config.yaml'}: not readable as YAML: {error}") from error
    return config if isinstance(config, dict) else {}


def card(name: str | Path) -> dict[str, Any]:
    """What was measured of a model: card.json of a model folder, {} where there is none.

    Raises:
        ValueError: no such model, or a card that is not JSON.
    """
    folder = folder_of(name)
    path = folder / "card.json" if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    return found if isinstance(found, dict) else {}

"""A model on disk: config.json says what it is, model.safetensors holds its weights, README.md is its card.

Nothing is ever pickled or unpickled.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Denoiser, Module, build, suggest
from ornstein.core.spec import ROOMS

from .atomic import write_files
from .gaussian_fit import GaussianFit

__all__ = ["load_model", "load_weights", "read_tensors", "save_model", "tensors_of", "unbuildable"]

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = {"ema": "model.safetensors", "raw": "model_raw.safetensors"}
FIT = "gaussian_fit.safetensors"  # of the training data, where it is known
CARDS = ("README.md", "card.json")
ACCEPTED = f"a folder with {CONFIG} and {WEIGHTS['ema']} as save_pretrained writes it"
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib")
_DIFFUSERS = "which ornstein.interop.load_diffusers reads"
_FOREIGN = {
    "model_index.json": f"a diffusers pipeline, {_DIFFUSERS}",
    "scheduler_config.json": f"a diffusers scheduler, {_DIFFUSERS} beside its network",
    "adapter_config.json": "an adapter",
    "pytorch_model.bin": "a pickled model",
}
EDM = (  # the format of 2206.00364 and its successors
    "An EDM checkpoint is a pickle of NVIDIA's own classes, and unpickling runs whatever code a file holds. The safe "
    "way, once, in a throwaway environment that holds NVIDIA's code and nothing of yours: net = "
    "pickle.load(file)['ema'].model (.unet for EDM2); safetensors.torch.save_file({f'network.net.{k}': v for k, v in "
    "net.state_dict().items()}, 'edm.safetensors'). Then, with the network built in your own code and told its level "
    "as docs/stable-diffusion.md shows, denoisers.files.load_weights(denoiser, 'edm.safetensors')"
)
HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# ------------------------------------------------------------------------------------ writing


def save_model(
    denoiser: Denoiser,
    folder: Path,
    card: str | None = None,
    raw: Mapping[str, Tensor] | None = None,
    strict: bool = True,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write config.json, model.safetensors and README.md, all of them or none.

    Args:
        denoiser: whose weights are written.
        folder: made if it does not exist. Other files in it stay, save those of the model that was there before: its
            fit and raw weights go, and its card too unless its config is that of this model.
        card: text of README.md; by default what the model is and how it is loaded.
        raw: the weights of which the denoiser's are an average, written as model_raw.safetensors.
        strict: refuse a model that the config cannot rebuild. Otherwise its weights are written all the
            same, to be read by `load_weights`.
        dtype: precision in which floating-point parameters are stored, such as torch.float16 for half the size; they
            are read back in the model's own. Buffers (scales, tables) keep theirs.

    Raises:
        ValueError: the model has parts that are not ornstein's, which a config cannot rebuild.
        OSError: the files cannot be written; what was there before is untouched.
    """
    foreign = unbuildable(denoiser)
    if foreign and strict:
        raise ValueError(f"save_pretrained: {foreign}")
    config = {
        "format": "ornstein",
        "version": FORMAT,
        "weights": "raw" if raw is None else "ema",
        "denoiser": None if foreign else denoiser.spec(),
        **({"why": foreign} if foreign else {}),
    }
    names = {name for name, _ in denoiser.named_parameters(remove_duplicate=False)}
    files = {WEIGHTS["ema"]: _serialised(_rounded(tensors_of(denoiser), names, dtype))}
    if raw is not None:
        files[WEIGHTS["raw"]] = _serialised(_rounded(raw, names, dtype))
    if denoiser.fit is not None:
        files[FIT] = _serialised(denoiser.fit.tensors)
    text = (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()
    another = (folder / CONFIG).is_file() and (folder / CONFIG).read_bytes() != text
    if card is not None or another or not (folder / "README.md").exists():
        files["README.md"] = (card or _card(denoiser, config)).encode()
    write_files(folder, {**files, CONFIG: text})
    for stale in {FIT, WEIGHTS["raw"], *(CARDS if another else ())} - set(files):
        (folder / stale).unlink(missing_ok=True)
    return folder


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as tensors on the CPU that share no memory."""
    state = module.state_dict()
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


def _rounded(tensors: Mapping[str, Tensor], names: set[str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors, those of these names in another precision.

    Raises:
        ValueError: a weight is too large for that precision.
    """
    found = {k: v if dtype is None or k not in names else v.to(dtype) for k, v in tensors.items()}
    for name, tensor in found.items():
        if dtype is not None and not bool(tensor.isfinite().all()) and bool(tensors[name].isfinite().all()):
            raise ValueError(
                f"dtype: {name} has values that {dtype} cannot hold; torch.bfloat16 has a wider range"
            )
    return found


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(dict(tensors), {"format": "pt"})


def unbuildable(module: Module) -> str | None:
    """Why a config could not rebuild this module; None where it could."""
    try:
        spec = module.spec()
        json.dumps(spec, allow_nan=False)
    except (TypeError, ValueError) as error:
        return str(error)
    for part in module.modules():
        if added := getattr(part, "added", None):
            return (
                f"it has {added}, put into it after it was made, which a config does not hold: keep "
                "adapters.adapter_state(network) beside the base model, or merge the layers"
            )
    foreign = sorted({name for name in _classes(spec) if not _is_public(name)})
    if foreign:
        return (
            f"{', '.join(foreign)} is not a class of ornstein's, so a config cannot rebuild this model; "
            "build it in your own code and read its weights with load_weights(denoiser, folder)"
        )
    return None


def _classes(spec: Any) -> Iterator[str]:
    if isinstance(spec, dict):
        if set(spec) == {"class", "arguments"}:
            yield spec["class"]
        spec = list(spec.values())
    if isinstance(spec, list):
        for part in spec:
            yield from _classes(part)


def _is_public(name: str) -> bool:
    room, _, title = name.partition(".")
    return room in ROOMS and title in importlib.import_module(f"ornstein.{room}").__all__


def _card(denoiser: Denoiser, config: Mapping[str, Any]) -> str:
    network, process = getattr(denoiser, "network", denoiser), denoiser.process
    count = sum(p.numel() for p in denoiser.parameters())
    rows = {
        "denoiser": type(denoiser).__name__,
        "network": f"{type(network).__name__}, {count:,} parameters",
        "process": type(process).__name__,
        "prediction": getattr(denoiser, "prediction", None),
        "shape": denoiser.shape,
        "condition": ", ".join(sorted(denoiser.fields)) or "none",
        "weights": "moving average (EMA)" if config["weights"] == "ema" else "as trained",
    }
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items() if v is not None)
    return (
        "---\nlibrary_name: ornstein\ntags:\n- ornstein\n- diffusion\n---\n\n# A model of ornstein\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        "```python\nimport ornstein as orn\n\nmodel = orn.load(PATH_OR_ID)\n"
        "samples = orn.sample(model, 16)\n```\n"
    )


# ------------------------------------------------------------------------------------ reading


def check_hub_options(name: str | Path, options: Mapping[str, Any], local: bool) -> None:
    """Refuse options of the hub that would not be kept.

    Raises:
        TypeError: one that is not known.
        ValueError: the model is a folder, of which there is one version, and which is not downloaded.
    """
    for option, value in options.items():
        if option not in HUB_OPTIONS:
            raise TypeError(suggest(option, HUB_OPTIONS, "option of the hub"))
        if local and option != "local_files_only" and value not in (None, False):
            raise ValueError(
                f"{option}: got {value!r}, but model {str(name)!r} is a folder; {option} is of ids 'owner/name' of "
                "the hub"
            )


def load_model(name: str | Path, weights: str = "ema", **hub: Any) -> Denoiser:
    """A denoiser from a folder, a run folder or a hub id, in evaluation mode on the CPU.

    Args:
        name: a path, or "owner/name". A path that exists comes before an id.
        weights: "ema", the averaged weights that one samples from, or "raw", the last ones of training.
        **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`; of an id, not of a path.

    Raises:
        TypeError: an option of the hub that is not known.
        ValueError: there is no such model, its files are foreign, incomplete or do not fit together, or a path is given
            with an option of the hub.
        OSError: the hub cannot be reached.
    """
    if weights not in WEIGHTS:
        raise ValueError(suggest(weights, WEIGHTS, "weights"))
    check_hub_options(name, hub, local=Path(name).exists())
    if Path(name).exists():
        return _read_folder(_model_folder(Path(name)), weights)
    if not _HUB_ID.fullmatch(str(name)):
        text = f"model {str(name)!r}: no such folder; accepted is {ACCEPTED}, or a hub id 'owner/name'"
        raise ValueError(text)
    from .hub import HubModel

    return HubModel.fetch(str(name), weights, **hub)


def load_weights(denoiser: Denoiser, name: str | Path, weights: str = "ema") -> Denoiser:
    """Read the weights of a saved model into a denoiser made in code, and return it.

    Args:
        denoiser: of the same parts as the one that was saved.
        name: a model or run folder, or one .safetensors file with the names of the denoiser's `state_dict`.
        weights: "ema" or "raw".

    Raises:
        ValueError: the files are foreign or incomplete, or the shapes do not fit.
    """
    if Path(name).is_file() and Path(name).suffix == ".safetensors":
        return _read_into(denoiser, Path(name))
    folder = _model_folder(Path(name))
    return _filled(denoiser, folder, _read_config(folder), weights)


def _read_folder(folder: Path, weights: str) -> Denoiser:
    config = _read_config(folder)
    if config.get("denoiser") is None:
        raise ValueError(f"{folder / CONFIG}: cannot be rebuilt: {config.get('why', 'no denoiser in it')}")
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and lost at once
            denoiser = build(config["denoiser"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"{folder / CONFIG}: describes a {type(denoiser).__name__}, expected a denoiser")
    return _filled(denoiser, folder, config, weights)


def _model_folder(path: Path) -> Path:
    """The folder itself, or the model in a run folder."""
    if path.is_file():
        what = "pickled files are never read" if path.suffix in _PICKLES else "this is a single file"
        safely = f". {EDM}" if path.suffix in (".pkl", ".pickle") else ""
        raise ValueError(f"model {str(path)!r}: {what}; accepted is {ACCEPTED}{safely}")
    if not path.is_dir():
        raise ValueError(f"model {str(path)!r}: no such folder; accepted is {ACCEPTED}")
    inner = path / "model"
    return inner if inner.is_dir() and not (path / CONFIG).exists() else path


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"model {str(folder)!r}: has no {CONFIG}{_foreign(folder)}; accepted is {ACCEPTED}")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); accepted is {ACCEPTED}") from error
    if not isinstance(config, dict) or config.get("format") != "ornstein":
        maker = config.get("_class_name") or config.get("model_type") if isinstance(config, dict) else None
        of = f" (it is of {maker})" if maker else ""
        of += f", {_DIFFUSERS}" if isinstance(config, dict) and "_class_name" in config else ""
        raise ValueError(f"{path}: not a config of ornstein's{of}; accepted is {ACCEPTED}")
    if config.get("version") != FORMAT:
        raise ValueError(
            f"{path}: format version {config.get('version')!r}, this ornstein reads {FORMAT}; update ornstein"
        )
    return config


def _foreign(folder: Path) -> str:
    found = [what for name, what in _FOREIGN.items() if (folder / name).exists()]
    found += [f"pickled files ({p.name})" for p in sorted(folder.iterdir()) if p.suffix in _PICKLES]
    return f"; this is {found[0]}" if found else ""


def _filled(denoiser: Denoiser, folder: Path, config: Mapping[str, Any], weights: str) -> Denoiser:
    only = "ema" if config.get("weights") == "raw" else weights  # one file, under the first name
    _read_into(denoiser, folder / WEIGHTS[only])
    if (folder / FIT).exists():
        try:
            denoiser.fit = GaussianFit.from_tensors(read_tensors(folder / FIT))
        except ValueError as error:
            raise ValueError(f"{folder / FIT}: {error}") from error
    return denoiser.eval()


def _read_into(denoiser: Denoiser, path: Path) -> Denoiser:
    tensors = read_tensors(path)
    _check_fit(denoiser.state_dict(), tensors, path)
    denoiser.load_state_dict(tensors)
    return denoiser.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ValueError: the file is missing, truncated, or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"model {str(path.parent)!r}: has no {path.name}; accepted is {ACCEPTED}") from error
    except (SafetensorError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); accepted is {ACCEPTED}") from error


def _check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    shapes = [
        f"{k} is {tuple(found[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in found and found[k].shape != v.shape
    ]
    missing = [f"{k} is missing" for k in expected if k not in found]
    surplus = [f"{k} is not in the model" for k in found if k not in expected]
    faults = [*shapes, *missing, *surplus]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{path}: weights do not fit the model in {CONFIG}: {'; '.join(faults[:3])}{more}")

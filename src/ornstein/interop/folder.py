"""Reading what diffusers writes: a folder or a repository of the hub, safetensors only, no code of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ornstein.core import Denoiser
from ornstein.denoisers.files import EDM, check_hub_options

from .denoiser import DiffusersDenoiser
from .kinds import KINDS
from .schedule import warn_unkept

__all__ = ["from_diffusers", "load_diffusers"]

INDEX, CONFIG = "model_index.json", "config.json"
NETWORK, SCHEDULER = ("unet", "transformer"), "scheduler"
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
READ = (*NETWORK, SCHEDULER, "vae", *ENCODERS, *TOKENIZERS)
UNREAD = ("safety_checker", "feature_extractor", "image_encoder")  # for other inputs and outputs than ours
OWN = "OrnsteinModel"  # of ours, as `save_diffusers` writes it
CLASSES = {
    "vae": ("AutoencoderKL",),
    **dict.fromkeys(NETWORK, (*KINDS, OWN)),
    **dict.fromkeys(ENCODERS, ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")),
    **dict.fromkeys(TOKENIZERS, ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")),
}
WEIGHTS = (*NETWORK, "vae", *ENCODERS)
LARGEST = 2**24  # bytes of a JSON file; an index of ten thousand weights has 2**20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
ACCEPTED = (
    f"a folder with {INDEX} as save_pretrained of diffusers writes it, one network of it with its scheduler_config.json"
    ", or a hub id 'owner/name'"
)


def load_diffusers(
    name: str | Path,
    *,
    dtype: Any = None,
    variant: str | None = None,
    scheduler: Any = None,
    null_label: int | None = None,
    **hub: Any,
) -> Denoiser:
    """A model of diffusers as a denoiser with its process, in evaluation mode, on the CPU.

    Read are pipelines of UNet2DModel (with or without labels), UNet2DConditionModel (Stable Diffusion 1, 2, XL),
    DiTTransformer2DModel, SD3Transformer2DModel and FluxTransformer2DModel, what `save_diffusers` wrote, and one
    network alone beside its scheduler. Only JSON and safetensors are read: no pickle, no code.

    Args:
        name: a folder, or an id "owner/name" of the hub. A path that exists comes before an id.
        dtype: of network and text encoders, such as torch.bfloat16; the autoencoder stays in float32.
        variant: of the files, such as "fp16".
        scheduler: of diffusers, in place of the one in the folder.
        null_label: the class that stands for no label, for a UNet2DModel that was trained with one.
        **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`; of an id, not of a folder.

    Warns:
        UserWarning: the scheduler has `clip_sample` or `thresholding`, which is not done here.

    Raises:
        TypeError: an option of the hub that is not known.
        ValueError: no such model, parts that are not read here, a null_label that is no class, pickled weights, weights
            that are not whole or lie outside the folder, an option of the hub for a folder, or dtype, scheduler or
            null_label for what `save_diffusers` wrote, which has its own.
        OSError: the hub cannot be reached.
        ImportError: diffusers or transformers is not installed.
    """
    imported("diffusers")
    path = Path(name)
    if path.is_file():
        raise ValueError(f"model {str(name)!r}: {_single(path)}; accepted is {ACCEPTED}")
    check_hub_options(name, hub, local=path.is_dir())
    folder = path if path.is_dir() else _fetched(str(name), variant, hub)
    index = _index(folder)
    if any(kind == OWN for _, kind in index.values()):
        _check_own(dtype=dtype, scheduler=scheduler, null_label=null_label)
    given = {SCHEDULER: scheduler} if scheduler is not None else {}
    parts = {n: _part(folder, n, found, dtype, variant) for n, found in index.items() if n not in given}
    settings = {k: v for k, v in _json(folder / INDEX).items() if k not in index} if _indexed(folder) else {}
    return _denoiser({**parts, **given}, settings, null_label)


def from_diffusers(pipeline: Any, *, null_label: int | None = None) -> Denoiser:
    """A pipeline of diffusers as a denoiser: the same modules, not copies of them.

    Args:
        pipeline: a DiffusionPipeline of the kinds that `load_diffusers` reads, or its components by name
            ({"unet": ..., "scheduler": ...}).
        null_label: as of `load_diffusers`.

    Warns:
        UserWarning: as of `load_diffusers`.

    Raises:
        ValueError: parts that are not read here, or a null_label that is no class.
    """
    if isinstance(pipeline, Mapping):
        return _denoiser(dict(pipeline), {}, null_label)
    parts = {k: v for k, v in pipeline.components.items() if v is not None}
    classes = {k: ["", type(v).__name__] for k, v in parts.items()}
    _check_classes(classes, "pipeline")
    settings = {k: v for k, v in pipeline.config.items() if not isinstance(v, tuple | list)}
    settings["_class_name"] = type(pipeline).__name__
    return _denoiser({k: v for k, v in parts.items() if k in READ}, settings, null_label)


def _denoiser(components: dict[str, Any], settings: dict[str, Any], null_label: int | None) -> Denoiser:
    network = next((components[n] for n in NETWORK if components.get(n) is not None), None)
    if network is None:
        raise ValueError(
            f"components: expected a network as {' or '.join(NETWORK)}, got {sorted(components)}"
        )
    if type(network).__name__ == OWN:
        _check_own(null_label=null_label)
        own: Denoiser = network.model
        return own.eval()
    if components.get(SCHEDULER) is None:
        raise ValueError(
            "scheduler: nothing says which; put scheduler_config.json beside the network or pass scheduler="
        )
    made = DiffusersDenoiser(components, settings, null_label).eval()
    warn_unkept(made.scheduler)
    return made


def _check_own(**options: Any) -> None:
    """Refuse options of diffusers' networks for a model of ornstein's."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}: this is a model of ornstein's ({OWN}), which keeps its own; leave {name} out"
            )


# ------------------------------------------------------------------------------------ folders


def imported(package: str) -> Any:
    """A package that is not among ornstein's own.

    Raises:
        ImportError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed; models of diffusers need it: pip install 'ornstein[diffusers]'"
        ) from error


def _indexed(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def _index(folder: Path) -> dict[str, Any]:
    """{part: [library, class]} of what is to be read."""
    if _indexed(folder):
        found = {k: v for k, v in _json(folder / INDEX).items() if isinstance(v, list) and len(v) == 2}
        whole = {k: v for k, v in found.items() if v[1] is not None}
    else:
        whole = _bare(folder)
    _check_classes(whole, str(folder))
    return {k: v for k, v in whole.items() if k in READ}


def _bare(folder: Path) -> dict[str, Any]:
    """A network alone: config.json with the network's class, or the folders unet and scheduler."""
    inner = next((n for n in NETWORK if (folder / n / CONFIG).is_file()), None)
    path = folder / inner / CONFIG if inner else folder / CONFIG
    maker = _json(path).get("_class_name") if path.is_file() else None
    if maker is None:
        raise ValueError(f"model {str(folder)!r}: no {INDEX} in it; accepted is {ACCEPTED}")
    parts = {inner or ("unet" if str(maker).startswith("UNet") else "transformer"): ["diffusers", maker]}
    found = _scheduler_file(folder)
    return parts if found is None else {**parts, SCHEDULER: ["diffusers", _json(found).get("_class_name")]}


def _scheduler_file(folder: Path) -> Path | None:
    name = "scheduler_config.json"
    places = (folder / SCHEDULER / name, folder / name, folder.parent / SCHEDULER / name)
    return next((place for place in places if place.is_file()), None)


def _check_classes(index: Mapping[str, Any], where: str) -> None:
    for name, (_, kind) in index.items():
        if name not in READ + UNREAD:
            raise ValueError(
                f"model {where!r}: the part {name!r} ({kind}) is not read here; only {', '.join(READ)}"
            )
        if name in CLASSES and kind not in CLASSES[name]:
            raise ValueError(f"model {where!r}: {name} is a {kind}; read here: {', '.join(CLASSES[name])}")


def _part(folder: Path, name: str, found: Any, dtype: Any, variant: str | None) -> Any:
    """One part, by the loader of its own library."""
    _, kind = found
    inner = folder / name if (folder / name).is_dir() else folder
    if name == SCHEDULER:
        path = _scheduler_file(folder)
        if path is None:
            raise ValueError(f"model {str(folder)!r}: no scheduler_config.json of its {kind}")
        return _scheduler_class(kind).from_config(_json(path))
    if name in TOKENIZERS:
        return _class("transformers", kind).from_pretrained(inner, local_files_only=True)
    _check_weights(inner)
    options = {"use_safetensors": True, "local_files_only": True, "variant": variant}
    if kind == OWN:
        from .exported import OrnsteinModel

        return OrnsteinModel.from_pretrained(inner, **options)
    if name in ENCODERS:  # whose files may be in half precision
        kept = torch.float32 if dtype is None else dtype
        return _class("transformers", kind).from_pretrained(inner, **options).to(kept)
    given = {} if name == "vae" else {"torch_dtype": dtype}
    return _class("diffusers", kind).from_pretrained(inner, **options, **given)


def _single(path: Path) -> str:
    if path.suffix in (".pkl", ".pickle"):
        return f"a pickled file. {EDM}"
    if path.suffix in PICKLES:
        return pickled([path])
    return (
        "a single file, perhaps of the original layout, which StableDiffusionPipeline.from_single_file of diffusers "
        "reads; interop.from_diffusers takes the pipeline"
    )


def _class(library: str, name: str) -> Any:
    found = getattr(imported(library), name, None)
    if found is None:
        raise ValueError(f"{library} has no class {name!r}; the model may need a newer {library}")
    return found


def _scheduler_class(name: str) -> Any:
    found = _class("diffusers", name)
    if not isinstance(found, type) or not issubclass(found, imported("diffusers").SchedulerMixin):
        raise ValueError(f"scheduler: {name!r} is no scheduler of diffusers")
    return found


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, or whose files are not whole, before any loader looks at it."""
    if any(folder.glob("*.safetensors")):
        for path in sorted(folder.glob("*.safetensors")):
            _names_in(path)
        for index in sorted(folder.glob("*.index*.json")):  # "index.fp16.json" is one of a variant
            _check_shards(index)
        return
    pickles = sorted(path for path in folder.glob("*") if path.suffix in PICKLES)
    why = pickled(pickles) if pickles else "it has no weights (*.safetensors)"
    raise ValueError(f"model {str(folder)!r}: {why}")


def _check_shards(index: Path) -> None:
    """Refuse an index that names other files than whole safetensors of its own folder with the weights it says."""
    found = _json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"{index}: expected a weight_map {{weight: file}}")
    names = sorted(set(found.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index}: names the file {name!r}; accepted are safetensors of the same folder, without a path"
            )
    if not any((index.parent / name).exists() for name in names):
        return  # of a variant that was not fetched
    for name in names:
        missing = {weight for weight, file in found.items() if file == name} - _names_in(index.parent / name)
        if missing:
            raise ValueError(f"{index}: {name} has no {sorted(missing)[0]!r}")


def _names_in(path: Path) -> set[str]:
    """Weights in a safetensors file, by its head, which says how long the file must be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def pickled(files: list[Path]) -> str:
    """Why pickled files are refused, and what to do instead."""
    return (
        f"its weights are pickled ({', '.join(path.name for path in files)}), and unpickling runs whatever code a file "
        "holds. Take a revision with safetensors, or convert once in a throwaway environment that holds nothing of "
        "yours: DiffusionPipeline.from_pretrained(...).save_pretrained(FOLDER, safe_serialization=True)"
    )


def _json(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, a config has at most {LARGEST}")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


# ---------------------------------------------------------------------------------------- hub


def _fetched(name: str, variant: str | None, hub: Mapping[str, Any]) -> Path:
    """A snapshot of a repository: its JSON, its vocabularies, and the safetensors of the parts that are read."""
    from huggingface_hub import snapshot_download

    from ornstein.denoisers.hub import asked_of_hub

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"model {name!r}: no such folder; accepted is {ACCEPTED}")
    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    wanted = ["*.json", f"diffusion_pytorch_model{weights}"]
    for part in READ:
        wanted += [f"{part}/{pattern}" for pattern in ("*.json", "*.txt", "*.model")]
    wanted += [f"{part}/{weights}" for part in WEIGHTS]
    unwanted = [] if variant else ["*.fp16*", "*.bf16*", "*non_ema*"]
    with asked_of_hub(name, ACCEPTED):
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted, **hub))

"""Models out: as modules, pipelines and folders of diffusers."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ornstein.core import AffineProcess, Denoiser, Guided, suggest
from ornstein.denoisers.atomic import place_folder
from ornstein.denoisers.files import tensors_of
from ornstein.spaces import Encoded

from .denoiser import DiffusersDenoiser
from .folder import ENCODERS, TOKENIZERS, imported

__all__ = ["save_diffusers", "to_diffusers", "to_pipeline"]

PIPELINES = (  # that run the networks read here; a config names one of them, and nothing else is made by its name
    "DDIMPipeline",
    "DDPMPipeline",
    "DiTPipeline",
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "PNDMPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
)


def to_diffusers(model: Denoiser, steps: int = 1000) -> tuple[Any, Any]:
    """A model as (module, scheduler) of diffusers.

    What came from diffusers goes back as it is. A model of ornstein, whose networks are other architectures than
    theirs, becomes an `OrnsteinModel`: its call is UNet2DModel's, so DDIMPipeline(unet=module, scheduler=scheduler)
    and every scheduler that reads v-predictions run it; weights are copied.

    Args:
        model: of images (C, H, W), with an affine process; not guided.
        steps: N of the scheduler's table.

    Raises:
        ValueError: a model that diffusers cannot run.
        ImportError: diffusers is not installed.
    """
    if isinstance(model, DiffusersDenoiser):
        return model.network, model.scheduler
    _check(model)
    imported("diffusers")
    from .exported import OrnsteinModel, scheduler_of

    assert isinstance(model.process, AffineProcess)
    scheduler = scheduler_of(model.process, steps)
    channels, *sides = model.shape
    module = OrnsteinModel(model.spec(), scheduler.alphas_cumprod.double().tolist(), sides, channels)
    module.model.load_state_dict(tensors_of(model))
    example = model.like(1)
    module.model.to(example.device, example.dtype)
    return module.eval(), scheduler


def _check(model: Any) -> None:
    if isinstance(model, Guided):
        raise ValueError("model: export the model without its guides, which are no part of it")
    if not isinstance(model, Denoiser):
        raise TypeError(f"model: expected a Denoiser, got {model!r}")
    process = model.process
    if not isinstance(process, AffineProcess) or process.anchored or isinstance(process, Encoded):
        raise ValueError(
            f"model: diffusers runs affine processes without an anchor, on the data themselves; this is "
            f"{type(process).__name__}"
        )
    if not isinstance(model.shape, tuple) or len(model.shape) != 3:
        raise ValueError(
            f"model: diffusers' pipelines draw images (C, H, W), this model's shape is {model.shape}"
        )


def to_pipeline(model: Denoiser) -> Any:
    """A pipeline of diffusers that runs the model: its own one for a model that came from a pipeline, on the same
    modules, and DDIMPipeline for others.

    Args:
        model: as of `to_diffusers`.

    Raises:
        ValueError: a network alone that no unconditional pipeline runs, or a pipeline of a class that is not known.

    Warns:
        UserWarning: a model of ornstein reads texts, which DDIMPipeline cannot be given.
    """
    diffusers = imported("diffusers")
    if not isinstance(model, DiffusersDenoiser):
        network, scheduler = to_diffusers(model)
        if "text" in model.fields:
            warnings.warn(
                "model: reads texts, for which DDIMPipeline has no prompt; pipe(...) draws without. In a loop of your "
                'own, call pipe.unet(x, t, text=pipe.unet.model.tokenise("text", words)), words one string a row',
                stacklevel=2,
            )
        return diffusers.DDIMPipeline(unet=network, scheduler=scheduler)
    parts = components_of(model)
    name = model.settings.get("_class_name")
    if name is None:
        if model.kind != "UNet2DModel":
            raise ValueError(
                f"model: a {model.kind} alone has no pipeline; take its parts, to_diffusers(model)"
            )
        name = "DDIMPipeline"
    if name not in PIPELINES:
        raise ValueError(
            f"{suggest(str(name), PIPELINES, 'pipeline')} Its parts are to_diffusers(model) and, where it has them, "
            "model.text and model.process.codec"
        )
    kind = getattr(diffusers, name)
    accepted = list(inspect.signature(kind.__init__).parameters)[1:]
    empty = {
        k: None for k in accepted if k in ("safety_checker", "feature_extractor", *ENCODERS, *TOKENIZERS)
    }
    flags = {k: v for k, v in model.settings.items() if k in accepted and not k.startswith("_")}
    quiet = {"requires_safety_checker": False} if "requires_safety_checker" in accepted else {}
    return kind(**{**empty, **flags, **quiet, **parts})


def components_of(model: DiffusersDenoiser) -> dict[str, Any]:
    """The parts of a model by diffusers' names."""
    name = "unet" if model.kind.startswith("UNet") else "transformer"
    parts: dict[str, Any] = {name: model.network, "scheduler": model.scheduler}
    if isinstance(model.process, Encoded):
        codec: Any = model.process.codec
        parts["vae"] = codec.vae
    if model.text is not None:
        names = model.text.names
        parts |= dict(zip(names, model.text.encoders, strict=True))
        tokenizers = (n.replace("text_encoder", "tokenizer") for n in names)
        parts |= dict(zip(tokenizers, model.text.tokenizers, strict=True))
    return parts


def save_diffusers(model: Denoiser, folder: str | Path) -> Path:
    """Write a model as a folder of diffusers, safetensors and JSON: there whole or not at all.

    A model that came from a pipeline, fine-tuned or not, becomes a folder that diffusers' own pipeline loads. Another
    model of ornstein becomes one of a DDIMPipeline whose network is an `OrnsteinModel`: `load_diffusers` reads it, and
    diffusers does after `import ornstein.interop.exported`.

    Args:
        model: as of `to_diffusers`.
        folder: must not exist, or be empty.

    Raises:
        ValueError: the folder is not empty, or the model is none that diffusers can run.
        OSError: it cannot be written; nothing of it is left.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder: {str(folder)!r} is there already and not empty; give another name")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as own:
            _write(model, Path(own) / "whole")
            if folder.exists():
                folder.rmdir()
            place_folder(Path(own) / "whole", folder)
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
    return folder


def _write(model: Denoiser, folder: Path) -> None:
    if (
        not isinstance(model, DiffusersDenoiser)
        or model.settings.get("_class_name")
        or model.kind == "UNet2DModel"
    ):
        to_pipeline(model).save_pretrained(folder, safe_serialization=True)
        return
    for name, part in components_of(model).items():  # a network alone: the folders that load_diffusers reads
        part.save_pretrained(folder / name)

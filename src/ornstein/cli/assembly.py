"""From a configuration and a data set to a denoiser and an objective; what is not said follows from the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ornstein.conditions import Whitened
from ornstein.core import Denoiser, Objective, Process, build, leaves
from ornstein.denoisers import Matcher, NetworkDenoiser, Prompted, Reconstructor
from ornstein.networks import TextImage
from ornstein.spaces import Encoded
from ornstein.training import encoded

from .classes import accepted, made, named, parameters
from .config import Config, Part, layered

__all__ = ["Assembled", "assemble", "coded", "part_of", "scale_of", "text_encoder"]

_SEEN = 1024  # samples whose size sets the scale
_COARSEST = 4  # pixels a side at a U-Net's deepest level


class Assembled(NamedTuple):
    """A model ready to be trained, and the configuration with everything in it said."""

    denoiser: Denoiser
    objective: Objective
    config: dict[str, Any]


def assemble(config: Config, dataset: Any, codec: Any = None) -> Assembled:
    """Build what the configuration describes, in the space of a codec if the data are its codes.

    Raises:
        ValueError: unknown classes or arguments (with the nearest name), values of the wrong type or range, pieces
            that cannot work together, and data that no network is the default for.
    """
    if config.codec.name:
        return _assemble_codec(config, dataset)
    if config.objective.name == "TextImageMatching":
        return _assemble_pair(config, dataset)
    parts = {"process": _process_part(config.process, dataset)}
    process = made("processes", parts["process"])
    encoder = text_encoder(config.text, dataset)
    parts["network"] = _network_part(config.network, dataset, process, encoder)
    parts["objective"] = _filled("objectives", config.objective, {"class": "Denoising"}, {})
    objective = made("objectives", parts["objective"])
    said = {
        "prediction": config.prediction or _prediction(process),
        "scale": config.scale or scale_of(dataset),
    }
    options: dict[str, Any] = {k: v for k, v in said.items() if v is not None}
    training = config.training.model_dump()
    torch.manual_seed(training["seed"])
    network = made("networks", parts["network"])
    process = process if codec is None else Encoded(process, codec)
    denoiser: Denoiser = NetworkDenoiser(network, process, shape=dataset.shape, **options)
    denoiser = denoiser if encoder is None else Prompted(denoiser, encoder)
    text = {} if config.text is None else {"text": config.text}
    record = {"data": config.data.model_dump(), **text, **parts, **options, "training": training}
    return Assembled(denoiser, objective, record)


def _assemble_codec(config: Config, dataset: Any) -> Assembled:
    """A codec to be trained: its network, and what it is trained on."""
    training = config.training.model_dump()
    torch.manual_seed(training["seed"])
    facts = {"channels": dataset.shape[0], "moments": config.codec.arguments.get("kind", "kl") == "kl"}
    parts = {
        "network": _filled("networks", config.network, {"class": "Autoencoder"}, facts),
        "codec": {"class": config.codec.name, **config.codec.arguments},
        "objective": _filled("objectives", config.objective, {"class": "Reconstruction"}, {}),
    }
    codec = made("spaces", parts["codec"], network=made("networks", parts["network"]))
    objective = made("objectives", parts["objective"])
    record = {"data": config.data.model_dump(), **parts, "training": training}
    return Assembled(Reconstructor(codec, dataset.shape), objective, record)


def _assemble_pair(config: Config, dataset: Any) -> Assembled:
    """A text encoder to be trained beside an image tower, which `network` describes."""
    if not isinstance(config.text, dict):
        raise ValueError(f"text: describe the encoder that is to be trained, got {config.text!r}")
    training = config.training.model_dump()
    torch.manual_seed(training["seed"])
    encoder = build(config.text)
    facts = {"channels": dataset.shape[0], "code": encoder.network.head.out_features}
    parts = {
        "network": _filled("networks", config.network, {"class": "Encoder"}, facts),
        "objective": _filled("objectives", config.objective, {"class": "TextImageMatching"}, {}),
    }
    pair = TextImage(encoder, made("networks", parts["network"]))
    record = {"data": config.data.model_dump(), "text": config.text, **parts, "training": training}
    return Assembled(Matcher(pair, dataset.shape), made("objectives", parts["objective"]), record)


def text_encoder(said: str | dict[str, Any] | None, dataset: Any) -> Any:
    """The text encoder of a model by its name, whitened over the data's texts, or one described whose weights come with
    its package.

    Raises:
        ValueError: no such model, one that has no encoder of texts, or one described that would be made at random.
    """
    if said is None:
        return None
    if isinstance(said, dict):
        if said.get("class") != "conditions.MiniLM":
            raise ValueError(
                f"text: an encoder of {said.get('class')!r} made anew has random weights, and stays frozen; name a "
                "model that has a trained one, such as scenes-text"
            )
        return build(said)
    if dataset.train.texts is None:
        raise ValueError(f"text: data {dataset.name!r} have no texts to learn from")
    encoder = part_of(said, "encoder", "text")
    return encoder if isinstance(encoder, Whitened) else Whitened.fit(encoder, dataset.train.texts)


def part_of(model: str, part: str, key: str) -> Any:
    """A part of a trained model, by name: its text `encoder`, its `codec`.

    Raises:
        ValueError: no such model, or one without such a part.
    """
    from ornstein.zoo import load

    loaded: Any = load(model)
    found = getattr(loaded, part, None) or getattr(loaded.process, part, None)
    if found is None:
        raise ValueError(f"{key}: model {model!r} has no {part}; it is a {type(loaded).__name__}")
    return found


def coded(dataset: Any, model: str) -> tuple[Any, Any]:
    """The data set in the space of a model's codec, and the codec."""
    codec = part_of(model, "codec", "data.codec")
    made = encoded(dataset, codec)
    return replace(made, options={**dataset.options, "codec": model}), codec


def _filled(room: str, part: Part, own: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, over the default of these data where the class is the same, over what the data settle."""
    cls = named(room, part.name or own["class"])
    settled = {k: v for k, v in facts.items() if k in parameters(cls) and v is not None}
    default = own if cls.__name__ == own["class"] else {}
    return {**layered({**settled, **default}, part.arguments), "class": cls.__name__}


# ----------------------------------------------------------------------------- what the data say


def _process_part(part: Part, dataset: Any) -> dict[str, Any]:
    if isinstance(dataset.shape, dict):
        leaves_ = {k: _leaf_process(dataset.categories[k]) for k in dataset.shape}
        return _filled("processes", part, {"class": "ProductProcess", "parts": leaves_}, {})
    facts = {"categories": dataset.categories}
    return _filled("processes", part, _leaf_process(dataset.categories), facts)


def _leaf_process(categories: int | None) -> dict[str, Any]:
    if categories is None:
        return {"class": "VariancePreserving", "schedule": "cosine"}
    return {"class": "Absorbing", "categories": categories}


def _network_part(part: Part, dataset: Any, process: Process, encoder: Any) -> dict[str, Any]:
    own = part.name or _network_for(dataset)
    facts = _tree_facts(dataset) if isinstance(dataset.shape, dict) else _facts(dataset, process)
    facts |= {"text": None if encoder is None else encoder.features}
    return _filled("networks", part, {"class": own}, facts)


def _network_for(dataset: Any) -> str:
    shape, discrete = dataset.shape, dataset.categories is not None
    if isinstance(shape, dict):
        if set(shape) == {"image", "label"}:
            return "JointUNet"
    elif discrete and len(shape) == 1:
        return "SequenceTransformer"
    elif not discrete and len(shape) in (1, 2, 3, 4):
        return "ResidualMLP" if len(shape) == 1 else "UNet"
    kind = "discrete" if discrete else "continuous"
    raise ValueError(
        f"network.class: no network is the default for {kind} samples of shape {shape}, only for vectors (D,), "
        f"signals (C, L), images (C, H, W), volumes (C, D, H, W), sequences of ids (L,) and images with labels; "
        f"give one of {', '.join(map(repr, accepted('networks')))}"
    )


def _facts(dataset: Any, process: Process) -> dict[str, Any]:
    """Arguments of networks, by the names that all networks use, that the data settle."""
    labels = len(dataset.classes) or None
    if dataset.categories is None:
        return {"labels": labels, **_image_facts(dataset.shape)}
    vocabulary = getattr(process, "states", dataset.categories)
    return {
        "labels": labels, "outputs": dataset.categories, "vocabulary": vocabulary, "length": dataset.shape[0],
    }  # fmt: skip


def _tree_facts(dataset: Any) -> dict[str, Any]:
    counts = [c for c in dataset.categories.values() if c is not None]
    shapes = [s for k, s in dataset.shape.items() if dataset.categories[k] is None]
    return {**_image_facts(shapes[0]), "classes": counts[0]} if shapes and counts else {}


def _image_facts(shape: tuple[int, ...]) -> dict[str, Any]:
    channels, *sides = shape
    if not sides:
        return {"features": channels}
    if max(sides, default=0) <= 8:  # there a level at 2x2 is worth its time
        return {"channels": channels, "dims": len(sides), "multipliers": [1, 2, 3]}
    levels = 1
    while levels < 4 and min(sides) // 2**levels >= _COARSEST:
        levels += 1
    return {"channels": channels, "dims": len(sides), "multipliers": list(range(1, levels + 1))}


def _prediction(process: Process) -> str | None:
    parts = getattr(process, "parts", {"": process}).values()
    return None if all(p.discrete for p in parts) else "edm"


def scale_of(dataset: Any) -> float | None:
    """Root-mean-square of the entries of continuous leaves, of samples of the training split; None without any."""
    count = min(len(dataset.train), _SEEN)
    chosen = torch.arange(count) * len(dataset.train) // max(count, 1)
    seen = [x.double() for x in leaves(dataset.train.batch(chosen)["x_0"]) if x.is_floating_point()]
    if not seen:
        return None
    total, entries = sum(float((x**2).sum()) for x in seen), sum(x.numel() for x in seen)
    return max(round((total / entries) ** 0.5, 3), 1e-3)

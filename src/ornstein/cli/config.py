"""The configuration of a training run: YAML, presets and `--set a.b=c`, checked against a schema.

    data: {name: digits}                                  and the loader's options
    network: {class: UNet, width: 32}                     a class of ornstein.networks and its arguments
    process: {class: VariancePreserving, schedule: cosine}
    prediction: edm
    objective: {class: Denoising, drop: 0.1}
    training: {steps: 3000, batch: 128}                   arguments of ornstein.fit
    text: scenes-text                                     a model whose text encoder reads the data's captions
    codec: {class: AutoencoderCodec, kind: kl}            train a codec, of the network, in place of a model

Whatever is not said follows from the data. The config.yaml of a run folder is read as well.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ornstein.core import suggest
from ornstein.training import fit
from ornstein.training.options import Options

__all__ = ["Config", "Part", "check", "layered", "overrides", "parsed", "read"]


STEPS = 3000  # of training, where nobody says


class Part(BaseModel):
    """One piece of a model: a class of the library and its arguments."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    name: str | None = Field(None, alias="class")

    @property
    def arguments(self) -> dict[str, Any]:
        """All but the class."""
        return dict(self.model_extra or {})


class Data(BaseModel):
    """What `ornstein.data.load` is asked for: a name, and options of the loader. `codec` names a model that has one:
    then states are its codes.
    """

    model_config = ConfigDict(extra="allow")
    name: str | None = None
    codec: str | None = None


def _training() -> type[BaseModel]:
    """The numbers of a run, as `fit` takes them, with its defaults."""
    hints, given = get_type_hints(fit), inspect.signature(fit).parameters
    fields: dict[str, Any] = {name: (hints[name], given[name].default) for name in get_type_hints(Options)}
    fields["steps"] = (int, STEPS)
    return create_model("Training", __config__=ConfigDict(extra="forbid"), **fields)


if TYPE_CHECKING:
    Training = BaseModel
else:
    Training = _training()


class Config(BaseModel):
    """A training run."""

    model_config = ConfigDict(extra="forbid")
    data: Data = Data()
    text: str | dict[str, Any] | None = None
    network: Part = Part()
    codec: Part = Part()
    process: Part = Part()
    prediction: str | None = None
    scale: float | None = None
    objective: Part = Part()
    training: Training = Training()


# ------------------------------------------------------------------------------------ reading


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `no` is a word, and 1e-3 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read(path: Path) -> dict[str, Any]:
    """The configuration in a file, of a run folder too.

    Raises:
        ValueError: no such file, or not YAML with names at its top.
    """
    found = parsed(path)
    return of_run(found, path) if "denoiser" in found else found


def parsed(path: Path) -> dict[str, Any]:
    """The names and values in a YAML file, or in a folder's config.yaml, as they stand.

    Raises:
        ValueError: no such file, or not YAML with names at its top.
    """
    path = path / "config.yaml" if path.is_dir() else path
    try:
        found = _parsed(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {str(path)!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"--config: {str(path)!r}: expected names and values such as 'training: {{steps: 100}}'"
        )
    return found


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not readable as YAML: {error}") from error


def of_run(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What `fit` writes into a run folder, in the words of this schema.

    Raises:
        ValueError: the run is of a model that was made in code.
    """
    arguments = found["denoiser"].get("arguments", {})
    text = arguments.get("encoder") if found["denoiser"].get("class") == "denoisers.Prompted" else None
    arguments = arguments["denoiser"]["arguments"] if text else arguments
    if "codec" in arguments and "arguments" in found["objective"]:
        return _of_codec(found, arguments["codec"])
    if "pair" in arguments:
        return _of_pair(found, arguments["pair"]["arguments"])
    if not {"network", "process"} <= set(arguments) or "arguments" not in found["objective"]:
        raise ValueError(
            f"{str(path)!r}: the run of a model made in code, which a configuration cannot rebuild; go on from there"
        )
    process, data = arguments["process"], dict(found.get("data", {}).get("options") or {})
    if process["class"] == "spaces.Encoded" and "codec" not in data:
        raise ValueError(
            f"{str(path)!r}: the run of a model made in code, with a trained codec that has no name; go on from there"
        )
    return {
        **({"text": data.pop("text", text)} if text else {}),  # a trained one has a name
        "data": data,
        "network": _flat(arguments["network"]),
        "process": _flat(
            process["arguments"]["process"] if process["class"] == "spaces.Encoded" else process
        ),
        **{k: arguments[k] for k in ("prediction", "scale") if k in arguments},
        "objective": _flat(found["objective"]),
        "training": found["training"],
    }


def _of_codec(found: Mapping[str, Any], codec: dict[str, Any]) -> dict[str, Any]:
    """The run of a reconstructor, in the words of this schema."""
    said = _flat(codec)
    return {
        "data": found.get("data", {}).get("options") or {},
        "network": said.pop("network"),
        "codec": said,
        "objective": _flat(found["objective"]),
        "training": found["training"],
    }


def _of_pair(found: Mapping[str, Any], pair: dict[str, Any]) -> dict[str, Any]:
    """The run of a text and an image tower, in the words of this schema."""
    return {
        "data": found.get("data", {}).get("options") or {},
        "text": pair["text"],
        "network": _flat(pair["image"]),
        "objective": _flat(found["objective"]),
        "training": found["training"],
    }


def _flat(spec: Any) -> Any:
    """{"class": "room.Name", "arguments": {...}} as {"class": "Name", ...}, in depth."""
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"class", "arguments"}:
        name = str(spec["class"]).rpartition(".")[2]
        return {"class": name, **{k: _flat(v) for k, v in spec["arguments"].items()}}
    return {k: _flat(v) for k, v in spec.items()}


# --------------------------------------------------------------------------------------- layers


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """`a.b=c` as {"a": {"b": c}}, c read as YAML.

    Raises:
        ValueError: a word of another form.
    """
    found: dict[str, Any] = {}
    for word in words:
        path, sign, text = word.partition("=")
        names = path.strip().split(".")
        if not sign or not all(names):
            raise ValueError(f"--set: expected NAME=VALUE such as training.batch=64, got {word!r}")
        value = _parsed(text, f"--set {path}")
        for name in reversed(names):
            value = {name: value}
        found = layered(found, value)
    return found


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, name by name; another class brings other arguments, so nothing of the old one stays."""
    if "class" in above and "class" in below and above["class"] != below["class"]:
        return dict(above)
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = layered(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# ---------------------------------------------------------------------------------------- checks


def check(model: type[BaseModel], given: Mapping[str, Any], where: str = "") -> Any:
    """The record, with values of the right types.

    Raises:
        ValueError: an unknown name (with the nearest), one that is missing, or a value of another type.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(_explained(model, error.errors()[0], where)) from None


def _explained(model: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in error["loc"]]
    name = ".".join([where, *path] if where else path)
    if error["type"] == "extra_forbidden":
        return suggest(name, _siblings(model, path, where), "configuration key")
    if error["type"] == "missing":
        return f"{name}: needed, and not given"
    said = error["msg"].replace("Input should be", "expected", 1).partition(",")[0]
    return f"{name}: {said}, got {error['input']!r}"


def _siblings(model: type[BaseModel], path: Sequence[str], where: str) -> Iterable[str]:
    """The names accepted where an unknown one stood."""
    for part in path[:-1]:
        kind = model.model_fields[part].annotation
        assert isinstance(kind, type)
        model = kind
    prefix = ".".join([where, *path[:-1]] if where else path[:-1])
    known = [field.alias or name for name, field in model.model_fields.items()]
    return [f"{prefix}.{name}" if prefix else name for name in known]

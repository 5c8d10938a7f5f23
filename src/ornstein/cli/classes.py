"""Classes of the library by the names a configuration gives them, and instances from checked arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model
from torch import nn

from ornstein.core import Module, Objective, Process, suggest
from ornstein.networks import Autoencoder, Encoder
from ornstein.processes import DiscreteProcess
from ornstein.spaces import AutoencoderCodec

from .config import check

__all__ = ["accepted", "made", "named", "parameters"]

_OPTIONS_OF = {"JointUNet": "UNet"}  # networks that hand their other arguments on
_SINGULAR = {"processes": "process", "networks": "network", "objectives": "objective", "spaces": "codec"}


def accepted(room: str, inside: bool = False) -> dict[str, type[Module]]:
    """Classes of the room "processes", "networks", "objectives" or "spaces" that a configuration may name; `inside`
    another also its pieces, such as couplings and terms.
    """
    module = importlib.import_module(f"ornstein.{room}")
    found = {name: getattr(module, name) for name in module.__all__}
    modules = {k: c for k, c in found.items() if isinstance(c, type) and issubclass(c, Module)}
    return {k: c for k, c in modules.items() if inside or _OF_ROOM[room](c)}


_OF_ROOM: dict[str, Callable[[Any], bool]] = {
    "processes": lambda c: issubclass(c, Process) and not _is_contract(c, Process.marginal),
    "networks": lambda c: (
        "level" in inspect.signature(c.forward).parameters or issubclass(c, Autoencoder | Encoder)
    ),
    "spaces": lambda c: issubclass(c, AutoencoderCodec),
    "objectives": lambda c: issubclass(c, Objective),
}


def _is_contract(candidate: type[Process], marginal: Any) -> bool:
    """Whether it only says what its subclasses do."""
    return candidate.marginal is marginal or candidate is DiscreteProcess


def named(room: str, name: str, where: str = "", inside: bool = False) -> type[Module]:
    """The class of that name, however it is cased and hyphenated ("rectified-flow").

    Raises:
        ValueError: there is none; with the nearest name.
    """
    known = accepted(room, inside)
    plain = {_simple(k): k for k in known}
    if _simple(name) not in plain:
        raise ValueError(suggest(name, known, f"{where or _SINGULAR[room]}.class"))
    return known[plain[_simple(name)]]


def _simple(name: str) -> str:
    return str(name).lower().replace("-", "").replace("_", "")


def made(
    room: str, said: Mapping[str, Any], where: str = "", inside: bool = False, **parts: nn.Module
) -> Any:
    """An instance of {"class": name, argument: value, ...}, pieces inside of it too; `parts` are made already.

    Raises:
        ValueError: an unknown class or argument (with the nearest name), or a value that does not fit.
    """
    where = where or _SINGULAR[room]
    cls = named(room, said["class"], where, inside)
    arguments = {k: _inner(room, v, f"{where}.{k}") for k, v in said.items() if k != "class"} | parts
    checked = check(_record(cls), arguments, where)
    return cls(**{k: getattr(checked, k) for k in arguments})


def _inner(room: str, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return made(room, value, where, inside=True)
    return {k: _inner(room, v, f"{where}.{k}") for k, v in value.items()}


def _record(cls: type[Module]) -> type[BaseModel]:
    """The constructor's arguments, as something that checks them."""
    fields: dict[str, Any] = {
        name: (hint, ... if parameter.default is parameter.empty else parameter.default)
        for name, (hint, parameter) in parameters(cls).items()
    }
    settings = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return create_model(cls.__name__, __config__=settings, **fields)


def parameters(cls: type[Module]) -> dict[str, tuple[Any, inspect.Parameter]]:
    """The constructor's arguments with their types."""
    hints = get_type_hints(cls.__init__)
    found = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    own = {k: (hints.get(k, Any), p) for k, p in found.items() if p.kind is not p.VAR_KEYWORD}
    if len(own) == len(found):
        return own
    return {**parameters(accepted("networks")[_OPTIONS_OF[cls.__name__]]), **own}

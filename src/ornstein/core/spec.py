"""Modules that remember how they were made, so that a model can be written as JSON and rebuilt without pickle."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["Module", "build", "suggest"]

ROOMS = ("processes", "spaces", "networks", "denoisers", "objectives", "adapters", "conditions")


def suggest(name: str, known: Iterable[str], what: str) -> str:
    """The message for an unknown name: what was given, the nearest known one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}.{hint} Accepted: {', '.join(map(repr, known)) or 'none'}."


class Module(nn.Module):
    """An nn.Module that records its constructor's arguments; `spec()` gives them as JSON data."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap the subclass's own constructor so that the outermost call is recorded."""
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]

    def spec(self) -> dict[str, Any]:
        """{"class": "room.Name", "arguments": {...}}, which `build` turns back into a module."""
        room = type(self).__module__.removeprefix("ornstein.").split(".")[0]
        arguments = self.__dict__.get("_arguments", {})
        return {"class": f"{room}.{type(self).__name__}", "arguments": _plain(arguments, self)}

    def tell(self, **found: Any) -> None:
        """Set attributes that were left open when it was made, also in what `spec` says of its arguments."""
        arguments = self.__dict__.get("_arguments", {})
        for name, value in found.items():
            setattr(self, name, value)
            arguments.update({name: value} if name in arguments else {})


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)
    variadic = {p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD}

    @functools.wraps(init)
    def recording(self: Module, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()  # so that a default that changes later changes no saved model
            named = {k: v for k, v in list(bound.arguments.items())[1:] if k not in variadic}
            extra = {k: v for name in variadic for k, v in bound.arguments[name].items()}
            object.__setattr__(self, "_arguments", {**named, **extra})
        init(self, *args, **kwargs)

    return recording


def _plain(value: Any, owner: Module) -> Any:
    if isinstance(value, Module):
        return value.spec()
    if isinstance(value, dict):
        return {k: _plain(v, owner) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, owner) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = "a Tensor" if isinstance(value, Tensor) else f"{type(value).__name__}"
    raise ValueError(
        f"{type(owner).__name__} cannot be written as JSON: one of its arguments is {kind}; "
        "save the arrays it was made from instead"
    )


def build(spec: Any) -> Any:
    """The inverse of `Module.spec`. Only public classes of ornstein's own rooms are ever made.

    Raises:
        ValueError: the class is not one of ornstein's, or its arguments do not fit.
    """
    if isinstance(spec, list):
        return [build(v) for v in spec]
    if not isinstance(spec, dict):
        return spec
    if set(spec) != {"class", "arguments"}:
        return {k: build(v) for k, v in spec.items()}
    room, _, name = str(spec["class"]).partition(".")
    if room not in ROOMS:
        raise ValueError(suggest(room, ROOMS, "room in the model's config"))
    module = importlib.import_module(f"ornstein.{room}")
    classes = {
        k: v for k in module.__all__ if isinstance(v := getattr(module, k), type) and issubclass(v, Module)
    }
    if name not in classes:
        raise ValueError(suggest(name, classes, f"class of ornstein.{room}"))
    try:
        return classes[name](**build(spec["arguments"]))
    except TypeError as error:
        raise ValueError(f"config of {spec['class']}: {error}") from error

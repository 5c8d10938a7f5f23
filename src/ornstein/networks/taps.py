"""Activations of a network by name, read while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ornstein.core import suggest

__all__ = ["first_of", "inner_network", "tap_names", "tapped"]


def inner_network(module: nn.Module) -> nn.Module:
    """The network inside wrappers, each of which keeps what it wraps as `denoiser` or `network`; its blocks have the
    stable names. The module itself where it wraps nothing.
    """
    inner: Any = module
    while isinstance(deeper := getattr(inner, "denoiser", getattr(inner, "network", None)), nn.Module):
        inner = deeper
    found: nn.Module = inner
    return found


def tap_names(network: nn.Module) -> list[str]:
    """The stable names of a network's blocks, in the order in which they run.

    `encoder.i`, `middle`, `decoder.i` of a `UNet`; `blocks.i` of the transformers and of `ResidualMLP`. Any other name
    of `named_modules` may be tapped too.
    """
    found: list[str] = []
    for part in ("encoder", "middle", "decoder", "blocks"):
        module = getattr(network, part, None)
        if isinstance(module, nn.ModuleList):
            found += [f"{part}.{i}" for i in range(len(module))]
        elif isinstance(module, nn.Module):
            found.append(part)
    return found


def first_of(output: Any) -> Tensor:
    """A block's output; of a block of two streams (`JointBlock`) that of the first."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@contextmanager
def tapped(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Within the context, what the modules `names` of the `inner_network` gave in its last run, with its graph; of a
    block of two streams what it gave of the first.

    Raises:
        ValueError: a name that is no module of the network.
    """
    network, taken, handles = inner_network(network), {}, []
    modules = dict(network.named_modules())
    wanted = list(names)
    for name in wanted:
        if not name or name not in modules:
            raise ValueError(suggest(name, tap_names(network) or [k for k in modules if k], "module"))

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            taken[name] = first_of(output)

        return keep

    try:
        handles += [modules[name].register_forward_hook(keeper(name)) for name in wanted]
        yield taken
    finally:
        for handle in handles:
            handle.remove()

"""Low-rank adapters, in the layout of `peft`: W x + scale (alpha / rank) B A x beside a frozen W."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import align, suggest

__all__ = ["LowRank", "adapt", "adapter_state", "load_adapter", "scaled"]

CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d
PREFIX = "base_model.model."  # of names in a peft file
_SCALES: ContextVar[Mapping[str, Any]] = ContextVar("scales", default={})  # noqa: B039  it is never changed in place


@contextmanager
def scaled(**scales: Any) -> Iterator[None]:
    """Within the context the adapters of these names have these scales: numbers, or tensors (B,) with one for each
    row; 0 leaves an adapter out, and 1 is the scale of those that are not named.
    """
    token = _SCALES.set({**_SCALES.get(), **scales})
    try:
        yield
    finally:
        _SCALES.reset(token)


def scale_of(name: str) -> Any:
    """The scale of an adapter here and now."""
    return _SCALES.get().get(name, 1.0)


class LowRank(nn.Module):
    """A linear or convolutional layer with named low-rank adapters beside it:

        layer(x) + sum_name scale_name (alpha / rank) B_name A_name x

    A starts as the layer would and B at zero, so that nothing changes before training. For a convolution A has its
    kernel and B is 1x1. Parameters are named as in `peft` (base_layer, lora_A.NAME, lora_B.NAME), and the layer's own
    are frozen. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (arXiv 2106.09685).

    Args:
        layer: nn.Linear, or nn.Conv1d, 2d or 3d in one group.

    Raises:
        ValueError: another layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, (nn.Linear, *CONVOLUTIONS)) or getattr(layer, "groups", 1) != 1:
            raise ValueError(f"layer: expected a linear or an ungrouped convolutional one, got {layer!r}")
        self.added = "low-rank adapters"  # `save_pretrained` says that no config rebuilds them
        self.base_layer = layer.requires_grad_(False)
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.weights: dict[str, float] = {}

    def add(self, name: str, rank: int, alpha: float | None = None) -> LowRank:
        """One more adapter, of weight alpha / rank (1 by default).

        Raises:
            ValueError: the name is taken, or a rank below 1.
        """
        if rank < 1:
            raise ValueError(f"rank: expected an integer of at least 1, got {rank}")
        if name in self.lora_A:
            raise ValueError(f"name: a layer has an adapter {name!r} already; give this one another name")
        inner, outer = _factors(self.base_layer, rank)
        nn.init.kaiming_uniform_(inner.weight, a=math.sqrt(5))
        nn.init.zeros_(outer.weight)
        self.lora_A[name], self.lora_B[name] = inner, outer
        self.weights[name] = 1.0 if alpha is None else alpha / rank
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and what the adapters add to it."""
        y: Tensor = self.base_layer(x)
        for name, weight in self.weights.items():
            scale = scale_of(name)
            if isinstance(scale, Tensor) or scale:
                y = y + align(weight * scale, y) * self.lora_B[name](self.lora_A[name](x))
        return y

    def __getattr__(self, name: str) -> Any:
        """What the layer says of itself: its sizes, its weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def merged(self, name: str = "default") -> nn.Module:
        """The layer with one adapter, at scale 1, added to its weight; a layer of the plain kind."""
        parts: list[Any] = [self.lora_A[name], self.lora_B[name]]
        inner, outer = (part.weight.detach() for part in parts)
        plain: Any = copy.deepcopy(self.base_layer)
        change = torch.einsum("or,r...->o...", outer.flatten(1), inner)
        plain.weight = nn.Parameter(plain.weight.detach() + self.weights[name] * change)
        return plain


def _factors(layer: Any, rank: int) -> tuple[Any, Any]:
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype, "bias": False}
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, rank, **where), nn.Linear(rank, layer.out_features, **where)
    kernel = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    kind = type(layer)
    return kind(layer.in_channels, rank, **kernel, **where), kind(rank, layer.out_channels, 1, **where)


def adapt(
    network: nn.Module,
    targets: Sequence[str],
    rank: int,
    name: str = "default",
    alpha: float | None = None,
) -> list[str]:
    """Freeze a network and give a low-rank adapter to its layers, in place.

    Args:
        network: any module; layers that have adapters already get one more.
        targets: names, or ends of names, of the layers ("qkv", "attention.out", ...), as peft's `target_modules`.
        rank: of the change.
        name: of the adapter.
        alpha: the change is multiplied by alpha / rank; 1 by default.

    Returns:
        The names of the layers, as in a peft file.

    Raises:
        ValueError: a target that no linear or convolutional layer has.
    """
    if isinstance(targets, str):
        raise TypeError(f"targets: expected a sequence of names such as ({targets!r},), got {targets!r}")
    if "." in name:
        raise ValueError(f"name: an adapter's name has no dot, got {name!r}")
    layers = _layers(network)
    found = {t: [k for k in layers if k == t or k.endswith(f".{t}")] for t in targets}
    for target, names in found.items():
        if not names:
            raise ValueError(suggest(target, {k.rpartition(".")[2] for k in layers}, "layer"))
    chosen = sorted({k for names in found.values() for k in names})
    if not adapters_of(network):
        network.requires_grad_(False)
    for path in chosen:
        layer = layers[path]
        whole = layer if isinstance(layer, LowRank) else LowRank(layer)
        whole.add(name, rank, alpha)
        replaced(network, path, whole)
    return chosen


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """Layers that can have an adapter, and those that do, by the name of the plain layer."""
    whole = {k: m for k, m in network.named_modules() if isinstance(m, LowRank)}
    inside = tuple(f"{k}." for k in whole)
    plain = {
        k: m
        for k, m in network.named_modules()
        if isinstance(m, (nn.Linear, *CONVOLUTIONS)) and not k.startswith(inside) and k
    }
    return {**plain, **whole}


def replaced(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path."""
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def adapters_of(network: nn.Module) -> set[str]:
    """Names of the adapters in a network."""
    return {name for m in network.modules() if isinstance(m, LowRank) for name in m.weights}


def adapter_state(network: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """The tensors of one adapter, named as in a peft file: base_model.model.LAYER.lora_A.weight, and B.

    Raises:
        ValueError: the network has no adapter of that name.
    """
    if name not in adapters_of(network):
        raise ValueError(suggest(name, adapters_of(network), "adapter"))
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, LowRank) and name in module.weights:
            for part in ("lora_A", "lora_B"):
                found[f"{PREFIX}{path}.{part}.weight"] = getattr(module, part)[name].weight.detach()
    return found


def load_adapter(network: nn.Module, state: Mapping[str, Tensor], name: str = "default") -> None:
    """Take back what `adapter_state` gave, into an adapter of the same layers and rank.

    Raises:
        ValueError: tensors that do not fit.
    """
    if not adapters_of(network):
        raise ValueError(
            "network: has no adapters to load into; call adapt with the same targets and rank first"
        )
    own = adapter_state(network, name)
    for key in sorted(set(own) ^ set(state)):
        raise ValueError(f"state: {key} is {'missing' if key in own else 'of no layer that has an adapter'}")
    for key, value in state.items():
        if own[key].shape != value.shape:
            raise ValueError(f"state: {key} is {tuple(value.shape)}, the adapter's {tuple(own[key].shape)}")
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)

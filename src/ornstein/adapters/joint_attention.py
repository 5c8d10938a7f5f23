"""A network of one thing made a network of two: both by the same frozen weights, each attending to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ornstein.core import Condition as Record
from ornstein.core import align
from ornstein.networks import SelfAttention
from ornstein.networks.around import Around
from ornstein.networks.attention import Mask, attend
from ornstein.networks.norms import zeroed

from .low_rank import adapt, replaced, scale_of, scaled

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["JointAttention"]

OWN, FIRST, SECOND = "second", "to_first", "to_second"


class JointAttention(Around):
    """A pretrained network as a joint one of two streams x and y (UniCon, Li et al. 2024, 2410.11439).

    x and y pass as 2B rows of the one frozen network, each with its own noise level. To the self-attention of every
    block is added

        join([attention(q = x, kv = y), attention(q = y, kv = x)])

    the frozen projections adapted by low-rank changes, one set for each direction, and `join` a linear map of both
    outputs that starts at zero: so it starts as two independent copies of the network. The second stream, which the
    network has not seen, has a low-rank change of its own in the layers named by `targets`.

    The condition field `joint` (B,) scales what is added: at 0 the rows are separate, which `guides.JointSeparate`
    uses. Where the field is absent it is 1.

    Args:
        network: network(x, level, condition) with `networks.SelfAttention` in it, changed in place and frozen.
        streams: names of the two leaves, of one shape.
        rank: of all low-rank changes.
        targets: ends of the names of the layers in which the second stream has its own change; () for none.

    Raises:
        ValueError: a network without self-attention, or not two streams.
    """

    def __init__(
        self,
        network: nn.Module,
        streams: Sequence[str] = ("image", "map"),
        rank: int = 8,
        targets: Sequence[str] = ("qkv", "attention.out"),
    ) -> None:
        super().__init__(network.requires_grad_(False))
        if len(streams) != 2 or streams[0] == streams[1]:
            raise ValueError(f"streams: expected two different names, got {list(streams)}")
        places = [k for k, m in network.named_modules() if isinstance(m, SelfAttention)]
        if not places:
            raise ValueError(
                f"network: {type(network).__name__} has no SelfAttention for the streams to meet in; a UNet has with "
                "attention=[...]"
            )
        if targets:
            adapt(self.network, targets, rank, OWN)
        for place in places:
            replaced(self.network, place, _Joint(self.network.get_submodule(place), rank))
        self.streams = tuple(streams)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return super().fields | {"joint"}

    def forward(
        self,
        x: dict[str, Tensor],
        level: dict[str, Tensor],
        condition: Condition | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """{stream: (B, C, ...)} -> the same, for levels {stream: (B,)}."""
        first, second = (x[s] for s in self.streams)
        if first.shape != second.shape:
            raise ValueError(f"x: expected streams of one shape, got {first.shape} and {second.shape}")
        joint, both = _taken(condition, first)
        is_second = torch.cat([torch.zeros_like(joint), torch.ones_like(joint)])
        with scaled(
            joint=torch.cat([joint, joint]), **{OWN: is_second, FIRST: 1 - is_second, SECOND: is_second}
        ):
            levels = torch.cat([level[s] for s in self.streams])
            output: Tensor = self.network(torch.cat([first, second]), levels, both, **options)
        return dict(zip(self.streams, output.chunk(2), strict=True))


def _taken(condition: Condition | None, x: Tensor) -> tuple[Tensor, Condition | None]:
    """The scale of what joins the streams, (B,), and the rest of the condition for both streams."""
    ones = x.new_ones(len(x))
    if not condition:
        return ones, None
    joint = ones
    if "joint" in condition:
        joint = torch.where(condition.present["joint"], condition["joint"].to(x), ones)
    rest = condition.without("joint")
    return joint, Record.cat([rest, rest]) if rest else None


class _Joint(nn.Module):
    """Self-attention of 2B rows, with the attention of each stream to the other added to it."""

    def __init__(self, attention: nn.Module, rank: int) -> None:
        super().__init__()
        inner: Any = attention
        self.attention = inner
        for direction in (FIRST, SECOND):
            adapt(inner, ("qkv", "out"), rank, direction)
        width = inner.out.base_layer.in_features
        self.join = zeroed(nn.Linear(2 * width, 2 * width))

    def forward(
        self, x: Tensor, mask: Mask | None = None, positions: Tensor | None = None, cache: None = None
    ) -> Tensor:
        """(2B, L, width) to the same; the streams share their positions."""
        if cache is not None:
            raise ValueError("cache: joint attention reads whole streams; run the network without a cache")
        with scaled(**{FIRST: 0.0, SECOND: 0.0}):
            own: Tensor = self.attention(x, mask, positions)
        return own + align(scale_of("joint"), own) * self._joined(x, positions)

    def _joined(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Each stream's queries among the other's keys and values; then both outputs mixed."""
        with scaled(**{OWN: 0.0}):
            q, _, _ = self.attention.split(x, positions)
            _, k, v = self.attention.split(torch.cat(x.chunk(2)[::-1]), positions)
            met = self.attention.merge(attend(q, k, v))
        joined = self.join(torch.cat(met.chunk(2), dim=-1))
        return torch.cat(joined.chunk(2, dim=-1))

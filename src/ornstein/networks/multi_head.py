"""One network with further outputs: a head each, that reads features on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module, suggest

from .around import Around
from .checks import check_positive
from .norms import group_norm, zeroed
from .taps import inner_network, tap_names, tapped

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["MapHead", "MultiHead", "PooledHead"]


class PooledHead(Module):
    """A vector read off a map: W_2 silu(W_1 mean over positions of norm(h)); starts at zero.

    Args:
        features: channels of the map.
        outputs: entries of the vector, such as logits of classes.
        width: features inside; `features` if None.
    """

    def __init__(self, features: int, outputs: int, width: int | None = None) -> None:
        super().__init__()
        check_positive(features=features, outputs=outputs, width=width)
        self.norm = group_norm(features)
        self.inner = nn.Linear(features, width or features)
        self.out = zeroed(nn.Linear(width or features, outputs))

    def forward(self, h: Tensor) -> Tensor:
        """(B, features, ...) -> (B, outputs)."""
        return self.out(F.silu(self.inner(self.norm(h).flatten(2).mean(2))))


class MapHead(Module):
    """A map read off a map of the same size: conv(silu(conv(silu(norm(h))))); starts at zero.

    Args:
        features: channels of the map that is read.
        outputs: channels of the map that is made.
        dims: axes of space, 1, 2 or 3.
    """

    def __init__(self, features: int, outputs: int, dims: int = 2) -> None:
        super().__init__()
        check_positive(features=features, outputs=outputs)
        conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.norm = group_norm(features)
        self.inner = conv(features, features, 3, padding=1)
        self.out = zeroed(conv(features, outputs, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        """(B, features, ...) -> (B, outputs, ...)."""
        return self.out(F.silu(self.inner(F.silu(self.norm(h)))))


class MultiHead(Around):
    """A network and heads that read its features: {"state": network(x, level, condition), name: head(features)}.

    The features are what the module `taps[name]` of the network gave in the same pass ("middle" of a `UNet`,
    "blocks.3" of a transformer). One backbone with one decoder for each modality: MT-Diffusion (Chen et al. 2024,
    2407.17571).

    Args:
        backbone: network(x, level, condition), whose output is that of the state.
        heads: {name: module}, features to output.
        taps: {name: module of the backbone}, or one for all.

    Raises:
        ValueError: no heads, one named "state", or a module that the backbone has not.
    """

    def __init__(self, backbone: nn.Module, heads: dict[str, nn.Module], taps: Any = "middle") -> None:
        super().__init__(backbone)
        if not heads or "state" in heads:
            raise ValueError(f"heads: expected at least one, none of them named 'state'; got {sorted(heads)}")
        self.heads = nn.ModuleDict(heads)
        self.taps = dict(taps) if isinstance(taps, dict) else dict.fromkeys(heads, taps)
        inner = inner_network(backbone)
        modules = dict(inner.named_modules())
        for tap in self.taps.values():
            if tap not in modules:
                raise ValueError(suggest(tap, tap_names(inner), "module"))

    @property
    def backbone(self) -> nn.Module:
        """The network that the heads read."""
        found: nn.Module = self.network
        return found

    def forward(
        self, x: Tensor, level: Tensor, condition: Condition | None = None, **options: Any
    ) -> dict[str, Tensor]:
        """The backbone's output as "state", and every head's."""
        with tapped(self.network, set(self.taps.values())) as features:
            state = self.network(x, level, condition, **options)
        return {"state": state, **{k: head(features[self.taps[k]]) for k, head in self.heads.items()}}

"""One network for two states of the same thing, each seen beside the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ornstein.core import suggest

from .around import Around
from .checks import check_level

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["Paired"]


class Paired(Around):
    """Both sides of a consecutive bridge by one network,

        F_a = network([x_a, x_b, y_a, y_b], level_a),        F_b = network([x_b, x_a, y_b, y_a], level_b)

    where x_a and x_b are the leaves of the state and y_a and y_b the condition fields of the same names. Both sides
    pass in one call, of twice as many rows; exchanging the sides exchanges the outputs, exactly.

    Lyu et al., "Frame Interpolation with Consecutive Brownian Bridge Diffusion", 2024 (arXiv 2405.05953) tell the
    side by the sign of the time instead.

    Args:
        network: of four times as many channels in as out, such as `UNet(4, out_channels=1)` for grey frames.
        sides: names of the two leaves.

    Raises:
        ValueError: a network that does not fit, or not two sides.
    """

    def __init__(self, network: nn.Module, sides: Sequence[str] = ("previous", "next")) -> None:
        super().__init__(network)
        if len(sides) != 2 or sides[0] == sides[1]:
            raise ValueError(f"sides: expected two different names, got {list(sides)}")
        seen = self.network.channels
        if seen % 4:
            raise ValueError(
                f"network: sees {seen} channels; needed are 4 times those of a state: both and their ends"
            )
        self.sides = tuple(sides)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return frozenset(self.sides)

    def forward(
        self,
        x: dict[str, Tensor],
        level: dict[str, Tensor],
        condition: Condition | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """{side: (B, C, ...)} -> the same, for levels {side: (B,)}."""
        a, b = self.sides
        for side in self.sides:
            if condition is None or side not in condition:
                raise ValueError(suggest(side, condition or (), "condition field"))
            check_level(level[side], len(x[a]), f"level[{side!r}]")
        y = {side: condition[side].to(x[side]) for side in self.sides}  # type: ignore[index]
        rows = torch.cat([torch.cat([x[i], x[j], y[i], y[j]], 1) for i, j in ((a, b), (b, a))])
        one, other = self.network(rows, torch.cat([level[a], level[b]]), **options).chunk(2)
        return {a: one, b: other}

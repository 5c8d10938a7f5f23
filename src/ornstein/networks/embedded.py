"""A vector as condition: an embedding added to what modulates a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .around import Around
from .blockwise import BlockwiseTransformer
from .checks import check_positive

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["Embedded"]


class WithVector(nn.Module):
    """A network's conditioning vector plus a linear map of a condition field."""

    def __init__(self, conditioning: nn.Module, features: int, field: str) -> None:
        super().__init__()
        inner: Any = conditioning
        self.conditioning, self.field, self.width = inner, field, inner.width
        self.vector = nn.Linear(features, inner.width)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.conditioning.fields | {self.field}

    def forward(self, level: Tensor, condition: Condition | None = None) -> Tensor:
        """(B,) levels -> (B, width)."""
        c: Tensor = self.conditioning(level, condition)
        given = c.new_zeros(len(c), self.vector.in_features)
        if condition is not None and self.field in condition:
            given = condition[self.field].to(c) * condition.present[self.field].to(c).unsqueeze(1)
        return c + self.vector(given)


class Embedded(Around):
    """A network that also reads a vector (B, features): c <- c + W e + b.

    Rows without one see the vector 0, and so b, as in Graikos et al. 2023 (arXiv 2312.07330). The vector may be of any
    encoder: a self-supervised one, a text's, an audio clip's.

    Args:
        network: with a `conditioning` of levels and labels: `UNet`, `ResidualMLP`, the transformers.
        features: entries of the vector.
        field: the condition field that holds it.

    Raises:
        ValueError: a network without such a part, or one with a vector for each block of its state.
    """

    def __init__(self, network: nn.Module, features: int, field: str = "embedding") -> None:
        super().__init__(network)
        check_positive(features=features)
        if not hasattr(self.network, "conditioning"):
            raise ValueError(f"network: {type(network).__name__} has no `conditioning` to add a vector to")
        if isinstance(network, BlockwiseTransformer):
            raise ValueError(
                "network: a BlockwiseTransformer has a conditioning vector for each block and none to add to; expected "
                "a UNet, ResidualMLP, SequenceTransformer or Transformer"
            )
        self.network.conditioning = WithVector(self.network.conditioning, features, field)

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None, **options: Any) -> Tensor:
        """As the network's own."""
        output: Tensor = self.network(x, level, condition, **options)
        return output

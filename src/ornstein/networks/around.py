"""Networks around a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from ornstein.core import Module

__all__ = ["Around"]


class Around(Module):
    """A network around another: what it reads, and what its parts report, are the inner one's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        inner: Any = network
        self.network = inner

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return frozenset(self.network.fields)

    @property
    def labels(self) -> int | None:
        """Number of labels that a condition may hold."""
        return getattr(self.network, "labels", None)

    @property
    def reports(self) -> bool:
        """Whether parts of it report losses, so that it takes `collect`."""
        return getattr(self.network, "reports", False)

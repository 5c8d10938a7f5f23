"""Features of a network's layer, place by place."""

from __future__ import annotations

from torch import Tensor

__all__ = ["places"]


def places(h: Tensor, channels: int, of: str, tokens: bool = False) -> Tensor:
    """Features as (B, L, channels): a vector (B, C) is one place, a map (B, C, ...) has one for each position.

    Args:
        h: the features.
        channels: how many the argument `features` of a term has promised.
        of: whose they are, for the message.
        tokens: whether h is (B, L, C), unless it is vectors.

    Raises:
        ValueError: another number of channels.
    """
    found = h.unsqueeze(1) if h.ndim == 2 else h if tokens else h.flatten(2).transpose(1, 2)
    if found.shape[2] != channels:
        kind = "tokens (B, L, C)" if tokens else "maps (B, C, ...)"
        raise ValueError(
            f"features: expected {channels} channels of {of}, which gives {found.shape[2]}: {tuple(h.shape)}, "
            f"read as {kind}"
        )
    return found

"""What a denoiser's network sees in a picture: named activations at a chosen noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import Condition, Denoiser, Guided, Keyed, Noise, Time, Tree, batch_size, select
from ..networks.taps import inner_network, tap_names, tapped
from .clock import condition_of

__all__ = ["feature_names", "feature_network", "features", "pool", "pooled_features"]

CHUNK = 256  # samples a network call


def feature_network(denoiser: Denoiser) -> nn.Module:
    """The network inside guides, conversions, averages and wrappers, whose blocks have the stable names.

    Raises:
        ValueError: there is none, as of an exact denoiser.
    """
    found = inner_network(denoiser)
    if isinstance(found, Denoiser):
        raise ValueError(f"denoiser: {type(found).__name__} has no network to tap")
    return found


def feature_names(denoiser: Denoiser) -> list[str]:
    """Names that `features` takes, in the order in which the blocks run: `encoder.0`, `middle`, `blocks.3`, ..."""
    return tap_names(feature_network(denoiser))


@torch.no_grad()
def features(
    denoiser: Denoiser,
    x_0: Tree,
    t: Time,
    names: Sequence[str] | None = None,
    noise: Noise | None = None,
    condition: Condition | None = None,
    **fields: Any,
) -> dict[str, Tensor]:
    """Noise x_0 to the level t, run the network once, and give what its blocks `names` computed.

    Guides are taken off first, so that it is one pass and theirs is no business of the network's. A function of
    (x_0, t, noise) alone: row i is the same in any batch. Without a condition a class-conditional model uses its null
    label, so that labels cannot leak.

    Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023 (arXiv 2307.08702).

    Args:
        denoiser: any that has a network inside.
        x_0: clean states (B, ...).
        t: noise level as the process's time, in [0, 1], a number or (B,).
        names: of blocks; all of `feature_names` by default.
        noise: the source of the noise; seed 0 by default.
        condition: a ready Condition told to the model, in place of fields.
        **fields: condition fields, as in sampling: label=3, or one for each row.

    Returns:
        name -> activations (B, ...), unpooled.

    Raises:
        TypeError: one name in place of a sequence of names, or a field that the model does not take.
        ValueError: no network, or a name that is none of its modules.
    """
    if isinstance(names, str):
        raise TypeError(f"names: expected a sequence of names such as ({names!r},), got {names!r}")
    while isinstance(denoiser, Guided):
        denoiser = denoiser.denoiser
    network = feature_network(denoiser)
    condition = condition_of(denoiser, x_0, condition, fields) if fields else condition
    source = Keyed(0, batch_size(x_0)) if noise is None else noise
    with tapped(network, tap_names(network) if names is None else names) as taken:
        denoiser(denoiser.process.marginal(x_0, t, condition).sample(source), t, condition)
    return dict(taken)


def pool(x: Tensor, size: int = 1, tokens: bool = False) -> Tensor:
    """Activations as vectors: the mean over all places, or over each cell of a grid of `size` cells a side.

    Args:
        x: maps (B, C, ...) of 1, 2 or 3 axes of space; or tokens (B, L, C) where `tokens` is true; vectors (B, C)
            stay as they are.
        size: cells a side, so C size^d numbers are left. 1 is the plain mean.
        tokens: whether the places lie in front of the channels.

    Raises:
        ValueError: a size below 1, or more cells than places.
    """
    x = x.transpose(1, 2) if tokens and x.ndim == 3 else x
    if x.ndim == 2:
        return x
    if size < 1 or size > min(x.shape[2:]):
        raise ValueError(f"size: expected 1 to {min(x.shape[2:])} cells a side, got {size}")
    if size == 1:
        return x.flatten(2).mean(2)
    adaptive = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[x.ndim - 3]
    return adaptive(x, size).flatten(1)


def pooled_features(
    denoiser: Denoiser,
    x_0: Tensor,
    t: float,
    names: Sequence[str] | None = None,
    noise: Noise | None = None,
    size: int = 1,
) -> dict[str, Tensor]:
    """`features` of a whole data set, pooled, some hundred samples a call: name -> (N, F)."""
    source = Keyed(0, len(x_0)) if noise is None else noise
    found: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(x_0)).split(CHUNK):
        for name, value in features(denoiser, select(x_0, rows), t, names, source[rows]).items():
            cells = min(size, *value.shape[2:]) if value.ndim > 2 else 1
            found.setdefault(name, []).append(pool(value, cells, name.startswith("blocks.")))
    return {name: torch.cat(parts) for name, parts in found.items()}

"""Where a mixture of experts sends its tokens, and what that depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import Condition, Denoiser, Time
from ..networks import MoE
from ..networks.taps import inner_network, tapped

__all__ = ["mutual_information", "routing"]


@torch.no_grad()
def routing(denoiser: Denoiser, x: Tensor, t: Time, condition: Condition | None = None) -> Tensor:
    """Which experts every token of the states x_t passes, (layers, B, L, k), likeliest first.

    Raises:
        ValueError: the denoiser's network has no mixture of experts.
    """
    network = inner_network(denoiser)
    layers = {f"{name}.router": m for name, m in network.named_modules() if isinstance(m, MoE)}
    if not layers:
        raise ValueError(f"denoiser: {type(network).__name__} has no mixture of experts")
    with tapped(denoiser, layers) as logits:
        denoiser(x, t, condition)
    chosen = [logits[name].topk(moe.chosen, dim=-1).indices for name, moe in layers.items()]
    return torch.stack([c.unflatten(0, (len(x), -1)) for c in chosen])


def mutual_information(a: Tensor, b: Tensor, permutations: int = 20, seed: int = 0) -> float:
    """I(a; b) in nats of pairs of integers (N,), less its mean over permutations of b.

    The plug-in estimate is biased upwards by about (|a| - 1)(|b| - 1) / 2N, so that estimates with different numbers of
    values cannot be compared; the permutations, under which nothing depends on b, have the same bias.
    """
    generator = torch.Generator().manual_seed(seed)
    null = [_plug_in(a, b[torch.randperm(len(b), generator=generator)]) for _ in range(permutations)]
    return _plug_in(a, b) - sum(null) / len(null)


def _plug_in(a: Tensor, b: Tensor) -> float:
    columns = int(b.max()) + 1
    counts = torch.bincount(a * columns + b, minlength=(int(a.max()) + 1) * columns).view(-1, columns)
    joint = counts.double() / len(a)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / independent[seen]).log()).sum())

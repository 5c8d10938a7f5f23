"""A network conditioned on its own pooled features, from one block on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ornstein.core import suggest

from .around import Around
from .checks import check_positive
from .embedding import LevelEmbedding
from .norms import zeroed
from .taps import first_of, tap_names

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["FeatureConditioned"]


class FeatureConditioned(Around):
    """The self-conditioning of DDAE++ around any network of blocks:

        c <- c + (1 + gain(level)) * W norm(pool(h)),        h the output of block `at`,

    for all later blocks, with c what they are given: the conditioning vector of transformers and of `ResidualMLP`, its
    silu in a `UNet`, which takes that once for all blocks. W starts at zero, so that the network starts as it was.
    Xiang et al. 2025 (arXiv 2505.10999) pool globally and scale by time; the exact form of their scale is not public,
    and this one is a choice. It is not the "self-conditioning" of 2208.04202, which feeds back an estimate of x_0.

    Args:
        network: whose blocks `encoder.i`, `middle`, `decoder.i` or `blocks.i` take (h, c): `UNet` and the transformers.
        at: the block to read; a middle one of the decoding half, or a middle transformer block, suits.
        features: channels of that block's output.

    Raises:
        ValueError: no such block, none after it, another number of channels, or a token-wise c (a block-causal mask),
            into which pooling over all tokens would leak the future.
    """

    def __init__(self, network: nn.Module, at: str, features: int) -> None:
        super().__init__(network)
        check_positive(features=features)
        names = tap_names(network)
        if at not in names[:-1]:
            raise ValueError(suggest(at, names[:-1], "block with others after it"))
        self.at, self.later = at, tuple(names[names.index(at) + 1 :])
        width = self.network.conditioning.width
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.project = zeroed(nn.Linear(features, width))
        self.gain = LevelEmbedding(width)

    def pooled(self, h: Tensor) -> Tensor:
        """The features (B, features) that `at` offers: the mean over all places."""
        tokens = self.at.startswith("blocks.")
        places = h.unsqueeze(1) if h.ndim == 2 else h if tokens else h.flatten(2).transpose(1, 2)
        if places.shape[2] != self.project.in_features:
            raise ValueError(
                f"features: block {self.at!r} gives {places.shape[2]}, not {self.project.in_features}"
            )
        return places.mean(1)

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None, **options: Any) -> Tensor:
        """As the network's own."""
        added: list[Tensor] = []

        def read(module: nn.Module, given: Any, output: Any) -> None:
            pooled = self.norm(self.pooled(first_of(output)))
            added.append((1 + self.gain(level)) * self.project(pooled))

        def steer(module: nn.Module, given: Any) -> Any:
            h, c, *rest = given
            return h, c + _shaped(added[-1], c), *rest

        blocks = dict(self.network.named_modules())
        handles = [blocks[self.at].register_forward_hook(read)]
        handles += [blocks[name].register_forward_pre_hook(steer) for name in self.later]
        try:
            output: Tensor = self.network(x, level, condition, **options)
        finally:
            for handle in handles:
                handle.remove()
        return output


def _shaped(vector: Tensor, c: Tensor) -> Tensor:
    if c.ndim == 3 and c.shape[1] != 1:
        raise ValueError(
            f"FeatureConditioned: {c.shape[1]} conditioning vectors a sample; one pooled over all tokens would "
            "leak the future to the earlier ones"
        )
    return vector.reshape(vector.shape[:1] + (1,) * (c.ndim - 2) + vector.shape[1:])

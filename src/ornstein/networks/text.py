"""Towers for texts, and a text tower beside an image tower."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .block import Block
from .checks import check_positive

__all__ = ["TextImage", "TextTransformer", "causal"]

HOTTEST = 100.0  # most that similarities are multiplied by (2103.00020, section 2.5)


def causal(query: Tensor, key: Tensor) -> Tensor:
    """Whether a token reads another: itself and those before it."""
    return key <= query


def held(x: Tensor, most: float) -> Tensor:
    """min(x, most), for a parameter. Above the limit a gradient still leads back, and none leads further, so that a
    parameter is not caught there as behind a clamp; CLIP cuts the parameter itself after each step.
    """
    found = x - (x - most).clamp(min=0).detach()
    if found.requires_grad:
        found.register_hook(lambda slope: torch.where(x.detach() > most, slope.clamp(min=0), slope))
    return found


class TextTransformer(Module):
    """A causal transformer over the tokens of a text: the text tower of CLIP (Radford et al. 2021, 2103.00020), small.

    Learned positions, `depth` pre-norm blocks (`blocks.i`, with attention modules to attach hooks to), a last norm.
    Token i is told of the tokens before it only, so padding behind a text changes nothing, and the end token has read
    all of it: `pool` gives its features through a linear layer.

    Args:
        vocabulary: how many ids there are, `Tokeniser.size`.
        length: L, tokens of a row.
        width: D, features of a token, before and after.
        depth: number of blocks.
        heads: attention heads, a divisor of `width`.
        code: P, entries of the pooled vector; `width` if None.

    Raises:
        ValueError: an argument out of range; embeddings of another shape.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int = 32,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        code: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(vocabulary=vocabulary, length=length, width=width, depth=depth, heads=heads, code=code)
        self.vocabulary, self.length, self.features = vocabulary, length, width
        self.table = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, None) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, code or width, bias=False)
        nn.init.normal_(self.table.weight, std=0.1)

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the table, (B, L, width)."""
        return self.table(ids)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, L, width), each told of those before it; zeros where the mask (B, L) is false. Rows may be cut
        shorter than `length`.
        """
        length = embeddings.shape[1]
        if length > self.length or embeddings.shape[2:] != (self.features,):
            raise ValueError(
                f"embeddings: expected (B, {self.length}, {self.features}), got {tuple(embeddings.shape)}"
            )
        h = embeddings + self.positions[:length]
        for block in self.blocks:
            h = block(h, None, mask=causal)
        return self.norm(h) * mask[..., None]

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The end token's features through a linear layer, (B, P)."""
        end = mask.sum(1) - 1
        return self.head(tokens[torch.arange(len(tokens), device=tokens.device), end])


class TextImage(Module):
    """A text and an image as vectors of one space, and how well they fit: CLIP (Radford et al. 2021, 2103.00020),

        s(x, w) = e^a <f(x), g(w)>,        f, g of unit length, a learned, e^a at most 100

    `objectives.TextImageMatching` trains it, as a `denoisers.Matcher`. A text's vector is the encoder's "pooled" one.

    Args:
        text: ids (B, L) -> {"pooled": (B, P), ...}, such as `conditions.TextEncoder`.
        image: images (B, C, H, W) -> (B, P), such as `Encoder(3, P)`.
        temperature: e^-a at the start, above 0.01.

    Raises:
        ValueError: a temperature that is not a finite number above 0.01.
    """

    def __init__(self, text: nn.Module, image: nn.Module, temperature: float = 0.07) -> None:
        super().__init__()
        if not 1 / HOTTEST < temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number above {1 / HOTTEST}, got {temperature}")
        self.text: Any = text
        self.image: Any = image
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def scale(self) -> Tensor:
        """e^a, at most 100."""
        return held(self.log_scale, math.log(HOTTEST)).exp()

    def of_texts(self, ids: Tensor) -> Tensor:
        """g: unit vectors (B, P) of ids (B, L)."""
        return F.normalize(self.text(ids)["pooled"])

    def of_images(self, x: Tensor) -> Tensor:
        """f: unit vectors (B, P) of images."""
        return F.normalize(self.image(x))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """How well each image fits each text, s of all pairs, (images, texts)."""
        return self.scale * self.of_images(x) @ self.of_texts(ids).T

"""What enters a network beside its state (the level, labels, token ids), as vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import heads_for
from .block import Block
from .norms import zeroed

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = [
    "Conditioning",
    "LabelEmbedding",
    "LevelEmbedding",
    "TextTokens",
    "TokenEmbedding",
    "sinusoid",
    "text_tokens",
]

LEVEL_LIMIT = 20.0
SLOWEST, FASTEST = 0.1, 5.0  # radians a unit of level


def sinusoid(level: Tensor, width: int) -> Tensor:
    """Cosines and sines of a level at geometric frequencies between 0.1 and 5 radians a unit.

    The slowest is monotone over the usual range of [-10, 10] (half log-SNR or log-odds); the fastest is
    slow enough for a network to be smooth in the level, on which high-order solvers rely. Levels beyond
    -20 and 20 are read as -20 and 20, so that infinite ones (pure noise, pure data) are legal.

    Args:
        level: (B,) floats.
        width: an even number of features.

    Returns:
        (B, width), in float32 or in the level's own precision if that is higher.
    """
    level = level.to(torch.promote_types(level.dtype, torch.float32)).clamp(-LEVEL_LIMIT, LEVEL_LIMIT)
    exponents = torch.linspace(
        math.log(SLOWEST), math.log(FASTEST), width // 2, dtype=level.dtype, device=level.device
    )
    angles = level[..., None] * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LevelEmbedding(nn.Module):
    """A noise level as a vector: W_2 silu(W_1 sinusoid(level)); (B,) -> (B, width)."""

    def __init__(self, width: int, features: int = 64) -> None:
        super().__init__()
        self.features = features
        self.inner = nn.Linear(features, width)
        self.outer = nn.Linear(width, width)

    def forward(self, level: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        waves = sinusoid(level, self.features).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(waves)))


class TokenEmbedding(nn.Embedding):
    """Vectors of `vocabulary` tokens, for ids or for soft rows.

    Ids (...) give rows of the table; soft rows (..., vocabulary) give weighted sums of them, so that one-hot
    rows equal ids, and gradients with respect to the rows exist.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) integers or (..., vocabulary) floats -> (..., width).

        Raises:
            ValueError: soft rows of another length.
            IndexError: an id outside 0..vocabulary-1.
        """
        if not tokens.is_floating_point():
            return super().forward(tokens)
        if tokens.shape[-1:] != (self.num_embeddings,):
            raise ValueError(
                f"soft rows: expected {self.num_embeddings} weights in the last axis, got shape "
                f"{tuple(tokens.shape)} of {tokens.dtype}; ids are integers"
            )
        return tokens.to(self.weight.dtype) @ self.weight


class LabelEmbedding(nn.Module):
    """A class label as a vector, with a learned vector for "no label".

    Row i is the vector of `condition["label"][i]` where `condition.present["label"][i]`, and the null
    vector elsewhere; without the field, or without a condition, every row is null. Labels are ids (B,) in
    0..labels-1, or soft rows (B, labels).
    """

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.table = TokenEmbedding(labels, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, condition: Condition | None, batch: int) -> Tensor:
        """(B, width) for a batch of `batch` samples."""
        if condition is None or "label" not in condition:
            return self.null.expand(batch, -1)
        present = condition.present["label"]
        return torch.where(present[:, None], self.table(condition["label"]), self.null)


class TextTokens(nn.Module):
    """Tokens of a text (or of anything that comes as a sequence of vectors) for attention, with one learned token
    for "no text".

    Row i holds `condition["text"][i]` through a linear layer where `condition.present["text"][i]`, and the null token
    elsewhere. The field is (B, S, features), or {"tokens": (B, S, features), "mask": (B, S)} where texts differ in
    length; the mask is of booleans or of 0 and 1, and a text of which it shows nothing is no text.

    With a depth, the tokens first read each other in both directions, in transformer blocks that start as the identity
    and are trained with the network: what a frozen encoder leaves out, which object a word belongs to for one, can be
    made up for there (the token refiner of HunyuanVideo, 2412.03603, without its dependence on the level).

    Args:
        features: of a token as it is given.
        width: of a token as it leaves.
        depth: blocks among tokens, of the width `features`.
    """

    def __init__(self, features: int, width: int, depth: int = 0) -> None:
        super().__init__()
        self.features = features
        self.blocks = nn.ModuleList(Block(features, heads_for(features), None) for _ in range(depth))
        block: Any
        for block in self.blocks:
            zeroed(block.attention.out)
            zeroed(block.ffn[-1])
        self.inner = nn.Linear(features, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, condition: Condition | None, batch: int) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, S, width) and their mask (B, S), or None; S is 1 without a text.

        A row without a text shows one token, however long the other rows' texts are.

        Raises:
            ValueError: vectors of another length.
        """
        if condition is None or "text" not in condition:
            return self.null.expand(batch, 1, -1), None
        given, present = condition["text"], condition.present["text"][:, None]
        given, shown = (given["tokens"], given["mask"]) if isinstance(given, dict) else (given, None)
        if given.ndim != 3 or given.shape[-1] != self.features:
            raise ValueError(f"text: expected (B, S, {self.features}), got {tuple(given.shape)}")
        first = torch.arange(given.shape[1], device=present.device) == 0
        shown = torch.ones_like(present) if shown is None else shown.bool()
        present = present & shown.any(1, keepdim=True)
        mask = torch.where(present, shown, first)
        told = given.to(self.null.dtype)
        for block in self.blocks:
            told = block(told, None, mask=mask[:, None, None])
        return torch.where(present[..., None], self.inner(told), self.null), mask


def text_tokens(features: int | None, width: int, depth: int = 0) -> TextTokens | None:
    """What reads a network's text: `TextTokens`, or None where there is no text.

    Raises:
        ValueError: a negative depth, or blocks among the tokens of no text.
    """
    if depth < 0:
        raise ValueError(f"text_depth: expected 0 or more, got {depth}")
    if features is None and depth:
        raise ValueError("text_depth: needs a text; give the features of its tokens as `text`")
    return None if features is None else TextTokens(features, width, depth)


class Conditioning(nn.Module):
    """The one vector that modulates a network: level embedding + label embedding.

    A network with more to say (a second level, say) adds its own vectors to the result.

    Args:
        width: features of the vector.
        labels: number of class labels, or None.
    """

    def __init__(self, width: int, labels: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.level = LevelEmbedding(width)
        self.label = None if labels is None else LabelEmbedding(labels, width)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads: {"label"} or none."""
        return frozenset() if self.label is None else frozenset({"label"})

    def forward(self, level: Tensor, condition: Condition | None = None) -> Tensor:
        """(B,) levels -> (B, width)."""
        c = self.level(level)
        return c if self.label is None else c + self.label(condition, len(c))

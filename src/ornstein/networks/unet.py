"""One U-Net for signals, images and volumes: the same class in 1, 2 and 3 dimensions."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module, suggest

from .attention import CrossAttention, SelfAttention, heads_for
from .checks import check_level, check_positive
from .embedding import Conditioning, text_tokens
from .norms import group_norm, zeroed
from .patches import folded, unfolded
from .rotary import grid_positions, waves

if TYPE_CHECKING:
    from ornstein.core import Condition

__all__ = ["ResidualBlock", "SpatialAttention", "Stage", "UNet"]

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


class ResidualBlock(nn.Module):
    """A convolutional block at one resolution, modulated by a conditioning vector.

        h = conv(silu(norm(x)));  x + conv(silu((1 + scale(c)) norm(h) + shift(c)))

    The second convolution starts at zero, so that the block starts as the identity; dropout acts before it.
    """

    def __init__(self, width: int, conditioning: int, dims: int, dropout: float = 0.0) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.norm_in = group_norm(width)
        self.conv_in = conv(width, width, 3, padding=1)
        self.film = nn.Linear(conditioning, 2 * width)
        self.norm_out = group_norm(width, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(conv(width, width, 3, padding=1))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, width, ...) and (B, conditioning) -> (B, width, ...)."""
        h = self.conv_in(F.silu(self.norm_in(x)))
        film = self.film(c)
        shift, scale = film.reshape(film.shape + (1,) * (x.ndim - 2)).chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm_out(h), 1 + scale))
        return x + self.conv_out(self.dropout(h))


class SpatialAttention(nn.Module):
    """x + self-attention among all positions of a map (B, width, ...), and attention of those positions to a text's
    tokens where there is one; starts as the identity.

    Args:
        width: channels of the map.
        text: features of the text's tokens, or None.
        positions: whether a linear map of `waves` of a position is added to what queries, keys and values of the
            self-attention and queries of the attention to the text are made of; what is read is added to x alone.
    """

    def __init__(self, width: int, text: int | None = None, positions: bool = False) -> None:
        super().__init__()
        heads = heads_for(width)
        self.norm = group_norm(width)
        self.attention = SelfAttention(width, heads)
        zeroed(self.attention.out)
        self.cross = None if text is None else CrossAttention(width, heads, text)
        if self.cross is not None:
            zeroed(self.cross.out)
        self.place = zeroed(nn.Linear(width, width, bias=False)) if positions else None

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """(B, width, ...) to the same, for a text of tokens (B, S, features) and their mask (B, S)."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        if self.place is not None:
            tokens = tokens + self.place(waves(grid_positions(x.shape[2:], x.device), x.shape[1]).to(tokens))
        read = self.attention(tokens)
        if self.cross is not None and text is not None:
            read = read + self.cross(tokens, text[0], None if text[1] is None else text[1][:, None, None])
        return x + read.transpose(1, 2).reshape(x.shape)


class Skipped(nn.Module):
    """Stands for a residual block that is left out: the identity."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """`x`."""
        return x


class Stage(nn.Module):
    """The residual blocks of one resolution, each followed by self-attention where the level has it."""

    def __init__(
        self,
        width: int,
        blocks: int,
        attention: bool,
        conditioning: int,
        dims: int,
        dropout: float,
        text: int | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width, conditioning, dims, dropout) for _ in range(blocks))
        self.attention = nn.ModuleList(
            SpatialAttention(width, text, positions) if attention else nn.Identity() for _ in range(blocks)
        )

    def forward(self, x: Tensor, c: Tensor, text: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """(B, width, ...) and (B, conditioning) -> (B, width, ...)."""
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = block(x, c)
            x = attention(x, text) if isinstance(attention, SpatialAttention) else x
        return x


class UNet(Module):
    """A U-Net that sees a noise level and, if asked for, a class label.

    Level i of the pyramid has `width * multipliers[i]` channels. A strided convolution leads down, a 1x1
    convolution and nearest-neighbour interpolation to the very size of the skip lead up, so sizes need not
    be powers of two; skips are added, which is cheaper than concatenation at the finest level, where most of
    the time goes. Level and label enter each residual block as a scale and a shift (FiLM). The output layer starts
    at zero. Statistics are those of one sample: a row's result does not depend on its batch.

    `encoder.0` (finest) to `encoder.n`, `middle` (coarsest) and `decoder.0` (second coarsest) to
    `decoder.n-1` (finest) return maps: names to attach hooks to. A network converted to `channels_last`
    works, but torch's group norm has no forward-mode derivative in that layout.

    Ronneberger et al., "U-Net", 2015 (arXiv 1505.04597); Ho et al., "Denoising Diffusion Probabilistic
    Models", 2020 (arXiv 2006.11239); FiLM: Perez et al., 2018 (arXiv 1709.07871).

    Args:
        channels: channels of the input.
        dims: 1 for (B, C, L), 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        width: channels at the finest level.
        multipliers: one per level, finest first.
        blocks: residual blocks per level and direction.
        attention: levels (indices into `multipliers`) with self-attention among all their positions.
        labels: number of class labels, or None for a network without labels. With labels it reads
            `condition["label"]`, ids (B,) or soft rows (B, labels); rows without one use a learned vector.
        out_channels: channels of the output; `channels` if None.
        dropout: share of activations dropped in training.
        text: features of a text's tokens, or None. With them it reads `condition["text"]`, see `TextTokens`, where
            there is attention.
        patch: pixels a side that are folded into channels first, so that the finest level is that much smaller.
        text_depth: blocks among the text's tokens before they are read, see `TextTokens`.
        positions: whether attention is told where in the map it stands, in place of learning it from the margin.

    Raises:
        ValueError: an argument out of range, or an input that does not fit.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 3),
        blocks: int = 1,
        attention: Sequence[int] = (),
        labels: int | None = None,
        out_channels: int | None = None,
        dropout: float = 0.0,
        text: int | None = None,
        patch: int = 1,
        text_depth: int = 0,
        positions: bool = False,
    ) -> None:
        super().__init__()
        check_positive(channels=channels, width=width, multipliers=multipliers, blocks=blocks, patch=patch)
        check_positive(labels=labels, out_channels=out_channels, text=text)
        if text is not None and not attention:
            raise ValueError("text: is read where there is attention, and `attention` names no level")
        _check_levels(dims, multipliers, attention)
        conv, widths = CONVOLUTIONS[dims], [width * m for m in multipliers]
        self.channels, self.dims, self.labels, self.features = channels, dims, labels, widths[-1]
        self.patch, points = patch, patch**dims
        self.conditioning = Conditioning(4 * width, labels)
        read = None if text is None else 4 * width
        down, up = (
            [
                Stage(w, blocks, i in attention, 4 * width, dims, dropout, read, positions)
                for i, w in enumerate(widths)
            ]
            for _ in range(2)
        )
        self.stem = conv(channels * points, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(down)
        self.down = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.middle = up.pop()
        self.up = nn.ModuleList(conv(a, b, 1) for a, b in pairwise(reversed(widths)))
        self.decoder = nn.ModuleList(reversed(up))
        self.norm = group_norm(widths[0])
        self.out = zeroed(conv(widths[0], (out_channels or channels) * points, 3, padding=1))
        self.text = text_tokens(text, 4 * width, text_depth)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the condition fields that it reads."""
        return self.conditioning.fields | ({"text"} if self.text is not None else frozenset())

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, channels, ...) -> (B, out_channels, ...).

        Args:
            x: the state, of any size.
            level: (B,) noise levels, about -10 to 10.
            condition: fields named in `fields`.
        """
        check_level(level, len(x))
        text = None if self.text is None else self.text(condition, len(x))
        return self.trunk(x, self.conditioning(level, condition), text)[0]

    @property
    def residual_blocks(self) -> list[str]:
        """Names of the residual blocks, as `without` takes them."""
        return [name for name, module in self.named_modules() if isinstance(module, ResidualBlock)]

    def without(self, blocks: Iterable[str]) -> UNet:
        """This network with some residual blocks left out; all parameters are shared, and nothing is copied.

        Raises:
            ValueError: a name that is not one of `residual_blocks`.
        """
        view = self
        for name in blocks:
            if name not in self.residual_blocks:
                raise ValueError(suggest(name, self.residual_blocks, "residual block"))
            view = _replaced(view, name.split("."), Skipped())
        return view

    def trunk(
        self, x: Tensor, c: Tensor, text: tuple[Tensor, Tensor | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The output and the middle features (B, features, ...), given conditioning vectors (B, 4 width)."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels:
            axes = ", ".join(["B", str(self.channels), *"DHW"[3 - self.dims :]])
            raise ValueError(f"x: expected shape ({axes}), got {tuple(x.shape)}")
        c, shape = F.silu(c), x.shape[2:]
        skips = [x := self.encoder[0](self.stem(folded(x, self.patch)), c, text)]
        for down, stage in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x := stage(down(x), c, text))
        x = middle = self.middle(skips.pop(), c, text)
        for up, stage in zip(self.up, self.decoder, strict=True):
            skip = skips.pop()
            x = stage(skip + F.interpolate(up(x), size=skip.shape[2:]), c, text)
        return unfolded(self.out(F.silu(self.norm(x))), self.patch, shape), middle


def _replaced(module: Any, path: Sequence[str], new: nn.Module) -> Any:
    """A shallow copy of a module with the child at `path` another; the modules beside the path are the same."""
    if not path:
        return new
    view = copy.copy(module)
    view._modules = {**module._modules, path[0]: _replaced(module._modules[path[0]], path[1:], new)}
    return view


def _check_levels(dims: int, multipliers: Sequence[int], attention: Sequence[int]) -> None:
    if dims not in CONVOLUTIONS:
        raise ValueError(f"dims: expected 1, 2 or 3, got {dims!r}")
    if not multipliers:
        raise ValueError("multipliers: expected one number per level, got none")
    beyond = [i for i in attention if not 0 <= i < len(multipliers)]
    if beyond:
        raise ValueError(f"attention: expected levels 0 to {len(multipliers) - 1}, got {beyond}")

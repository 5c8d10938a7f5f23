"""A denoiser that is told in words: it owns a text encoder, and what it wraps reads the encoder's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Condition, Denoiser, Posterior, Step, Time, Tree

from .pretrained import Pretrained, inner_shape

__all__ = ["Prompted"]


class Prompted(Pretrained):
    """A denoiser of x_0 given c = encoder(ids), the ids being those of a text:

        D(x_t, t, text) = denoiser(x_t, t, {"tokens": (B, L, D), "mask": (B, L), "pooled": (B, P)})

    `orn.sample(model, 4, text="a red circle")` tokenises and encodes once a run. In training the batch holds ids (a
    data set's `texts` are tokenised up front), which are encoded as they are seen. Features that are given already,
    and ids that are prepared already, are handed on as they are.

    The encoder is frozen here: it is neither optimised nor in training mode, but saved with the model.

    Args:
        denoiser: reads the field, as a network with `networks.TextTokens` does.
        encoder: such as `conditions.TextEncoder` or `conditions.MiniLM`: `tokenise(words)` gives ids (B, L), and
            calling it on ids gives features.
        field: the condition field.

    Raises:
        ValueError: a denoiser that does not read the field; when called, ids of another shape.
    """

    shape = inner_shape

    def __init__(self, denoiser: Denoiser, encoder: nn.Module, field: str = "text") -> None:
        super().__init__()
        if field not in denoiser.fields:
            raise ValueError(
                f"field: the denoiser does not read {field!r}; it reads {sorted(denoiser.fields)}"
            )
        self.denoiser, self.encoder, self.field = denoiser, encoder.requires_grad_(False), field
        self.process, self.fields, self.blocks = denoiser.process, denoiser.fields, denoiser.blocks
        self.estimates, self.fit = denoiser.estimates, denoiser.fit
        for name in ("prediction", "scale"):  # what objectives weigh errors by
            if hasattr(denoiser, name):
                setattr(self, name, getattr(denoiser, name))

    def tell(self, **found: Any) -> None:
        """Tell the inner denoiser too."""
        super().tell(**found)
        self.denoiser.tell(**found)

    def train(self, mode: bool = True) -> Prompted:
        """Training mode for all but the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """Ids (B, L) of texts, by the encoder's tokeniser; other fields are the inner denoiser's."""
        encoder: Any = self.encoder
        ids: Tensor = encoder.tokenise(words) if name == self.field else self.denoiser.tokenise(name, words)
        return ids

    def prepare(self, condition: Condition) -> Condition:
        """Texts are encoded once a run."""
        return self.denoiser.prepare(self.encoded(condition))

    def encoded(self, condition: Condition) -> Condition:
        """The condition with features in place of ids."""
        ids = condition.get(self.field)
        if not isinstance(ids, Tensor) or ids.is_floating_point():
            return condition
        if ids.ndim != 2:
            raise ValueError(
                f"{self.field}: expected words, ids (B, L) or features, got integers of shape {tuple(ids.shape)}; "
                "leave the field out where no row has any"
            )
        with torch.autocast(ids.device.type, enabled=False):  # the same features in training as in sampling
            features = self.encoder(ids)
        return Condition({**condition, self.field: features}, condition.present)

    def forward(
        self, x: Tree, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """The inner denoiser's posterior."""
        posterior: Posterior = self.denoiser(x, t, self.encoded(condition) if condition else condition, step)
        return posterior

    def many(
        self, x: Tree, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """The inner denoiser's, in one network call where it can."""
        return self.denoiser.many(x, t, [self.encoded(c) if c else c for c in conditions], step)

    def like(self, n: int) -> Tree:
        """The inner denoiser's."""
        return self.denoiser.like(n)

    def before_draw(self, distribution: Any, step: Step) -> Any:
        """The inner denoiser's."""
        return self.denoiser.before_draw(distribution, step)

    def after_draw(self, x: Tree, step: Step) -> Tree:
        """The inner denoiser's."""
        return self.denoiser.after_draw(x, step)

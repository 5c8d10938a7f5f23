"""What a training leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ornstein.core import Denoiser
from ornstein.denoisers.files import load_model

from .folder import RunFolder

__all__ = ["Run"]


class Run:
    """A run folder and the model in it.

    Args:
        folder: as `fit` writes it.
        denoiser: the model; by default read from the folder when first asked for.

    Attributes:
        folder: where everything lies.
    """

    def __init__(self, folder: str | Path, denoiser: Denoiser | None = None) -> None:
        self.folder = Path(folder)
        self._denoiser = denoiser

    @property
    def denoiser(self) -> Denoiser:
        """The model one samples from: averaged weights, unless the run had no average.

        Raises:
            ValueError: there is no model in the folder yet, or it is made of parts that are not ornstein's.
        """
        if self._denoiser is None:
            self._denoiser = load_model(self.folder / "model")
        return self._denoiser

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl.

        They hold `step`, `loss`, `loss/NAME`, `learning_rate`, `gradient_norm` and `skipped`, and where the
        model was evaluated `held_out_loss` and `held_out_levels`, by the noise levels of config.yaml.
        """
        return RunFolder(self.folder).metrics.read()

    @property
    def timing(self) -> list[dict[str, Any]]:
        """The lines of timing.jsonl: `step`, `items_per_second`, `seconds` since the process began."""
        return RunFolder(self.folder).timing.read()

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

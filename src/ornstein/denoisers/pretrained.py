"""Denoisers that are written to a folder, read from one, and shared on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from ornstein.core import Denoiser

__all__ = ["Pretrained", "inner_shape"]

inner_shape: Any = property(  # of a wrapper whose states are those of what it wraps
    lambda self: self.denoiser.shape,
    lambda self, shape: setattr(self.denoiser, "shape", shape),
    doc="The inner denoiser's; setting it sets that.",
)


class Pretrained(Denoiser):
    """A denoiser with `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> Path:
        """Write config.json, model.safetensors and README.md, all of them or none.

        Args:
            folder: made if it does not exist. Other files in it stay, save those of the model that was there before:
                its fit and raw weights go, and its card too unless its config is that of this model.
            card: text of README.md; by default what the model is and how it is loaded.

        Raises:
            ValueError: a part is not one of ornstein's, so that a config cannot rebuild it.
            OSError: the files cannot be written; what was there before is untouched.
        """
        from .files import save_model

        return save_model(self, Path(folder), card)

    @classmethod
    def from_pretrained(cls, name: str | Path, weights: str = "ema", **hub: Any) -> Self:
        """A denoiser from a folder, a run folder or a hub id "owner/name"; no pickle is ever read.

        Args:
            name: where it is.
            weights: "ema", the averaged ones that one samples from, or "raw", the last ones of training.
            **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            ValueError: no such model, or its files are foreign, incomplete or do not fit together.
        """
        from .files import load_model

        model = load_model(name, weights, **hub)
        if not isinstance(model, cls):
            raise ValueError(f"model {str(name)!r}: is a {type(model).__name__}, expected a {cls.__name__}")
        return model

    def push_to_hub(self, name: str, **hub: Any) -> str:
        """Upload the files of `save_pretrained` to the hub; returns the commit's address.

        Args:
            name: the id, "owner/name".
            **hub: `private`, `token`, `branch`, `create_pr`, `commit_message` of huggingface_hub's mixin.
        """
        from .hub import HubModel

        return HubModel(self).push_to_hub(name, **hub)

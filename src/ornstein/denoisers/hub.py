"""Models on the Hugging Face hub. Loaded late, since the hub's client takes a quarter second to import."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ornstein.core import Denoiser

from .files import ACCEPTED, CONFIG, FIT, WEIGHTS, load_model, save_model

__all__ = ["HubModel", "asked_of_hub"]


@contextlib.contextmanager
def asked_of_hub(name: str, accepted: str) -> Iterator[None]:
    """Say which model was asked for, and what is accepted in its place.

    Raises:
        ValueError: the hub has no such model.
        OSError: the hub cannot be reached and the model is not in the cache.
    """
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ValueError(f"model {name!r}: not on the hub ({error}); accepted is {accepted}") from error
    except OSError as error:
        raise OSError(
            f"model {name!r}: no such folder, and not had from the hub ({type(error).__name__}: {error})"
        ) from error


class HubModel(ModelHubMixin, library_name="ornstein", tags=["ornstein", "diffusion"]):
    """A denoiser as huggingface_hub's mixin sees it: what it uploads and downloads are `save_model`'s files.

    It is a thing apart, not a base class of denoisers: the mixin's own save_pretrained removes the config
    before it writes a new one, so that a full disk would destroy a saved model.
    """

    def __init__(self, model: Denoiser) -> None:  # no name of the config's: the mixin would fill it in
        self.model = model

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self.model, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, weights: str = "ema", **options: Any) -> HubModel:
        files = [CONFIG, WEIGHTS["ema"], FIT] + ([WEIGHTS["raw"]] if weights == "raw" else [])
        folder = snapshot_download(model_id, allow_patterns=files, **options)
        return cls(load_model(folder, weights))

    @classmethod
    def fetch(cls, name: str, weights: str, **options: Any) -> Denoiser:
        """The denoiser of that id.

        Raises:
            ValueError: no such model, or its files are not ornstein's.
            OSError: the hub cannot be reached and the model is not in the cache.
        """
        with asked_of_hub(name, ACCEPTED):
            return cls.from_pretrained(name, weights=weights, **options).model

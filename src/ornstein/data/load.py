"""One door to all data: a built-in name, a file, a folder, or a data set id."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.spec import suggest
from .arrays import array_file
from .dataset import Dataset
from .degraded import super_resolution
from .digits import digits, digits_joint
from .fashion import fashion_mnist
from .folder import image_folder
from .frames import frames
from .hub import hub_dataset, is_hub_layout
from .land import land
from .plane import plane
from .scenes import creatures, moving_scenes, scenes
from .words import words

__all__ = ["BUILT_IN", "load"]

BUILT_IN: dict[str, Callable[..., Dataset]] = {
    "creatures": creatures,
    "digits": digits,
    "digits-joint": digits_joint,
    "fashion-mnist": fashion_mnist,
    "frames": frames,
    "land": land,
    "moving-scenes": moving_scenes,
    "super-resolution": super_resolution,
    "plane": plane,
    "scenes": scenes,
    "words": words,
}
_ARRAY_SUFFIXES = (".npy", ".npz")


def load(name: str | os.PathLike[str], **options: Any) -> Dataset:
    """The data set of that name.

    Args:
        name: "creatures", "digits", "digits-joint", "fashion-mnist", "frames", "land", "moving-scenes", "plane",
            "scenes", "super-resolution" or "words"; a .npy or .npz file; a folder of images, with classes as
            subfolders; a Hugging Face data set id "owner/name", or a local folder in its layout (parquet, arrow). A
            path that exists comes before a data set id.
        **options: those of the loader: `creatures`, `fashion_mnist`, `frames`, `moving_scenes`, `scenes`,
            `super_resolution`, `words`, `array_file`, `image_folder`, `hub_dataset`.

    Raises:
        ValueError: nothing of that name exists (with the nearest name), an option is unknown, or
            the samples cannot be used.
    """
    built_in = BUILT_IN.get(str(name))
    loader = built_in or _loader(str(name), Path(name))
    given = () if built_in else (str(name),)
    accepted = list(inspect.signature(loader).parameters)[len(given) :]
    for option in options:
        if option not in accepted:
            raise ValueError(suggest(option, accepted, f"option of data {str(name)!r}"))
    return replace(loader(*given, **options), options=dict(options))


def _loader(name: str, path: Path) -> Callable[..., Dataset]:
    if name and path.is_dir():
        return hub_dataset if is_hub_layout(path) else image_folder
    if path.is_file():
        if path.suffix.lower() not in _ARRAY_SUFFIXES:
            raise ValueError(
                f"data file {name!r}: cannot read {path.suffix or 'a file without suffix'}; "
                f"accepted are {', '.join(_ARRAY_SUFFIXES)}, or the folder of an image"
            )
        return array_file
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and path.suffix not in _ARRAY_SUFFIXES:
        return hub_dataset
    raise ValueError(
        suggest(name, BUILT_IN, "data")
        + " No file or folder of that name exists; Hugging Face ids read 'owner/name'."
    )

"""Checkpoints: one folder each, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ornstein.denoisers.atomic import remove_folder, write_folder
from ornstein.denoisers.files import read_tensors

__all__ = ["Checkpoints"]

FORMAT = 1
STATE, TENSORS = "state.json", "state.safetensors"


class Checkpoints:
    """The checkpoints of a run, `step-00001000/` and so on, each with state.json and state.safetensors.

    A checkpoint is written beside its place, flushed to the disk, and renamed: a process killed at any moment
    leaves the ones before it untouched.

    Args:
        folder: where they lie.
        keep: how many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Of the complete ones, in order."""
        found = self.folder.glob("step-*") if self.folder.exists() else ()
        numbers = (p.name.removeprefix("step-") for p in found)
        return sorted(int(number) for number in numbers if number.isdigit())

    def write(self, step: int, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Write one, then remove what is older than the ones to keep.

        Raises:
            OSError: it cannot be written; earlier ones are untouched.
        """
        from safetensors.torch import save

        content = save({k: v.to("cpu", copy=True).contiguous() for k, v in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()  # a flipped bit would otherwise load as another number
        text = json.dumps({"format": FORMAT, "step": step, "digest": digest, **plain}, indent=1)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_folder(self._path(step), {TENSORS: content, STATE: text.encode()})
        for old in self.steps()[: -self.keep]:
            remove_folder(self._path(old))

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Step, tensors and plain data of the latest one that can be read; None if there is none.

        One that the disk has damaged is passed over with a warning: going on from an earlier one leads to the
        same bits.
        """
        for step in reversed(self.steps()):
            try:
                return self._read(step)
            except (OSError, ValueError) as error:
                text = f"checkpoint {self._path(step)} is damaged and passed over: {error}"
                warnings.warn(text, stacklevel=2)
        return None

    def sweep(self) -> None:
        """Remove what killed processes left half done."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _read(self, step: int) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        path = self._path(step)
        plain = json.loads((path / STATE).read_text("utf-8"))
        if plain.get("format") != FORMAT:
            raise ValueError(f"format {plain.get('format')!r}, this ornstein reads {FORMAT}")
        if plain.pop("digest", None) != hashlib.sha256((path / TENSORS).read_bytes()).hexdigest():
            raise ValueError(f"{TENSORS} is not what was written")
        return step, read_tensors(path / TENSORS), plain

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

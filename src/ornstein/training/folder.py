"""The folder of a run: what was asked, what was measured, and that only one process works in it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ornstein.denoisers.atomic import write_file

from .checkpoints import Checkpoints

__all__ = ["Journal", "RunFolder"]

CONFIG = "config.yaml"
_FREE = frozenset(f"training.{name}" for name in ("sample_every", "checkpoint_every", "keep", "workers"))


class Journal:
    """A file of JSON lines that only grows, and can be cut back to where a checkpoint was made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """One line more."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def sync(self) -> int:
        """Flush it to the disk, and say how long it is in bytes."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, size: int) -> None:
        """Forget what was written after it was `size` bytes long."""
        if self.path.exists() and self.path.stat().st_size > size:
            os.truncate(self.path, size)

    def read(self) -> list[dict[str, Any]]:
        """Its records; a last line that was cut short is left out."""
        lines = self.path.read_text("utf-8").splitlines(keepends=True) if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


class RunFolder:
    """config.yaml, metrics.jsonl, timing.jsonl, checkpoints/, samples/ and model/.

    Args:
        path: of the folder.
        keep: how many checkpoints stay.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints", keep)
        self.metrics, self.timing = Journal(path / "metrics.jsonl"), Journal(path / "timing.jsonl")
        self.samples, self.model = path / "samples", path / "model"

    def check(self, config: Mapping[str, Any], resume: bool) -> None:
        """Refuse a folder that is not this run's; nothing is written.

        Raises:
            ValueError: the folder holds something else, or a run that was asked for differently.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out: {str(self.path)!r} is a file; expected a folder, or a name for a new one")
        held = {p.name for p in self.path.iterdir()} - {".lock"} if self.path.exists() else set()
        if held and not resume:
            raise ValueError(f"out: {str(self.path)!r} is not empty; resume it, or choose another folder")
        if CONFIG not in held and held - {f".{CONFIG}.part"}:
            raise ValueError(f"out: {str(self.path)!r} holds other things than a run; choose another folder")
        if CONFIG in held:
            self._check_same(config)

    def _check_same(self, config: Mapping[str, Any]) -> None:
        import yaml

        try:
            before = yaml.safe_load((self.path / CONFIG).read_text("utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{self.path / CONFIG}: not readable as YAML: {error}") from error
        now = yaml.safe_load(yaml.safe_dump(dict(config)))
        differing = _differences(before or {}, now)
        if differing:
            raise ValueError(
                f"out: {str(self.path)!r} holds a run asked for differently: {'; '.join(differing)}. "
                "Go on with the same values, or choose another folder"
            )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.yaml."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_file(self.path / CONFIG, text.encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it when the process ends in whatever way.

        Raises:
            ValueError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as file:
            if not _lock(file.fileno()):
                file.seek(0)
                holder = file.read().strip() or "another process"
                text = f"out: {str(self.path)!r} is being written by {holder}; wait, or choose another folder"
                raise ValueError(text)
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
            yield


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # only POSIX has it
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by data workers, as flock would be
    except (BlockingIOError, PermissionError):
        return False
    return True


def _differences(before: Any, now: Any) -> list[str]:
    old, new = dict(_flat(before)), dict(_flat(now))
    return [
        f"{k} was {old.get(k, 'not set')!r}, now {new.get(k, 'not set')!r}"
        for k in {**old, **new}
        if old.get(k) != new.get(k) and not _may_differ(k, old, new)
    ]


def _may_differ(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if name == "training.steps":  # a constant rate may go on for longer
        return new.get("training.schedule") == "constant" and new[name] > old.get(name, 0)
    return name in _FREE or name.startswith("versions.")


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree

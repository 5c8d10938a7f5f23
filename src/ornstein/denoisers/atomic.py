"""Files that are there whole or not at all, whatever happens to the process or the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["place_folder", "write_file", "write_files", "write_folder"]


def write_file(path: Path, content: bytes) -> None:
    """Write or replace one file at once.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write or replace files of a folder; its other files stay.

    All of them lie complete on the disk, under other names, before the first one takes its place.

    Args:
        folder: made if it does not exist.
        files: {name: content}; they take their places in this order.

    Raises:
        OSError: they cannot be written; what was there before is untouched.
    """
    staged = {name: folder / f".{name}.part" for name in files}
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in staged.items():
            _write_synced(part, files[name])
    except BaseException as error:
        for part in staged.values():
            _removed(part.unlink)
        for made in missing:
            _removed(made.rmdir)
        raise _explained(error, folder, files) from error
    for name, part in staged.items():
        os.replace(part, folder / name)
    _sync_folder(folder)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that nobody sees before it is complete. One of that name is replaced.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_files(part, files)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _explained(error.__cause__ or error, folder, files) from error
    if folder.exists():
        remove_folder(folder)
    _named(part, folder)


def place_folder(written: Path, folder: Path) -> None:
    """Give a folder that others wrote its name, which is free, once all of it is on the disk."""
    for path in written.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    _named(written, folder)


def _named(part: Path, folder: Path) -> None:
    os.replace(part, folder)
    _sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder that nobody sees half removed."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, on systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _removed(remove: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        remove()


def _explained(error: BaseException, folder: Path, files: Mapping[str, bytes]) -> BaseException:
    """The same error, saying what was to be written; others (an interrupt) pass as they are."""
    if not isinstance(error, OSError):
        return error
    size = sum(map(len, files.values()))
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    text = (
        f"{error.strerror or error}: {', '.join(files)} cannot be written ({_mb(size)} needed, {_mb(free)} "
        "free); nothing was changed"
    )
    return OSError(error.errno, text, str(folder))


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"

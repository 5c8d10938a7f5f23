"""Where results go: checked before work starts, written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["check_file", "check_folder", "check_writable", "write"]


def check_file(out: Path, suffixes: Sequence[str], force: bool) -> Path:
    """Refuse a file that could not be written, of a kind not accepted, or that is there and not to be lost.

    Raises:
        ValueError: another suffix, or a folder.
        OSError: it exists, or cannot be made.
    """
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"--out: expected a name ending in {_listed(suffixes)}, got {str(out)!r}")
    if out.is_dir():
        raise ValueError(f"--out: {str(out)!r} is a folder")
    if out.exists() and not force:
        raise FileExistsError(f"--out: {str(out)!r} exists; choose another name, or add --force")
    check_writable(out.parent)
    return out


def check_folder(out: Path, force: bool) -> Path:
    """Refuse a folder that could not be made, or that holds anything.

    Raises:
        OSError: it is a file, is not empty, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out: {str(out)!r} is a file; expected a folder, or a new name")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise FileExistsError(f"--out: {str(out)!r} is not empty; choose another name, or add --force")
    check_writable(out)
    return out


def check_writable(folder: Path) -> None:
    """Try it, in the nearest folder that exists; what a permission says is not what a disk does.

    Raises:
        OSError: nothing can be written there.
    """
    nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise PermissionError(
            f"--out: nothing can be written in {str(nearest)!r} ({error.strerror or error}); choose another place"
        ) from error


def write(out: Path, content: bytes | Mapping[str, bytes]) -> Path:
    """One file, or the files of a folder, at once."""
    from ornstein.denoisers.atomic import write_file, write_files

    if isinstance(content, bytes):
        write_file(out, content)
    else:
        write_files(out, content)
    return out


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names)

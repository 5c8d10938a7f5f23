"""How the command line speaks of errors: one red line on standard error, and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Any

__all__ = ["FAILURE", "INTERRUPTED", "WRONG_INPUT", "exit_code", "message", "tell"]

FAILURE, WRONG_INPUT, INTERRUPTED = 1, 2, 130
_WRONG = (
    ValueError, TypeError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError,
    PermissionError,
)  # fmt: skip
_PLAIN = (
    ValueError,
    TypeError,
    RuntimeError,
    ImportError,
    ArithmeticError,
    OSError,
)  # whose text says it all


def exit_code(error: BaseException) -> int:
    """2 for what the user can mend in the command, 130 for an interrupt, 1 for all that failed on the way."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return int(getattr(error, "exit_code", WRONG_INPUT if isinstance(error, _WRONG) else FAILURE))


def message(error: BaseException) -> str:
    """The error as one line."""
    if hasattr(error, "format_message"):  # of the option parser
        text = error.format_message() + _given(error.__cause__)
    elif isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, _PLAIN) and str(error):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}; --debug shows where"
    return " ".join(text.split())


def _given(cause: Any) -> str:
    """The value that was no number, which the option parser does not name."""
    return f", got {cause.errors()[0]['input']!r}" if hasattr(cause, "errors") else ""


def tell(error: BaseException, debug: bool) -> int:
    """Print the error, after its traceback if asked for, and return the exit code."""
    from rich.console import Console
    from rich.text import Text

    if debug:
        traceback.print_exception(error, file=sys.stderr)
    Console(stderr=True).print(Text(f"error: {message(error)}", "red"), soft_wrap=True)
    return exit_code(error)

"""What commands print: tables of facts, and short lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["columns", "console", "facts", "say"]


def console(stderr: bool = False) -> Console:
    """Standard output as rich sees it; colours only on a terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def say(text: str, stderr: bool = False) -> None:
    """One line, as it is."""
    console(stderr).print(text, markup=False, soft_wrap=True)


def facts(title: str, rows: Mapping[str, Any]) -> None:
    """Names and what is known of them; rows of None are left out."""
    table = _table(title, ())
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, _cell(value))
    console().print(table)


def columns(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with a head."""
    table = _table(title, names)
    for row in rows:
        table.add_row(*map(_cell, row))
    console().print(table)


def _table(title: str, names: Sequence[str]) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.show_header = bool(names)
    for name in names:
        table.add_column(escape(name), overflow="fold")
    return table


def _cell(value: Any) -> Any:
    from rich.text import Text

    return Text(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))

"""The command `ornstein`: its commands, and the one place where errors become a line of text.

What a command needs is imported when it runs, so that `ornstein --help` does not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .errors import tell

__all__ = ["app", "examples"]


def examples(*pairs: tuple[str, str], notes: str = "") -> str:
    """The end of a help page: commands, and what each does."""
    shown = [f"  {command}\n\n      [dim]{what}[/dim]" for command, what in pairs]
    return "\n\n".join(["[bold]Examples[/bold]", *shown, *([notes] if notes else [])])


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are told in one line; --debug may stand anywhere and adds the traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run, and leave by `sys.exit`."""
        given = list(sys.argv[1:] if args is None else args)
        words = [word for word in given if word != "--debug"]
        try:
            code = super().main(words, *rest, **{**options, "standalone_mode": False})
        except (Exception, KeyboardInterrupt) as error:
            sys.exit(tell(error, debug=len(words) < len(given)))
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="ornstein",
    cls=OneLineErrors,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=examples(
        ("ornstein demo", "train on real digits, sample in ten steps, write a report"),
        ("ornstein sample digits --label 7", "sample a model that ships"),
        ("ornstein train digits --out runs/first", "train one of your own"),
        notes="[bold]Exit codes[/bold] 0 done, 1 failed on the way, 2 wrong input, 130 interrupted.",
    ),
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Stochastic processes that are simulated, learned, reversed, steered and inspected.

    Models are trained on folders of images, arrays, words or data sets of the hub, and sampled in few steps. Input is
    checked before work starts, and nothing half-written is left behind.
    """
    if version:
        from ornstein import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())

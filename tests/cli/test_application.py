from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.main import get_command

from ornstein.cli import app
from ornstein.cli.errors import exit_code, message

COMMANDS = get_command(app).commands


def examples() -> list[str]:
    """Every example of every help page."""
    pages = "\n".join(command.epilog or "" for command in [get_command(app), *COMMANDS.values()])
    return re.findall(r"^ +(ornstein .+)$", pages, re.MULTILINE)


def test_every_command_of_the_design_is_there() -> None:
    assert set(COMMANDS) >= {"train", "sample", "evaluate", "info", "demo", "papers", "reproduce"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_shows_examples(name: str, call) -> None:
    page = call(f"{name} --help")
    assert "Examples" in page
    assert f"ornstein {name}" in page.replace("\n", " ")
    assert all(option.help for option in COMMANDS[name].params if option.name != "help")


@pytest.mark.parametrize("line", examples())
def test_an_example_is_a_command_that_exists(line: str) -> None:
    _, name, *words = line.split()
    with COMMANDS[name].make_context(name, words):
        pass


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys; sys.argv = ['ornstein', '--help']\n"
        "from ornstein.cli import app\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*{'torch', 'numpy', 'pydantic', 'yaml', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.split() == []


def test_nothing_said_is_answered_with_help(call) -> None:
    assert "Usage" in call("")


def test_the_version(call) -> None:
    import ornstein

    assert call("--version").strip() == ornstein.__version__


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("steps: expected\n  one"), 2, "steps: expected one"),
        (FileExistsError("--out: there"), 2, "--out: there"),
        (OSError(28, "No space left on device", "model"), 1, "model: No space left on device"),
        (FloatingPointError("a loss that is not finite"), 1, "a loss that is not finite"),
        (ImportError("pip install it"), 1, "pip install it"),
        (KeyError("x"), 1, "KeyError: 'x'; --debug shows where"),
        (ValueError(), 2, "ValueError: ; --debug shows where"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_and_a_code(error: BaseException, code: int, text: str) -> None:
    assert exit_code(error) == code
    assert message(error) == text


@pytest.mark.parametrize("line", ["--debug info nothing", "info nothing --debug"])
def test_debug_shows_the_traceback_wherever_it_stands(line: str, refused) -> None:
    code, text = refused(line)
    assert code == 2
    assert "Traceback" in text
    assert text.strip().splitlines()[-1].startswith("error: unknown model or data 'nothing'")


def test_an_interrupt_is_told_by_its_code(monkeypatch, refused) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ornstein.data.load", interrupted)
    assert refused("info digits")[0] == 130

"""The shape of the source: small functions, small files, nothing written twice.

The numbers are those of the field's best-kept libraries: nine functions in ten fit half a screen.
"""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ornstein"
FILES = sorted(SOURCE.rglob("*.py"))
NAMES_OF_NO_IDEA = {"utils", "util", "helpers", "helper", "misc", "common"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def without_docstring(function: Function) -> list[ast.stmt]:
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.body[documented:]


def size(function: Function) -> int:
    """Lines from `def` to the end, less those of the docstring."""
    body = without_docstring(function)
    if not body:
        return 1
    signature = function.body[0].lineno - function.lineno
    return max(signature, 1) + body[-1].end_lineno - body[0].lineno + 1


class Renamed(ast.NodeTransformer):
    """A function's own names become their order of appearance: a renamed copy is a copy."""

    def __init__(self, function: Function) -> None:
        arguments = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
        names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        stored = [node.id for node in names if isinstance(node.ctx, ast.Store)]
        self.order = {name: f"_{i}" for i, name in enumerate(dict.fromkeys(arguments + stored))}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.order.get(node.id, node.id), node.ctx)


def normal_form(function: Function) -> str:
    rename = Renamed(function)
    return "\n".join(ast.dump(rename.visit(statement)) for statement in without_docstring(function))


def statements(body: list[ast.stmt]) -> int:
    return sum(isinstance(node, ast.stmt) for top in body for node in ast.walk(top))


@cache
def functions() -> list[tuple[str, Function]]:
    return [(str(path.relative_to(SOURCE)), node) for path in FILES for node in defined_in(path)]


def defined_in(path: Path) -> Iterator[Function]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def largest(count: int) -> str:
    ranked = sorted(functions(), key=lambda item: -size(item[1]))[:count]
    return ", ".join(f"{path}:{f.lineno} {f.name} ({size(f)})" for path, f in ranked)


def test_the_median_function_is_under_eight_lines() -> None:
    assert statistics.median(size(f) for _, f in functions()) < 8


def test_nine_functions_in_ten_are_under_thirty_lines() -> None:
    sizes = sorted(size(f) for _, f in functions())
    assert sizes[int(0.9 * len(sizes))] < 30, f"the largest: {largest(10)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_has_at_most_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_no_file_is_named_for_no_idea() -> None:
    parts = {path: {part.removesuffix(".py") for part in path.relative_to(SOURCE).parts} for path in FILES}
    assert not [path for path, names in parts.items() if names & NAMES_OF_NO_IDEA]


def test_no_function_body_stands_twice() -> None:
    places = defaultdict(list)
    for path, function in functions():
        if statements(without_docstring(function)) >= 4:
            places[normal_form(function)].append(f"{path}:{function.lineno} {function.name}")
    assert not [where for where in places.values() if len(where) > 1]


def test_a_renamed_copy_is_found() -> None:
    one, two, other = (
        next(node for node in ast.walk(ast.parse(text)) if isinstance(node, Function))
        for text in (
            "def f(a):\n    'First.'\n    b = a + 1\n    return b",
            "def g(x):\n    y = x + 1\n    return y",
            "def h(x):\n    y = x + 2\n    return y",
        )
    )
    assert normal_form(one) == normal_form(two) != normal_form(other)

"""Turn the TeX that arithmatex leaves in a page into MathML, which browsers show by themselves."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each formula; a `span` stands in a line, a `div` on its own."""
    return FORMULA.sub(as_mathml, content)


def as_mathml(formula: re.Match[str]) -> str:
    tag, tex = formula.groups()
    mathml = convert(html.unescape(tex), display="block" if tag == "div" else "inline")
    return mathml.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # a relation: spaced as one

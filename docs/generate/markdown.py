"""Markdown for the generated pages."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

MARKER: Final = "<!-- Generated from the code by `make docs-reference`. Do not edit. -->\n\n"
"""The beginning of generated pages."""


def page(text: str) -> str:
    """Return a page with the marker of generated files above it."""
    return f"{MARKER}{text.strip()}\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, whose cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def code(text: str) -> str:
    """Return text as inline code; a bar would end the cell of a table, however it is escaped."""
    if "|" in text:
        return f"<code>{escape(text).replace('|', '&#124;')}</code>"
    return f"`{text}`"


def anchor(heading: str) -> str:
    """Return the anchor that MkDocs and GitHub give a heading."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def meanings(header: Sequence[str], meaning_of: Iterable[tuple[str, str]]) -> str:
    """Return a table of words as code and what they mean."""
    return table(header, [(code(word), meaning) for word, meaning in meaning_of])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

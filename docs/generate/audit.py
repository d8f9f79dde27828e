"""The reference of audit records, from the tables in the docstring of the records' module."""

import inspect
import re
from collections.abc import Iterator
from typing import Final

from criproxy.audit.records import record_builder as source
from docs.generate.descriptions import joined
from docs.generate.markdown import code, table

_TABLE: Final = re.compile(r"^(\S.*)::\n\n((?:    .*\n)+)", re.MULTILINE)
_ROW: Final = re.compile(r"    (\S.*?)(?:  +|\n {20,})(\S[^\n]*(?:\n {20,}\S[^\n]*)*)")

_CHAIN: Final = (
    "\nWith `chain: true` each line ends in `sequence` and `previous`; "
    "[Hash chain](../explanation/audit.md#hash-chain) describes what they prove.\n"
)


def records() -> str:
    """Return the page of audit records."""
    text = f"{inspect.getdoc(source)}\n"
    introduction = text[: _TABLE.search(text).start()].split("\n\n", 1)[1]  # type: ignore[union-attr]  # there is one
    introduction = introduction[: introduction.rindex(". ") + 1]
    page = f"# Audit record\n\n{joined(introduction)}\n{_CHAIN}"
    for heading, _ in tables():
        rows = [
            (", ".join(map(code, names)), meaning) for names, meaning in dict(tables())[heading]
        ]
        page += f"\n## {heading}\n\n{table(('Field', 'Meaning'), rows)}"
    return page


def tables() -> list[tuple[str, list[tuple[list[str], str]]]]:
    """Return the tables of fields: of each its heading, and its rows of names and meanings."""
    text = f"{inspect.getdoc(source)}\n"
    return [(heading, list(_rows(rows))) for heading, rows in _TABLE.findall(text)]


def _rows(text: str) -> Iterator[tuple[list[str], str]]:
    for names, meaning in _ROW.findall(text.replace("\\\n", "")):
        yield re.split(r",\s*", names), joined(meaning)

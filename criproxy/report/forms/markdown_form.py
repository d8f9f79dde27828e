"""Writes a report as Markdown with GitHub's tables; text of others is no markup. Pure."""

import re
from collections.abc import Iterator, Sequence

from criproxy.report.figures import Compatibility, Report
from criproxy.report.forms.section import Table
from criproxy.report.forms.sections import sections_of, title_of

_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&]|:(?=//)")


def markdown_of(report: Report | Compatibility) -> str:
    """Return a report as Markdown."""
    return "\n\n".join(_paragraphs(report)) + "\n"


def _paragraphs(report: Report | Compatibility) -> Iterator[str]:
    yield f"# {title_of(report)}"
    for section in sections_of(report):
        yield f"## {section.title}"
        yield from map(_escaped, section.text)
        yield from map(_table, section.tables)


def _table(table: Table) -> str:
    numbers = [name.endswith(" #") for name in table.header]
    header = [name.removesuffix(" #") for name in table.header]
    rule = ["---:" if number else "---" for number in numbers]
    rows = [[_escaped(cell) for cell in row] for row in table.rows]
    return "\n".join(map(_line, (header, rule, *rows)))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)

"""Prints tables to the terminal."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from criproxy.common.printable import fit, shrink

_GAP: Final = "  "
_NOTHING: Final = "-"
"""What stands in a cell without a value."""


def print_table(
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    styles: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print rows in aligned columns; the first row is the header.

    ``width`` is the terminal's, in characters: in the widest columns, cells are cut in the middle
    to fit. None: unlimited. ``styles`` are those of the rows, as for click.style; rows without one
    are plain.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        shrink(widths, width - len(_GAP) * (len(widths) - 1))
    for number, row in enumerate(rows):
        cells = (fit(cell, limit) for cell, limit in zip(row, widths, strict=True))
        style = styles[number] if number < len(styles) else {}
        click.echo(styled(_GAP.join(cells).rstrip(), style))


def has_colours() -> bool:
    """Return whether standard output is a terminal whose user does not refuse colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def styled(text: str, style: Mapping[str, Any]) -> str:
    """Return a text in a style as for click.style, plain where there are no colours."""
    return click.style(text, **style) if style and has_colours() else text


def without_alike(
    rows: Sequence[Sequence[str]], width: int
) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Leave columns out of a table that is wider than ``width`` characters.

    Empty ones go first, then from the left those in which all cells are the same, until it fits.
    Returns the rest, with at least one column, and the value of each column that was left out.
    """
    columns = list(zip(*rows, strict=True))
    left_out: dict[str, str] = {}
    alike = [each for each in columns if len(set(each[1:])) == 1]
    for column in sorted(alike, key=lambda each: each[1] != _NOTHING):
        if _width(columns) <= width or len(columns) == 1:
            break
        columns.remove(column)
        left_out[column[0]] = column[1]
    return list(zip(*columns, strict=True)), left_out


def without_columns(
    rows: Sequence[Sequence[str]], width: int, names: Sequence[str]
) -> list[tuple[str, ...]]:
    """Leave columns out of a table that is wider than ``width`` characters, until it fits.

    Empty ones go first, then those of ``names`` (in the header), in that order.
    """
    columns = list(zip(*rows, strict=True))
    empty = [each[0] for each in columns if set(each[1:]) <= {_NOTHING}]
    for name in (*empty, *names):
        if _width(columns) <= width:
            break
        columns = [each for each in columns if each[0] != name]
    return list(zip(*columns, strict=True))


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + len(_GAP) * (len(columns) - 1)

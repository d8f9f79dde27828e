"""Tables on the terminal."""

from collections.abc import Sequence
from typing import Final

import click

_GAP: Final = "  "
_LEAST: Final = 8
"""Columns that are left of a cell, however narrow the terminal is."""


def print_table(rows: Sequence[Sequence[str]], width: int | None = None) -> None:
    """Print rows, the first of which is the header, in columns.

    ``width`` is the terminal's, in columns: the widest cells are cut to fit it. None: any.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        _shrink(widths, width - len(_GAP) * (len(widths) - 1))
    for row in rows:
        cells = (_fit(cell, most) for cell, most in zip(row, widths, strict=True))
        click.echo(_GAP.join(cells).rstrip())


def _shrink(widths: list[int], most: int) -> None:
    while sum(widths) > most and (widest := max(widths)) > _LEAST:
        widths[widths.index(widest)] -= 1


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else f"{cell[: width - 1]}…"

"""Prints tables to the terminal."""

from collections.abc import Sequence
from typing import Final

import click

_GAP: Final = "  "
_MIN_WIDTH: Final = 8
"""Minimum width of a shrunk column, in characters."""


def print_table(rows: Sequence[Sequence[str]], width: int | None = None) -> None:
    """Print rows in aligned columns; the first row is the header.

    ``width`` is the terminal's, in characters: the widest cells are cut to fit. None: unlimited.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        _shrink(widths, width - len(_GAP) * (len(widths) - 1))
    for row in rows:
        cells = (_fit(cell, limit) for cell, limit in zip(row, widths, strict=True))
        click.echo(_GAP.join(cells).rstrip())


def _shrink(widths: list[int], limit: int) -> None:
    while sum(widths) > limit and (widest := max(widths)) > _MIN_WIDTH:
        widths[widths.index(widest)] -= 1


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else f"{cell[: width - 1]}…"

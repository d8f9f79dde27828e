"""Text of others, made safe for a terminal and for a log that is read line by line, and fitted in
the columns of a table."""

from typing import Final

_MIN_WIDTH: Final = 8
"""Minimum width of a shrunk column, in characters."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with backslash escapes for all characters that are not printable.

    These are control characters, line separators, surrogates, and format characters such as those
    that change the direction of writing. ``keep`` are characters that are left as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )


def shrink(widths: list[int], limit: int) -> None:
    """Make the widest columns narrower until together they have ``limit`` characters, if they can.

    ``widths`` are changed in place.
    """
    while sum(widths) > limit and (widest := max(widths)) > _MIN_WIDTH:
        widths[widths.index(widest)] -= 1


def fit(cell: str, width: int) -> str:
    """Return a text of ``width`` characters: filled with spaces, or cut in the middle."""
    return shorten(cell, width).ljust(width)


def shorten(text: str, length: int) -> str:
    """Return a text, cut in the middle if it has more than ``length`` characters."""
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (length - head - 1) :]}"

"""Options and progress of the commands that read logs."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import click

from criproxy.errors import UsageError

_LARGE: Final = 32 << 20
"""Bytes from which on reading takes long enough to show progress."""


def moment(option: str, text: str | None) -> datetime | None:
    """Return the time of an option: an age or a time. Raises UsageError."""
    from criproxy.audit.files.query import parse_time

    if text is None:
        return None
    try:
        return parse_time(text, datetime.now(UTC))
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def percentage_reporter(size: int) -> Callable[[float], None]:
    """Return what prints a percentage on a terminal where ``size`` (bytes) is large."""
    if not sys.stderr.isatty() or size < _LARGE:
        return lambda percent: None
    shown = -1

    def show(percent: float) -> None:
        nonlocal shown
        if int(percent) != shown and percent >= 0:
            shown = int(percent)
            end = "\r" if percent < 100 else "\r" + " " * 20 + "\r"
            click.echo(f"{shown:3} % read{end}", err=True, nl=False)

    return show


def bytes_reporter(size: int) -> Callable[[int], None]:
    """Return what is called with the number of further bytes read, of ``size``."""
    show, read = percentage_reporter(size), 0

    def progress(more: int) -> None:
        nonlocal read
        read += more
        show(100 * read / max(size, 1))

    return progress

"""Options, input and progress of the commands that read logs and recordings."""

import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from criproxy.errors import UsageError

if TYPE_CHECKING:
    from criproxy.audit.files.reader import LogLine

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


def lines_of_files(paths: Iterable[Path], progress: Callable[[int], None]) -> "Iterator[LogLine]":
    """Yield the lines of logs, and those that stand for the calls of cassettes.

    What is missing of a cassette is said on standard error. Raises UnavailableError and UsageError.
    """
    from criproxy.audit.files.reader import lines_of
    from criproxy.cassette.reader import is_cassette

    for path in paths:
        if is_cassette(path):
            yield from lines_of_cassette(path, progress)
        else:
            yield from lines_of([path], progress)


def lines_of_cassette(path: Path, progress: Callable[[int], None]) -> "Iterator[LogLine]":
    """Yield the lines that stand for the calls of a cassette, as :func:`lines_of_files` does."""
    from criproxy.cassette import call_lines  # loads protobuf

    def note(text: str) -> None:
        click.echo(f"criproxy: {text}", err=True)

    return call_lines.lines_of_cassette(path, note, progress)

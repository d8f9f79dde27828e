"""Finds and reads the files of audit logs in order, rotated and compressed ones included."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from criproxy.audit.files.rotation import in_write_order, is_rotated, rotated_files
from criproxy.errors import UnavailableError, UsageError

Progress = Callable[[int], None]
"""Called with the number of further bytes that were read from the disk."""


def files_of(given: Sequence[Path]) -> list[Path]:
    """Return the files of audit logs in the order in which they were written.

    A directory stands for all audit logs in it, a log includes its rotated files. Raises UsageError
    for missing files.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _in_directory(path)
        elif is_rotated(path):
            found.append(_existing(path))
        else:
            aside = rotated_files(path) if path.parent.is_dir() else []
            found += [each.path for each in aside]
            if path.exists() or not aside:
                found.append(_existing(path))
    return in_write_order(dict.fromkeys(found))


def _in_directory(directory: Path) -> list[Path]:
    files = [each for each in directory.iterdir() if each.is_file()]
    found = [each for each in files if each.suffix == ".jsonl" or is_rotated(each)]
    if not found:
        raise UsageError(f"{directory}: has no audit log (*.jsonl); name its files")
    return sorted(found)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name an audit log, or the directory of one")
    return path


class LogLine(NamedTuple):
    """A line of a file."""

    path: Path
    number: int
    """The line's number in its file, counted from 1."""
    text: bytes
    """The line with its newline, if it has one."""


def lines_of(paths: Iterable[Path], progress: Progress = lambda _: None) -> Iterator[LogLine]:
    """Yield the lines of plain and compressed files. Raises UnavailableError for bad ones."""
    for path in paths:
        try:
            with path.open("rb") as raw:
                file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
                read = 0
                for number, text in enumerate(file, 1):
                    yield LogLine(path, number, text)
                    at = raw.tell()
                    if at != read:
                        progress(at - read)
                        read = at
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnavailableError(f"{path}: is not a whole gzip file: {error}") from error
        except OSError as error:
            raise UnavailableError(f"{path}: cannot be read: {error.strerror}") from error

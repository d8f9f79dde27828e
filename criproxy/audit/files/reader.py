"""Finds and reads the files of audit logs in order, rotated and compressed ones included."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from criproxy.audit.files.file_names import in_write_order, is_current, log_file
from criproxy.audit.files.rotation import rotated_from
from criproxy.errors import UnavailableError, UsageError

_UNREADABLE: Final = (".bz2", ".xz", ".zst")
"""Suffixes of compressed files that DuckDB, or Python 3.11, cannot read."""

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
            continue
        rotated = _rotated_of(path) if is_current(path) else []
        found += rotated
        if path.exists() or not rotated:
            found.append(_existing(path))
    ordered = in_write_order(dict.fromkeys(found))
    for path in ordered:
        if path.suffix in _UNREADABLE:
            raise UsageError(
                f"{path}: {path.suffix[1:]} cannot be read; decompress it, or let logrotate "
                "compress with gzip"
            )
    return ordered


def _rotated_of(log: Path) -> list[Path]:
    if not log.parent.is_dir():
        return []
    return sorted(
        each
        for each in log.parent.iterdir()
        if each != log and log_file(each).log == log and each.is_file()
    )


def _in_directory(directory: Path) -> list[Path]:
    files = [each for each in directory.iterdir() if each.is_file()]
    found = [each for each in files if log_file(each).log.suffix == ".jsonl" or rotated_from(each)]
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

"""The audit log's files, as they are read: rotated and compressed ones too, in order."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from criproxy.audit.files.rotation import in_order, is_put_aside, put_aside
from criproxy.errors import UnavailableError, UsageError

Progress = Callable[[int], None]
"""Told how many more bytes of the files have been read, as they are on the disk."""


def files_of(given: Sequence[Path]) -> list[Path]:
    """Find the files that are meant, in the order in which they were written.

    A directory stands for all audit logs in it, a log for what was put aside of it as well. Raises
    UsageError for what is not there.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _in_directory(path)
        elif is_put_aside(path):
            found.append(_existing(path))
        else:
            aside = put_aside(path) if path.parent.is_dir() else []
            found += [each.path for each in aside]
            if path.exists() or not aside:
                found.append(_existing(path))
    return in_order(dict.fromkeys(found))


def _in_directory(directory: Path) -> list[Path]:
    files = [each for each in directory.iterdir() if each.is_file()]
    found = [each for each in files if each.suffix == ".jsonl" or is_put_aside(each)]
    if not found:
        raise UsageError(f"{directory}: has no audit log (*.jsonl); name its files")
    return sorted(found)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name an audit log, or the directory of one")
    return path


class LogLine(NamedTuple):
    """A line, with its newline if it has one, and where it stands."""

    path: Path
    number: int
    """Counted from 1 in its file."""
    text: bytes


def lines_of(paths: Iterable[Path], progress: Progress = lambda _: None) -> Iterator[LogLine]:
    """Read files line by line, compressed ones too. Raises UnavailableError for what cannot be."""
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

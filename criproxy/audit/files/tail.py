"""The last whole line of a file, and whether a torn one stands behind it."""

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from criproxy.audit.files.hash_chain import BEGINNING, ChainLink, resume
from criproxy.audit.files.rotation import put_aside

_BLOCK: Final = 1 << 16


class FileTail(NamedTuple):
    """How a file ends."""

    link: ChainLink | None
    """Where a chain goes on; None: the file has no whole line."""
    closed: bool
    """Whether what comes next begins a line: the file is empty or ends in a newline."""


def read_tail(fd: int, size: int) -> FileTail:
    """Read a file's end. A last line that lacks but its newline is whole. Raises OSError."""
    end = os.pread(fd, 1, size - 1) if size else b"\n"
    gathered = b""
    position = size
    while True:
        step = min(_BLOCK, position)
        position -= step
        gathered = os.pread(fd, step, position) + gathered
        found = _last_whole(gathered, from_start=position == 0)
        if found is not None or position == 0:
            return FileTail(found, end == b"\n")


def last_link(path: Path) -> ChainLink:
    """Say where the chain goes on after the newest file that was put aside and has a whole line."""
    for one in reversed(put_aside(path)):
        link = _last_of_compressed(one.path) if one.compressed else _last_of_plain(one.path)
        if link is not None:
            return link
    return BEGINNING


def _last_whole(data: bytes, from_start: bool) -> ChainLink | None:
    lines = data.split(b"\n")
    if not from_start:
        del lines[0]  # may have begun before
    for line in reversed(lines):
        if line and (link := resume(line)):
            return link
    return None


def _last_of_plain(path: Path) -> ChainLink | None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_tail(fd, os.fstat(fd).st_size).link
    finally:
        os.close(fd)


def _last_of_compressed(path: Path) -> ChainLink | None:
    """Read a compressed file through: it cannot be read from its end."""
    last = before = b""
    try:
        with gzip.open(path) as file:
            for line in io.BufferedReader(file, _BLOCK):
                if line != b"\n":
                    before, last = last, line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass  # what could be read of it counts
    return resume(last.rstrip(b"\n")) or resume(before.rstrip(b"\n"))

"""Finds the last whole line of a file, from which its hash chain continues."""

import gzip
import io
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from criproxy.audit.files.hash_chain import START, ChainLink, link_after
from criproxy.audit.files.rotation import RotatedFile, rotated_files

_BLOCK: Final = 1 << 16


class FileTail(NamedTuple):
    """The end of a file."""

    link: ChainLink | None
    """The link of the last whole line; None: the file has none."""
    closed: bool
    """Whether the file is empty or ends in a newline."""


def read_tail(fd: int, size: int) -> FileTail:
    """Read the end of a file of ``size`` bytes. A whole line may lack a newline. Raises OSError."""
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
    """Return the link of the last whole line in the newest rotated file that has one."""
    while True:
        files = rotated_files(path)
        with suppress(FileNotFoundError):  # compressed or removed since
            return _last_of(files)


def _last_of(files: Sequence[RotatedFile]) -> ChainLink:
    for one in reversed(files):
        link = _last_of_compressed(one.path) if one.compressed else _last_of_plain(one.path)
        if link is not None:
            return link
    return START


def _last_whole(data: bytes, from_start: bool) -> ChainLink | None:
    lines = data.split(b"\n")
    if not from_start:
        del lines[0]  # its beginning may lie before the block
    for line in reversed(lines):
        if line and (link := link_after(line)):
            return link
    return None


def _last_of_plain(path: Path) -> ChainLink | None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_tail(fd, os.fstat(fd).st_size).link
    finally:
        os.close(fd)


def _last_of_compressed(path: Path) -> ChainLink | None:
    """Read a compressed file from its beginning: gzip cannot be read from the end."""
    last = before = b""
    try:
        with gzip.open(path) as file:
            for line in io.BufferedReader(file, _BLOCK):
                if line != b"\n":
                    before, last = last, line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass  # the readable part counts
    return link_after(last.rstrip(b"\n")) or link_after(before.rstrip(b"\n"))

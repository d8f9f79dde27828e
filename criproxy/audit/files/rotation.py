"""Names, compresses and removes rotated files of an audit log.

``audit.jsonl`` is renamed to ``audit.jsonl.00000017-20261123T101500Z``; compression appends
``.gz``. The number increases by one with each rotation and determines the order, whatever the clock
does; the time (UTC) of the rotation is for people.
"""

import fcntl
import os
import re
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"(.+)\.(\d{8,})-\d{8}T\d{6}Z(\.gz)?")
_PARTIAL: Final = ".partial"
_CHUNK: Final = 1 << 18
_JOIN_TIMEOUT: Final = 5.0
"""Seconds to wait for the thread at the end: a hanging disk must not delay it further."""
_LEVEL: Final = 6
_GZIP: Final = 31
"""zlib's ``wbits`` for the gzip format with the largest window."""


class RotatedFile(NamedTuple):
    """A rotated file."""

    number: int
    path: Path
    compressed: bool


def rotated_from(path: Path) -> tuple[Path, RotatedFile] | None:
    """Return the log that a rotated file is of, and what its name says; None for other files."""
    name = _NAME.fullmatch(path.name)
    if name is None:
        return None
    return path.with_name(name[1]), RotatedFile(int(name[2]), path, bool(name[3]))


def rotated_files(path: Path) -> list[RotatedFile]:
    """Return the rotated files of an audit log, the oldest first.

    Where a file exists both plain and compressed (a crash between the last two steps), the
    compressed one is returned: it has its name only once it is whole.
    """
    found: dict[int, RotatedFile] = {}
    with os.scandir(path.parent) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name and name[1] == path.name:
                one = RotatedFile(int(name[2]), Path(entry.path), bool(name[3]))
                if one.compressed or one.number not in found:
                    found[one.number] = one
    return [found[number] for number in sorted(found)]


def next_rotated_name(path: Path, wall_ns: int) -> Path:
    """Return the name under which a file is rotated at ``wall_ns``."""
    number = max((one.number for one in rotated_files(path)), default=0) + 1
    at = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return path.with_name(f"{path.name}.{number:08}-{at:%Y%m%dT%H%M%S}Z")


class RotatedFiles:
    """Compresses rotated files and removes the oldest above the limits, on its own thread."""

    def __init__(
        self,
        path: Path,
        *,
        compress: bool,
        keep: int | None,
        total: int | None,
        reserve: int,
        log_error: Callable[[str], None],
    ) -> None:
        """Start the thread.

        ``keep`` is the number of rotated files, ``total`` the bytes of all files; None: no limit.
        The current file counts as at least ``reserve`` bytes.
        """
        self._path = path
        self._compress = compress
        self._keep = keep
        self._total = total
        self._reserve = reserve
        self._log_error = log_error
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit files", daemon=True)
        self._thread.start()

    def clean_up(self) -> None:
        """Wake the thread. Does not wait."""
        self._wake.set()

    def close(self) -> None:
        """Stop the thread. An unfinished compression is done again after the next start."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_JOIN_TIMEOUT)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self._remove_leftovers()
                self._prune()
                if self._compress:
                    self._compress_all()
                    self._prune()
            except OSError as error:
                self._log_error(
                    f"cannot tidy up what was put aside of {self._path}: {error.strerror} "
                    f"({error.filename}); it is tried again at the next rotation"
                )

    def _remove_leftovers(self) -> None:
        for path in self._path.parent.glob(f"{self._path.name}.*"):
            name = path.name.removesuffix(_PARTIAL)
            if name != path.name and _NAME.fullmatch(name):
                _remove_unless_locked(path)
        for one in rotated_files(self._path):
            if one.compressed:
                one.path.with_name(one.path.name.removesuffix(".gz")).unlink(missing_ok=True)

    def _prune(self) -> None:
        files = [(one.path, _size(one.path)) for one in rotated_files(self._path)]
        total = sum(size for _, size in files) + max(_size(self._path), self._reserve)
        while files and (
            (self._keep is not None and len(files) > self._keep)
            or (self._total is not None and total > self._total)
        ):
            path, size = files.pop(0)
            path.unlink(missing_ok=True)
            total -= size

    def _compress_all(self) -> None:
        for one in rotated_files(self._path):
            if self._closing.is_set():
                return
            if not one.compressed:
                with suppress(FileNotFoundError, BlockingIOError):
                    self._compress_one(one.path)

    def _compress_one(self, path: Path) -> None:
        """Compress a file, and remove it once the compressed file is on the disk."""
        target = path.with_name(f"{path.name}.gz")
        partial = path.with_name(f"{path.name}.gz{_PARTIAL}")
        with path.open("rb") as source:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if another process does it
            status = os.fstat(source.fileno())
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as sink:
                    fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
                    while chunk := source.read(_CHUNK):
                        sink.write(packer.compress(chunk))
                        if self._closing.is_set():
                            partial.unlink()
                            return
                    sink.write(packer.flush())
                    sink.flush()
                    os.fchmod(fd, status.st_mode & 0o777)
                    if os.geteuid() == 0:
                        os.fchown(fd, status.st_uid, status.st_gid)
                    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
                    os.fsync(fd)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            partial.rename(target)
            sync_directory(path.parent)
            path.unlink()


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove_unless_locked(path: Path) -> None:
    """Remove an interrupted compression, but not one that another process is writing."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()

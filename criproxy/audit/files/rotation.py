"""Files that were put aside: how they are called, in which order they are, how many are kept.

``audit.jsonl`` is put aside as ``audit.jsonl.00000017-20261123T101500Z``, and ``.gz`` is added when
it is compressed. The number goes up by one each time and is what the order goes by, whatever the
clock does; the time, in UTC, is when it was put aside and is for people.
"""

import fcntl
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"(.+)\.(\d{8,})-\d{8}T\d{6}Z(\.gz)?")
_PARTIAL: Final = ".partial"
_CHUNK: Final = 1 << 18
_LEAVING: Final = 5.0
"""Seconds that the end of a compression may take: a disk that hangs holds up nobody's leaving."""
_LEVEL: Final = 6
_GZIP: Final = 31
"""zlib's word for the gzip format with the largest window."""


class RotatedFile(NamedTuple):
    """A file that was put aside."""

    number: int
    path: Path
    compressed: bool


def is_put_aside(path: Path) -> bool:
    """Tell by a file's name whether it was put aside."""
    return _NAME.fullmatch(path.name) is not None


def put_aside(path: Path) -> list[RotatedFile]:
    """Find what was put aside of a file, the oldest first.

    Of one that is there both ways, its compression having been cut off at its very end, the
    compressed one counts: it is whole, or it would not have its name.
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


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Put files in the order in which they were written: each that is being written last.

    Files that are not named as above come before, in the order in which they are given. What is
    there both plain and compressed is given once.
    """
    paths = list(paths)
    groups: dict[str, dict[int, Path]] = {}
    current = {str(path) for path in paths if not _NAME.fullmatch(path.name)}
    for path in paths:
        if name := _NAME.fullmatch(path.name):
            group = groups.setdefault(str(path.parent / name[1]), {})
            if name[3] or int(name[2]) not in group:
                group[int(name[2])] = path
    ordered = [path for path in paths if str(path) in current and str(path) not in groups]
    for base, group in groups.items():
        ordered += [group[number] for number in sorted(group)]
        if base in current:
            ordered.append(Path(base))
    return ordered


def next_name(path: Path, wall_ns: int) -> Path:
    """Say what the file is to be called when it is put aside now."""
    number = max((one.number for one in put_aside(path)), default=0) + 1
    at = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return path.with_name(f"{path.name}.{number:08}-{at:%Y%m%dT%H%M%S}Z")


class RotatedFiles:
    """Compresses what was put aside and removes what is too much, on a thread of its own."""

    def __init__(
        self,
        path: Path,
        *,
        compress: bool,
        keep: int | None,
        total: int | None,
        reserve: int,
        complain: Callable[[str], None],
    ) -> None:
        """``total`` is in bytes, the current file included, which counts as ``reserve`` bytes at
        least. None: no limit."""
        self._path = path
        self._compress = compress
        self._keep = keep
        self._total = total
        self._reserve = reserve
        self._complain = complain
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit files", daemon=True)
        self._thread.start()

    def tidy(self) -> None:
        """Look at what there is, soon."""
        self._wake.set()

    def close(self) -> None:
        """Stop. A compression that is under way is left for the next start."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_LEAVING)

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
                self._complain(
                    f"cannot tidy up what was put aside of {self._path}: {error.strerror} "
                    f"({error.filename}); it is tried again at the next rotation"
                )

    def _remove_leftovers(self) -> None:
        for path in self._path.parent.glob(f"{self._path.name}.*"):
            name = path.name.removesuffix(_PARTIAL)
            if name != path.name and _NAME.fullmatch(name):
                _remove_unless_locked(path)
        for one in put_aside(self._path):
            if one.compressed:
                one.path.with_name(one.path.name.removesuffix(".gz")).unlink(missing_ok=True)

    def _prune(self) -> None:
        files = [(one.path, _size(one.path)) for one in put_aside(self._path)]
        total = sum(size for _, size in files) + max(_size(self._path), self._reserve)
        while files and (
            (self._keep is not None and len(files) > self._keep)
            or (self._total is not None and total > self._total)
        ):
            path, size = files.pop(0)
            path.unlink(missing_ok=True)
            total -= size

    def _compress_all(self) -> None:
        for one in put_aside(self._path):
            if self._closing.is_set():
                return
            if not one.compressed:
                with suppress(FileNotFoundError, BlockingIOError):
                    self._compress_one(one.path)

    def _compress_one(self, path: Path) -> None:
        """Compress a file; until that is whole and on the disk, the file stays as it is."""
        target = path.with_name(f"{path.name}.gz")
        partial = path.with_name(f"{path.name}.gz{_PARTIAL}")
        with path.open("rb") as source:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another process is at it
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
    """Have a directory's names outlive a crash. Raises OSError."""
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
    """Remove a compression that was cut off, but not one that another process is at."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()

"""Appends records to a file, one a line, with rotation, fsync and a hash chain as configured.

Other processes may append to the file or move it (a second criproxy during an upgrade, logrotate):
each batch is written under a lock to the file that has the name at that moment, and the chain
continues from its last line. Failed writes are repeated; a partial line is completed, or ended with
a newline if something else was appended behind it.
"""

import errno
import fcntl
import os
import stat
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from criproxy.audit.files.hash_chain import ChainLink, link
from criproxy.audit.files.rotation import RotatedFiles, next_rotated_name, sync_directory
from criproxy.audit.files.tail import last_link, read_tail
from criproxy.audit.sinks.sink import RETRY, LogError, Outlet, Progress
from criproxy.audit.spec import FileSpec
from criproxy.errors import UnavailableError

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
_LOCK_TRIES: Final = 200
_LOCK_PAUSE: Final = 0.005
"""Tries, and seconds between them, to lock a file that another process writes or rotates."""
_ROTATE_RETRY: Final = 60.0
"""Seconds until a failed rotation is tried again; the file grows meanwhile."""
_LINK_SIZE: Final = 128
"""Bytes that the link and the newline add to a line at most."""
_FIRST_LINE_SIZE: Final = 1 << 20
"""Bytes that are read for the first line."""
_TOTAL_CHECKS: Final = 64
"""Without a size limit, the total is checked after each 64th of it was written."""


class _Dated(msgspec.Struct):
    stageTimestamp: datetime  # noqa: N815  as the record has it


_read_date = msgspec.json.Decoder(_Dated).decode


class FileOutlet(Outlet):
    """Appends lines to a file; see the module."""

    def __init__(
        self,
        spec: FileSpec,
        log_error: LogError,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        write: Callable[[int, memoryview], int] = os.write,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """Open the file. Raises UnavailableError if that fails."""
        self._path = Path(spec.path)
        self._spec = spec
        self._log_error = log_error
        self._wall_ns = wall_ns
        self._monotonic = monotonic
        self._write_some = write
        self._sync_file = sync
        rotate = spec.rotate
        limits = [limit for limit in (rotate.size, rotate.total) if limit is not None]
        self._limit = min(limits) if rotate.size is not None else None
        self._fd: int | None = None
        self._size = 0  # of the file after our last write
        self._partial = 0  # bytes of an unfinished line at its end
        self._began = 0  # time of its first record in nanoseconds since the epoch
        self._link: ChainLink | None = None
        self._unsynced = False
        self._sync_error = ""  # of the last fsync
        self._synced_at = monotonic()
        self._rotate_after = 0.0
        self._reopening = False
        self._checked_size = 0
        try:
            self._lock_current()
        except OSError as error:
            raise UnavailableError(
                f"cannot open the audit log {self._path}: {error.strerror}; "
                "set its path to one that can be written"
            ) from error
        self._unlock()
        self._rotated_files = RotatedFiles(
            self._path,
            compress=rotate.compress,
            keep=rotate.keep,
            total=rotate.total,
            reserve=self._limit or 0,
            log_error=log_error,
        )
        self._rotated_files.clean_up()

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Append lines, rotating the file where it is due."""
        done = 0
        trouble = self._sync_error = ""
        try:
            while done < len(lines):
                self._lock_current()
                try:
                    if self._rotation_due(lines[done]):
                        self._rotate()
                    else:
                        count, error = self._append(lines[done:])
                        done += count
                        if error is not None:
                            raise error
                finally:
                    self._unlock()
        except OSError as error:
            trouble = self._error_text(error)
        if self._spec.fsync == "always" or self._sync_due():
            self._sync()
        return Progress(done, trouble=trouble or self._sync_error, durable=not self._sync_error)

    def pause(self) -> float | None:
        """Return the seconds until the next fsync or the rotation by age."""
        due = []
        if self._spec.fsync == "interval" and self._unsynced:
            due.append(self._synced_at + self._spec.interval - self._monotonic())
        if self._spec.rotate.age is not None and self._size:
            due.append(max(self._age_left(), self._rotate_after - self._monotonic()))
        if self._reopening:
            due.append(RETRY)
        return max(0.0, min(due)) if due else None

    def idle(self) -> str:
        """Sync, rotate by age and reopen, whichever is due."""
        self._sync_error = ""
        if self._sync_due():
            self._sync()
        if self._reopening or self._too_old():
            try:
                self._lock_current()
                try:
                    if self._too_old():
                        self._rotate()
                        self._lock_current()
                finally:
                    self._unlock()
                self._reopening = False
            except OSError as error:
                return self._error_text(error)
        return self._sync_error

    def reopen(self) -> None:
        """Create the file again if it has been moved, even if nothing is to be written."""
        self._reopening = True

    def abort(self) -> None:
        """Do nothing: a write to a file cannot be interrupted."""

    def close(self) -> str:
        """Sync and close the file."""
        self._sync_error = trouble = ""
        try:
            self._close_file()
        except OSError as error:
            trouble = self._error_text(error)
        self._rotated_files.close()
        return trouble or self._sync_error

    def _lock_current(self) -> None:
        """Open and lock the file that has the name now, and read its end if it has changed."""
        while True:
            if self._fd is None:
                self._open()
            assert self._fd is not None
            self._lock(self._fd)
            status = os.fstat(self._fd)
            if self._is_current(status):
                break
            self._unlock()
            self._close_file()
        if status.st_size != self._size:
            try:
                self._read_end(status.st_size)
            except OSError:
                self._unlock()
                raise

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, self._spec.mode)
            os.fchmod(fd, self._spec.mode)  # whatever the umask
            if self._spec.fsync != "none":
                sync_directory(self._path.parent)
        except FileExistsError:
            fd = os.open(self._path, _FLAGS)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no regular file")
        self._fd = fd
        self._size = -1  # unknown
        self._partial = 0

    def _is_current(self, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(status, os.stat(self._path))
        except FileNotFoundError:
            return False

    def _read_end(self, size: int) -> None:
        """Read the end of a file that another process has written or truncated."""
        assert self._fd is not None
        tail = read_tail(self._fd, size)
        self._partial = 0
        if self._spec.chain:
            known = [one for one in (self._link, tail.link) if one is not None]
            if tail.link is None:
                known.append(last_link(self._path))
            # Never backwards: removed lines have to show as a gap.
            self._link = max(known, key=lambda one: one.sequence)
        self._began = self._date_of_first()
        if not tail.closed:
            size += self._write_some(self._fd, memoryview(b"\n"))
        self._size = size

    def _date_of_first(self) -> int:
        assert self._fd is not None
        line = os.pread(self._fd, _FIRST_LINE_SIZE, 0).partition(b"\n")[0]
        try:
            return int(_read_date(line).stageTimestamp.timestamp() * 1e9)
        except msgspec.DecodeError:
            return self._wall_ns()

    def _append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append lines up to the size limit; return the number written, and an error if any."""
        assert self._fd is not None
        data = bytearray()
        ends: list[int] = []
        links: list[ChainLink] = []
        before = self._link
        for line in lines:
            if ends and self._exceeds_limit(len(data), line):
                break
            if before is not None:
                line, before = link(line, before)
                links.append(before)
            data += line
            data += b"\n"
            ends.append(len(data))
        if self._size == 0:
            self._began = self._wall_ns()
        error = None
        position = self._partial
        view = memoryview(data)
        try:
            while position < len(data):
                position += self._write_some(self._fd, view[position:])
        except OSError as failure:
            error = failure
        self._size += position - self._partial
        self._unsynced = self._unsynced or position > self._partial
        count = bisect_right(ends, position)
        if count and links:
            self._link = links[count - 1]
        self._partial = position - (ends[count - 1] if count else 0)
        self._check_total()
        return count, error

    def _exceeds_limit(self, more: int, line: bytes) -> bool:
        """Return whether ``more`` bytes and then a line exceed the file's size limit."""
        room = len(line) + (_LINK_SIZE if self._link else 1)
        return self._limit is not None and self._size + more + room > self._limit

    def _check_total(self) -> None:
        """Apply the total limit while the current file grows without rotation."""
        total = self._spec.rotate.total
        if total is not None and self._size - self._checked_size > total // _TOTAL_CHECKS:
            self._checked_size = self._size
            self._rotated_files.clean_up()

    def _rotation_due(self, line: bytes) -> bool:
        return self._too_old() or (self._may_rotate() and self._exceeds_limit(0, line))

    def _too_old(self) -> bool:
        age = self._spec.rotate.age
        return age is not None and self._may_rotate() and self._age_left() <= 0

    def _may_rotate(self) -> bool:
        """Return whether the file has lines, ends in a whole one, and no try has just failed."""
        return self._size > 0 and not self._partial and self._monotonic() >= self._rotate_after

    def _age_left(self) -> float:
        return (self._spec.rotate.age or 0.0) - (self._wall_ns() - self._began) / 1e9

    def _rotate(self) -> None:
        """Rename the file to the next rotated name and close it."""
        if self._spec.fsync != "none":
            self._sync()
        try:
            self._path.rename(next_rotated_name(self._path, self._wall_ns()))
            if self._spec.fsync != "none":
                sync_directory(self._path.parent)
        except OSError as error:
            self._rotate_after = self._monotonic() + _ROTATE_RETRY
            self._log_error(
                f"cannot put the audit log {self._path} aside: {error.strerror}; "
                "it grows, and that is tried again each minute"
            )
            return
        self._unlock()
        self._close_file()
        self._rotated_files.clean_up()

    def _lock(self, fd: int) -> None:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
        raise OSError(errno.EWOULDBLOCK, "another process holds a lock on it")

    def _unlock(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _close_file(self) -> None:
        """Close the file. A partial line is removed; it is written whole to the next file."""
        if self._fd is None:
            return
        try:
            if self._partial and os.fstat(self._fd).st_size == self._size:
                os.ftruncate(self._fd, self._size - self._partial)
            if self._spec.fsync != "none":
                self._sync()
        finally:
            os.close(self._fd)
            self._fd = None
            self._size = self._partial = self._checked_size = 0

    def _sync_due(self) -> bool:
        return (
            self._spec.fsync == "interval"
            and self._unsynced
            and self._monotonic() >= self._synced_at + self._spec.interval
        )

    def _sync(self) -> None:
        """Flush the file to the disk; an error is kept in ``_sync_error``."""
        self._synced_at = self._monotonic()
        if self._fd is None or not self._unsynced:
            return
        self._unsynced = False  # the kernel reports a failure once and drops the data
        try:
            self._sync_file(self._fd)
        except OSError as error:
            self._sync_error = (
                f"cannot have {self._path} on the disk (fsync): {error.strerror}; what was written "
                "since the last time may not outlive a crash of the machine"
            )

    def _error_text(self, error: OSError) -> str:
        return (
            f"cannot write {self._path}: {error.strerror}; it is tried again each second, "
            "and records wait in memory as far as its queue goes"
        )

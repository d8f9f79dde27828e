"""Records in a file, one a line: appended, put aside when it has grown, chained where asked for.

Whoever else appends to the file or moves it (a second criproxy during an upgrade, logrotate) is
reckoned with: each batch is written under a lock, to the file that has the name at that moment, and
the chain goes on from what that ends with. What cannot be written is tried again; a line that was
written in part is finished, or closed off with a newline if something else has come behind it.
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
from criproxy.audit.files.rotation import RotatedFiles, next_name, sync_directory
from criproxy.audit.files.tail import last_link, read_tail
from criproxy.audit.sinks.sink import RETRY, Progress
from criproxy.audit.spec import FileSpec
from criproxy.errors import UnavailableError

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
_LOCK_TRIES: Final = 200
_LOCK_PAUSE: Final = 0.005
"""A second in all, for another process that writes a batch or puts the file aside."""
_PUT_ASIDE_RETRY: Final = 60.0
"""Seconds until a file that could not be put aside is tried again; it grows meanwhile."""
_LINK: Final = 128
"""Bytes that a link adds to a line, at most, its newline included."""
_HEAD: Final = 1 << 20
_SHARE: Final = 64
"""The files' total is looked after each time that the current one has grown by this part of it."""


class _Dated(msgspec.Struct):
    stageTimestamp: datetime  # noqa: N815  as the record has it


_read_date = msgspec.json.Decoder(_Dated).decode


class FileOutlet:
    """Appends lines to a file. See the module for what it promises."""

    def __init__(
        self,
        spec: FileSpec,
        complain: Callable[[str], None],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        write: Callable[[int, memoryview], int] = os.write,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """Open the file. Raises UnavailableError, with the mend, when that cannot be."""
        self._path = Path(spec.path)
        self._spec = spec
        self._complain = complain
        self._wall_ns = wall_ns
        self._monotonic = monotonic
        self._write_some = write
        self._sync_file = sync
        rotate = spec.rotate
        limits = [limit for limit in (rotate.size, rotate.total) if limit is not None]
        self._limit = min(limits) if rotate.size is not None else None
        self._fd: int | None = None
        self._size = 0  # the file's, as we left it
        self._torn = 0  # bytes of an unfinished line at its end
        self._began = 0  # nanoseconds since the epoch: its first record
        self._link: ChainLink | None = None
        self._unsynced = False
        self._unsafe = ""  # what went wrong with the last fsync
        self._synced_at = monotonic()
        self._put_aside_after = 0.0
        self._renew = False
        self._looked_after = 0
        try:
            self._ready()
        except OSError as error:
            raise UnavailableError(
                f"cannot open the audit log {self._path}: {error.strerror}; "
                "set its path to one that can be written"
            ) from error
        self._unlock()
        self._keeper = RotatedFiles(
            self._path,
            compress=rotate.compress,
            keep=rotate.keep,
            total=rotate.total,
            reserve=self._limit or 0,
            complain=complain,
        )
        self._keeper.tidy()

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Append lines."""
        done = 0
        trouble = self._unsafe = ""
        try:
            while done < len(lines):
                self._ready()
                try:
                    if self._due(lines[done]):
                        self._put_aside()
                    else:
                        count, error = self._append(lines[done:])
                        done += count
                        if error is not None:
                            raise error
                finally:
                    self._unlock()
        except OSError as error:
            trouble = self._explain(error)
        if self._spec.fsync == "always" or self._sync_due():
            self._sync()
        return Progress(done, trouble=trouble or self._unsafe, durable=not self._unsafe)

    def pause(self) -> float | None:
        """Until the next fsync or the file's age has come."""
        due = []
        if self._spec.fsync == "interval" and self._unsynced:
            due.append(self._synced_at + self._spec.interval - self._monotonic())
        if self._spec.rotate.age is not None and self._size:
            due.append(max(self._age_left(), self._put_aside_after - self._monotonic()))
        if self._renew:
            due.append(RETRY)  # that has failed
        return max(0.0, min(due)) if due else None

    def idle(self) -> str:
        """Sync, put aside for its age, open anew: whatever is due."""
        self._unsafe = ""
        if self._sync_due():
            self._sync()
        if self._renew or self._too_old():
            try:
                self._ready()
                try:
                    if self._too_old():
                        self._put_aside()
                        self._ready()
                finally:
                    self._unlock()
                self._renew = False
            except OSError as error:
                return self._explain(error)
        return self._unsafe

    def reopen(self) -> None:
        """Make the file anew if it has been moved, even when nothing is to be written."""
        self._renew = True

    def abort(self) -> None:
        """Nothing that can be broken off: a write to a file comes back when it does."""

    def close(self) -> str:
        """Sync and close."""
        self._unsafe = trouble = ""
        try:
            self._leave()
        except OSError as error:
            trouble = self._explain(error)
        self._keeper.close()
        return trouble or self._unsafe

    def _ready(self) -> None:
        """Have the file that has the name now, locked, its end known."""
        while True:
            if self._fd is None:
                self._open()
            assert self._fd is not None
            self._lock(self._fd)
            status = os.fstat(self._fd)
            if self._is_current(status):
                break
            self._unlock()
            self._leave()
        if status.st_size != self._size:
            try:
                self._settle(status.st_size)
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
        self._size = -1  # not known yet
        self._torn = 0

    def _is_current(self, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(status, os.stat(self._path))
        except FileNotFoundError:
            return False

    def _settle(self, size: int) -> None:
        """Find out how the file ends, which somebody else has written or cut off."""
        assert self._fd is not None
        tail = read_tail(self._fd, size)
        self._torn = 0
        if self._spec.chain:
            known = [one for one in (self._link, tail.link) if one is not None]
            if tail.link is None:
                known.append(last_link(self._path))
            # Never back: that lines were cut off since we wrote them has to show.
            self._link = max(known, key=lambda one: one.sequence)
        self._began = self._date_of_first()
        if not tail.closed:
            size += self._write_some(self._fd, memoryview(b"\n"))
        self._size = size

    def _date_of_first(self) -> int:
        assert self._fd is not None
        line = os.pread(self._fd, _HEAD, 0).partition(b"\n")[0]
        try:
            return int(_read_date(line).stageTimestamp.timestamp() * 1e9)
        except msgspec.DecodeError:
            return self._wall_ns()

    def _append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append lines up to the file's limit; return how many are written, and what went wrong."""
        assert self._fd is not None
        data = bytearray()
        ends: list[int] = []
        links: list[ChainLink] = []
        before = self._link
        for line in lines:
            if ends and self._past(len(data), line):
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
        position = self._torn
        view = memoryview(data)
        try:
            while position < len(data):
                position += self._write_some(self._fd, view[position:])
        except OSError as failure:
            error = failure
        self._size += position - self._torn
        self._unsynced = self._unsynced or position > self._torn
        count = bisect_right(ends, position)
        if count and links:
            self._link = links[count - 1]
        self._torn = position - (ends[count - 1] if count else 0)
        self._look_after()
        return count, error

    def _past(self, more: int, line: bytes) -> bool:
        """Whether the file is over its limit with ``more`` bytes and then a line."""
        room = len(line) + (_LINK if self._link else 1)
        return self._limit is not None and self._size + more + room > self._limit

    def _look_after(self) -> None:
        """Without a limit of its own the current file's growth is what the total goes by."""
        total = self._spec.rotate.total
        if total is not None and self._size - self._looked_after > total // _SHARE:
            self._looked_after = self._size
            self._keeper.tidy()

    def _due(self, line: bytes) -> bool:
        return self._too_old() or (self._can_put_aside() and self._past(0, line))

    def _too_old(self) -> bool:
        age = self._spec.rotate.age
        return age is not None and self._can_put_aside() and self._age_left() <= 0

    def _can_put_aside(self) -> bool:
        """Not an empty file, not within a line, not when that has just failed."""
        return self._size > 0 and not self._torn and self._monotonic() >= self._put_aside_after

    def _age_left(self) -> float:
        return (self._spec.rotate.age or 0.0) - (self._wall_ns() - self._began) / 1e9

    def _put_aside(self) -> None:
        """Give the file the next number, and go on with a new one."""
        if self._spec.fsync != "none":
            self._sync()
        try:
            self._path.rename(next_name(self._path, self._wall_ns()))
            if self._spec.fsync != "none":
                sync_directory(self._path.parent)
        except OSError as error:
            self._put_aside_after = self._monotonic() + _PUT_ASIDE_RETRY
            self._complain(
                f"cannot put the audit log {self._path} aside: {error.strerror}; "
                "it grows, and that is tried again each minute"
            )
            return
        self._unlock()
        self._leave()
        self._keeper.tidy()

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

    def _leave(self) -> None:
        """Let go of the file; a line that is there in part is written whole to the next."""
        if self._fd is None:
            return
        try:
            if self._torn and os.fstat(self._fd).st_size == self._size:
                os.ftruncate(self._fd, self._size - self._torn)
            if self._spec.fsync != "none":
                self._sync()
        finally:
            os.close(self._fd)
            self._fd = None
            self._size = self._torn = self._looked_after = 0

    def _sync_due(self) -> bool:
        return (
            self._spec.fsync == "interval"
            and self._unsynced
            and self._monotonic() >= self._synced_at + self._spec.interval
        )

    def _sync(self) -> None:
        """Have what is written on the disk, or note what went wrong in ``_unsafe``."""
        self._synced_at = self._monotonic()
        if self._fd is None or not self._unsynced:
            return
        self._unsynced = False  # the kernel tells of a failure once, and has let go of the data
        try:
            self._sync_file(self._fd)
        except OSError as error:
            self._unsafe = (
                f"cannot have {self._path} on the disk (fsync): {error.strerror}; what was written "
                "since the last time may not outlive a crash of the machine"
            )

    def _explain(self, error: OSError) -> str:
        return (
            f"cannot write {self._path}: {error.strerror}; it is tried again each second, "
            "and records wait in memory as far as its queue goes"
        )

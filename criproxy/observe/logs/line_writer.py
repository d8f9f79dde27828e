"""Writes log lines to a file or stderr on a thread, so that no caller waits.

Lines that cannot be written (a full disk, a pipe that nobody reads) wait in memory up to a limit;
further lines are lost and counted, and once writing works again a line reports their number.

Several processes may write to the same file or stderr. Their lines do not interleave: a file is
opened for appending, and a pipe, socket or terminal is written in whole lines of at most PIPE_BUF
bytes, which are atomic (pipe(7)). A line longer than that may be interleaved. A line that a full
disk has cut short is written again as a whole, and no process continues another's fragment.
"""

import contextlib
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from criproxy.errors import UnavailableError

LARGEST_QUEUE: Final = 8 << 20
"""Bytes of lines that may wait to be written: those of some 20,000 calls."""

_GATHERING: Final = 0.02
"""Seconds for which lines are collected before they are written together."""

_SETTLING: Final = 0.2
"""Seconds after which a line at the end of the file is taken for one that was cut short."""

_RETRY: Final = 1.0
"""Seconds until a failed write is tried again."""


class LineWriter:
    """Appends lines to a file, or writes them to stderr, on its own thread."""

    loss_line: Callable[[int], bytes] = b"%d log lines lost".__mod__
    """Formats the line that reports the number of lost lines; set by the owner of the format."""

    def __init__(self, path: str | None, dropped: Callable[[int], None]) -> None:
        """Open the file (None: stderr) and start the thread.

        ``dropped`` is called with the number of lines that were just lost. Raises UnavailableError
        if the file cannot be opened.
        """
        self._path = path
        self._dropped = dropped
        self._fd = self._open()
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._atomic = LARGEST_QUEUE if self._is_file else select.PIPE_BUF
        # Whether the last line lacks its newline. None: maybe, after a write of another process.
        self._torn = None if self._is_file else False
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0  # lines lost and not yet reported
        self._failing = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line with its newline. Thread-safe; does not wait."""
        with self._lock:
            if self._size + len(line) > LARGEST_QUEUE:
                self._count_lost(1)
                return
            first = not self._lines
            self._lines.append(line)
            self._size += len(line)
        if first:
            self._wake.set()

    def reopen(self) -> None:
        """Open the file again after logrotate has moved it; keeps the old one on failure."""
        if self._path is None:
            return
        try:
            fd = self._open()
        except UnavailableError as error:
            self._report_error(str(error))
            return
        # In place: the number of a descriptor closed here could be reused during a write.
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def close(self, within: float = 2.0) -> None:
        """Write the waiting lines for at most ``within`` seconds, and end the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(within)

    def _open(self) -> int:
        if self._path is None:
            return sys.stderr.fileno()
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            path = Path(self._path)
            access = os.O_WRONLY if path.exists() and not path.is_file() else os.O_RDWR
            return os.open(path, access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise UnavailableError(
                f"cannot open the log file {self._path}: {error.strerror}; "
                "set log.file to a path that can be written"
            ) from error

    def _run(self) -> None:
        data = b""
        while True:
            if not data:
                self._wake.wait()
            self._wake.clear()  # before the look at _closing, which is set first
            last = self._closing.wait(_RETRY if data else _GATHERING)
            data = self._write(data)
            if not data:  # else the queued lines go on waiting, within their limit
                data = self._write(self._gathered())
            if last:
                self._count_lost(data.count(b"\n") + len(self._lines))
                return

    def _gathered(self) -> bytes:
        with self._lock:
            lines, self._lines = self._lines, []
            self._size = 0
            lost, self._lost = self._lost, 0
        if lost:
            lines.append(self.loss_line(lost) + b"\n")
        return b"".join(lines)

    def _write(self, data: bytes) -> bytes:
        """Write as much as possible; return the rest."""
        position = 0
        try:
            while position < len(data):
                end = min(position + self._atomic, len(data))
                if end < len(data):
                    end = data.rfind(b"\n", position, end) + 1 or end
                start = b"\n" if self._ends_within_line() else b""
                written = os.write(self._fd, start + data[position:end]) - len(start)
                position += max(written, 0)
                if position < end:
                    # Another process may append its lines meanwhile: not only the rest is written.
                    begin = data.rfind(b"\n", 0, position) + 1
                    self._torn = None if self._is_file else position > begin
                    position = begin
                else:
                    self._torn = False
        except OSError as error:
            if self._is_file:
                self._torn = None
            if not self._failing:
                self._failing = True
                self._report_error(f"cannot write the log to {self._path}: {error.strerror}")
        else:
            self._failing = False
        return data[position:]

    def _ends_within_line(self) -> bool:
        """Whether the last line lacks its newline, and no other process is writing it."""
        if self._torn is None:
            with contextlib.suppress(OSError):  # a file that stderr was redirected to
                size = self._size_within_line()
                if size:
                    time.sleep(_SETTLING)
                return bool(size) and self._size_within_line() == size
        return bool(self._torn)

    def _size_within_line(self) -> int:
        """Return the file's size in bytes if it ends within a line, else 0."""
        size = os.fstat(self._fd).st_size
        return size if size and os.pread(self._fd, 1, size - 1) != b"\n" else 0

    def _count_lost(self, lines: int) -> None:
        if lines:
            self._lost += lines
            self._dropped(lines)

    def _report_error(self, message: str) -> None:
        """Print an error to stderr, unless that is the log."""
        if self._path is not None:
            print(f"criproxy: {message}; what does not fit in memory is lost", file=sys.stderr)

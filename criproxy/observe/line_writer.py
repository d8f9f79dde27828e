"""Lines on their way to a file or to stderr, without anybody waiting for them.

A thread writes what has gathered; the event loop only appends. Lines that cannot be written (a full
disk, a pipe that nobody reads) wait in memory, up to a limit. What is above it is lost and counted,
and once writing works again a line says how many are missing.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from criproxy.errors import UnavailableError

LARGEST_QUEUE: Final = 8 << 20
"""Bytes of lines that may wait to be written: some 20,000 calls."""

_GATHERING: Final = 0.02
"""Seconds for which lines gather before they are written together."""

_RETRY: Final = 1.0
"""Seconds until a failed write is tried again."""


class LineWriter:
    """Writes lines to a file (appending) or to stderr, on a thread of its own."""

    loss_line: Callable[[int], bytes] = b"%d log lines lost".__mod__
    """Words the line that tells how many lines were lost; whoever knows the format sets it."""

    def __init__(self, path: str | None, dropped: Callable[[int], None]) -> None:
        """``path`` None is stderr. ``dropped`` is told how many lines were lost, as it happens.

        Raises UnavailableError when the file cannot be opened.
        """
        self._path = path
        self._dropped = dropped
        self._fd = self._open()
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
        """Take a line, with its newline. Never waits; from any thread."""
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
        """Open the file anew, for a logrotate that has moved it. Keeps the old one on failure."""
        if self._path is None:
            return
        try:
            fd = self._open()
        except UnavailableError as error:
            self._report_error(str(error))
            return
        # In place: a descriptor that is closed under the writing thread may be a client's next.
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def close(self, within: float = 2.0) -> None:
        """Write what waits, for ``within`` seconds at most."""
        self._closing.set()
        self._wake.set()
        self._thread.join(within)

    def _open(self) -> int:
        if self._path is None:
            return sys.stderr.fileno()
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
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
            last = self._closing.wait(_RETRY if data else _GATHERING)
            self._wake.clear()
            data = self._write(data)
            if not data:  # else the lines go on waiting, within their limit
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
        """Write what can be written; return the rest."""
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._report_error(f"cannot write the log to {self._path}: {error.strerror}")
        else:
            self._failing = False
        return data

    def _count_lost(self, lines: int) -> None:
        if lines:
            self._lost += lines
            self._dropped(lines)

    def _report_error(self, message: str) -> None:
        """Say on stderr what cannot be said in the log."""
        if self._path is not None:
            print(f"criproxy: {message}; what does not fit in memory is lost", file=sys.stderr)

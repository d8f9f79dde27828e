"""Writes records to standard output, one a line."""

import os
import select
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from criproxy.audit.sinks.sink import Outlet, Progress

_PIECE: Final = select.PIPE_BUF
"""Bytes for which a writable pipe has room: a larger write could block."""


class StdoutOutlet(Outlet):
    """Writes lines to a descriptor without changing its flags, since others may share it."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._torn = 0  # bytes of the next line that are already written
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._poll.register(self._stop, select.POLLIN)
        self._aborted = threading.Event()

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Write lines; waits for the reader until ``abort``."""
        data = memoryview(b"\n".join(lines) + b"\n")
        ends = list(accumulate(len(line) + 1 for line in lines))
        position = self._torn
        trouble = ""
        try:
            while position < len(data) and self._can_write():
                position += os.write(self._fd, data[position : position + _PIECE])
        except OSError as error:
            trouble = f"cannot write to standard output: {error.strerror}; tried again each second"
        done = bisect_right(ends, position)
        self._torn = position - (ends[done - 1] if done else 0)
        return Progress(done, trouble=trouble)

    def abort(self) -> None:
        """Make a waiting write return."""
        self._aborted.set()
        os.eventfd_write(self._stop, 1)

    def close(self) -> str:
        """Release all resources but the descriptor, which stays open."""
        os.close(self._stop)
        return ""

    def _can_write(self) -> bool:
        self._poll.poll()
        return not self._aborted.is_set()

"""Records on standard output, one a line. A reader that does not read holds up nobody else."""

import os
import select
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from criproxy.audit.sinks.sink import Progress

_PIECE: Final = select.PIPE_BUF
"""Bytes for which a pipe that can be written has room: no more, or the write waits."""


class StdoutOutlet:
    """Writes lines to a descriptor that others may share, whose flags are left as they are."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._torn = 0  # bytes of the next line that are written already
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._poll.register(self._stop, select.POLLIN)
        self._aborted = threading.Event()

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Write lines, waiting for the reader as long as it takes."""
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

    def pause(self) -> float | None:
        """Nothing is ever due."""
        return None

    def idle(self) -> str:
        """Nothing is ever due."""
        return ""

    def reopen(self) -> None:
        """There is nothing to open."""

    def abort(self) -> None:
        """Have a write that waits for the reader come back."""
        self._aborted.set()
        os.eventfd_write(self._stop, 1)

    def close(self) -> str:
        """Let go, leaving the descriptor open."""
        os.close(self._stop)
        return ""

    def _can_write(self) -> bool:
        self._poll.poll()
        return not self._aborted.is_set()

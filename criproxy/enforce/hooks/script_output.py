"""Logs what a hook script prints, a bounded number of lines a second."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

_LINES: Final = 100
"""Lines that are logged a second; further ones wait in the pipe, and the script with them."""

_SIZE: Final = 4 << 10
"""Bytes that are read at a time, and of a line that is logged in one part."""

_PIPE_SIZE: Final = 64 << 10
"""Bytes that a pipe holds (pipe(7))."""


class ScriptOutput:
    """A pipe for the output of one runner. Without ``log``, the output is this process's stderr."""

    def __init__(self, log: Callable[[str], None] | None) -> None:
        """``log`` is called with each line."""
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._reader: int | None = None
        self._writer: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""

    def open(self) -> int | None:
        """Return the descriptor for the runner to write to; None for this process's stderr."""
        if self._log is not None:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            self._loop.add_reader(self._reader, self._read)
        return self._writer

    def close_writer(self) -> None:
        """Close the descriptor that :meth:`open` returned."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def close(self) -> None:
        """Log what has been printed, and close the pipe."""
        self.close_writer()
        if self._timer is not None:
            self._timer.cancel()
        if self._reader is not None:
            self._loop.remove_reader(self._reader)
            with contextlib.suppress(BlockingIOError):
                self._buffer += os.read(self._reader, _PIPE_SIZE)
            self._close_reader()

    def _read(self) -> None:
        assert self._reader is not None
        try:
            data = os.read(self._reader, _SIZE)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._reader)
            self._close_reader()
            return
        self._buffer += data
        self._write_lines()

    def _close_reader(self) -> None:
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None
        self._write_lines(at_end=True)

    def _write_lines(self, at_end: bool = False) -> None:
        assert self._log is not None
        *lines, self._buffer = self._buffer.split(b"\n", _LINES)
        if self._buffer and (at_end or (len(lines) < _LINES and len(self._buffer) > _SIZE)):
            lines.append(self._buffer[: 4 * _SIZE])
            self._buffer = b""
        for line in lines:
            self._log(line.decode(errors="replace"))
        if len(lines) >= _LINES and self._reader is not None:
            self._loop.remove_reader(self._reader)
            self._timer = self._loop.call_later(1.0, self._resume)

    def _resume(self) -> None:
        if self._reader is not None:
            self._loop.add_reader(self._reader, self._read)
            self._write_lines()

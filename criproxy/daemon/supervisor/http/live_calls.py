"""Distributes the lines of calls to the readers of the admin socket.

Workers send lines only while somebody reads, which they are told again and again. Each reader has a
queue of its own: one that is slow loses lines, which are counted, and delays neither the workers
nor the other readers.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from criproxy.errors import CriproxyError

MAX_READERS: Final = 8
"""Readers at once."""

MAX_QUEUED: Final = 4 << 20
"""Bytes of lines that wait for one reader: those of some 8,000 calls."""

_LEASE: Final = 5.0
"""Seconds for which workers send lines after they have been told."""

_RENEWAL: Final = 1.0
"""Seconds until they are told again."""

_SIGN_OF_LIFE: Final = 5.0
"""Seconds without a line after which an empty line shows whether the reader is still there."""


class LiveReader:
    """The queue of one reader. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0

    def put(self, lines: Sequence[bytes], lost: int) -> None:
        """Add lines as far as there is room. Does not wait. ``lost``: calls without a line."""
        with self._changed:
            self._lost += lost
            for line in lines:
                if self._size + len(line) > MAX_QUEUED:
                    self._lost += 1
                else:
                    self._lines.append(line)
                    self._size += len(line)
            self._changed.notify()

    def take(self, within: float) -> bytes:
        """Wait for lines, for so many seconds at most; return them, each with its newline.

        Where calls were left out, a line ``{"event": "calls lost", "count": N}`` is the last.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._lost, within)
            lines, self._lines = self._lines, []
            lost, self._lost = self._lost, 0
            self._size = 0
        if lost:
            lines.append(b'{"event":"calls lost","count":%d}' % lost)
        return b"".join(line + b"\n" for line in lines)


class LiveCalls:
    """The readers of the lines of calls."""

    def __init__(self, have_lines_sent: Callable[[float], None]) -> None:
        """``have_lines_sent`` has the workers send lines for so many seconds, on any thread.

        It returns when they do, or raises TimeoutError, or a CriproxyError if they cannot.
        """
        self._have_lines_sent = have_lines_sent
        self._lock = threading.Lock()
        self._readers: tuple[LiveReader, ...] = ()
        self._left = threading.Event()

    def add(self, lines: Sequence[bytes], lost: int) -> None:
        """Pass lines of calls that have ended to all readers. Does not wait."""
        for reader in self._readers:
            reader.put(lines, lost)

    def open(self) -> LiveReader | None:
        """Return a new reader, for calls that end from now on; None if there are too many.

        Raises a CriproxyError if nothing can be sent.
        """
        with self._lock:
            if len(self._readers) >= MAX_READERS:
                return None
            reader = LiveReader()
            self._readers = (*self._readers, reader)
            if len(self._readers) == 1:
                left = self._left = threading.Event()
                threading.Thread(
                    target=self._renew, args=(left,), name="live calls", daemon=True
                ).start()
        try:
            self._renew_once()
        except BaseException:
            self.close(reader)
            raise
        return reader

    def lines(self, reader: LiveReader) -> Iterator[bytes]:
        """Yield what a reader is to be sent, until the iterator is closed; begins at once."""
        try:
            yield b"\n"
            while True:
                yield reader.take(_SIGN_OF_LIFE) or b"\n"
        finally:
            self.close(reader)

    def close(self, reader: LiveReader) -> None:
        """Forget a reader."""
        with self._lock:
            self._readers = tuple(each for each in self._readers if each is not reader)
            if not self._readers:
                self._left.set()

    def _renew(self, left: threading.Event) -> None:
        while not left.wait(_RENEWAL):
            with suppress(CriproxyError):  # it is tried again
                self._renew_once()

    def _renew_once(self) -> None:
        with suppress(TimeoutError, RuntimeError):  # it is tried again
            self._have_lines_sent(_LEASE)

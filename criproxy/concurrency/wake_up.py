"""Wakes a thread that waits in a selector or in poll(2)."""

import os
import threading
from contextlib import suppress


class WakeUp:
    """A file object for a selector, which is readable from :meth:`wake` until :meth:`clear`."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """Return the descriptor; it is only valid until :meth:`close`."""
        return self._event

    def wake(self) -> None:
        """Wake the thread; does nothing once this is closed. Thread-safe."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Let the thread wait again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def close(self) -> None:
        """Close the descriptor; a thread that is left behind may still call :meth:`wake`."""
        with self._lock:
            self._closed = True
            os.close(self._event)

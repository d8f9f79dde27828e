"""Turns signals that end a process into an exception, except while something is being undone."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedBySignal(KeyboardInterrupt):
    """A signal asked this process to end."""


class Signals:
    """The handlers of the signals, while the block of :meth:`raised` is executed."""

    def __init__(self) -> None:
        self._shielded = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise InterruptedBySignal for a signal. In the main thread only."""
        before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Ignore signals: what was begun is put back, or kept, as a whole."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False

    def _handle(self, number: int, _: Any) -> None:
        if not self._shielded:
            raise InterruptedBySignal(f"interrupted by {signal.Signals(number).name}")

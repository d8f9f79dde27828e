"""The figures of the page, made once for all who look at it, and only while somebody does.

A thread asks the workers now and then, and keeps what the page is sent; each stream takes the last
from there when its client has read what it was sent before. So a client that reads slowly misses
some, and nothing waits for it or grows.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from criproxy.overview.figures import Window
from criproxy.overview.page_form import page_form

_INTERVAL: Final = 2.0
"""Seconds between two looks at the daemon."""

_WINDOW: Final = 60.0
"""Seconds that rates and quantiles are about, as on the screen of ``criproxy top``."""


class LiveOverview:
    """The events of the page. Thread-safe."""

    def __init__(
        self, look: Callable[[], Mapping[str, Any]], failed: Callable[[Exception], None]
    ) -> None:
        """``look`` returns the state of the daemon with its last pod starts.

        It raises TimeoutError or RuntimeError if the daemon's event loop does not turn. ``failed``
        is called with any other error, of the first of some looks that fail.
        """
        self._look = look
        self._failed = failed
        self._changed = threading.Condition()
        self._readers = 0
        self._left = threading.Event()
        self._number = 0
        self._event = b""

    def open(self) -> None:
        """Count a reader: figures are made from now on."""
        with self._changed:
            self._readers += 1
            if self._readers > 1:
                return
            self._left = threading.Event()
            self._event = b""
            arguments = (self._left,)
        threading.Thread(target=self._watch, args=arguments, name="page", daemon=True).start()

    def close(self) -> None:
        """Forget a reader."""
        with self._changed:
            self._readers -= 1
            if not self._readers:
                self._left.set()

    def after(self, number: int, within: float) -> tuple[int, bytes]:
        """Wait for an event after that of a number (0: for any), for so many seconds at most.

        Returns its number with the event, as a server sends it; or the number with no bytes.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._event and self._number != number, within)
            if self._number == number:
                return number, b""
            return self._number, self._event

    def _watch(self, left: threading.Event) -> None:
        window, fails = Window(_WINDOW), False
        while not left.is_set():
            try:
                event, fails = self._make(window), False
            except Exception as error:  # whatever it is, the page says so, and goes on
                if not fails:
                    self._failed(error)
                event, fails = _event("problem", "no figures: the daemon's log has the error"), True
            self._publish(event, left)
            left.wait(_INTERVAL)

    def _make(self, window: Window) -> bytes:
        try:
            state = self._look()
        except (TimeoutError, RuntimeError):
            return _event("problem", "the daemon's event loop does not turn")
        found = window.add(state) | {"starts": state["starts"]}
        return _event("overview", page_form(found))

    def _publish(self, event: bytes, left: threading.Event) -> None:
        with self._changed:
            if not left.is_set():
                self._number += 1
                self._event = event
                self._changed.notify_all()


def _event(name: str, data: Any) -> bytes:
    """Return an event as the HTML standard has it, section 9.2, "Server-sent events".

    The JSON is one line, as an event's data has to be.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))

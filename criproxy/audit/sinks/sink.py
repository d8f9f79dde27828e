"""A sink: a queue, and a thread that writes its lines to an outlet (file, syslog, ...)."""

import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Final, NamedTuple, Protocol

from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.sink_queue import SinkQueue

RETRY: Final = 1.0
"""Seconds until a failed write is tried again."""

LogError = Callable[[str], None]
"""Writes an error message to the daemon's log."""

_BATCH_RECORDS: Final = 4096
_BATCH_BYTES: Final = 1 << 20
"""Records and bytes that are written together at most."""

_JOIN_TIMEOUT: Final = 1.0
"""Seconds to wait for an aborted write to return."""


class Progress(NamedTuple):
    """The result of writing lines to an outlet."""

    done: int
    """The number of lines, from the first, that are written or dropped."""
    lost: int = 0
    """The number of dropped lines among them."""
    reason: str = ""
    """The reason for dropping them, one of DROPS."""
    trouble: str = ""
    """An error message with its remedy, if not all lines were written."""
    retry: float = RETRY
    """Seconds after which the remaining lines are tried again."""
    durable: bool = True
    """Whether the written lines survive a crash as far as the outlet's settings promise."""


class Outlet(Protocol):
    """The destination of lines. Called on the sink's thread, except ``abort``, and ``close`` after
    the thread's end."""

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Write as many lines as possible. Does not raise."""
        ...

    def pause(self) -> float | None:
        """Return the seconds until ``idle`` has work to do; None: it has none."""
        return None

    def idle(self) -> str:
        """Do the work that is due without lines to write. Returns an error message or ""."""
        return ""

    def reopen(self) -> None:
        """Reopen a file or connection before the next write."""
        return

    def abort(self) -> None:
        """Make a waiting write return now, and later ones not wait. Thread-safe."""
        ...

    def close(self) -> str:
        """Release all resources. Returns an error message or ""."""
        ...


class Sink:
    """One destination of records."""

    def __init__(
        self,
        name: str,
        queue: SinkQueue,
        outlet: Outlet,
        counts: SinkCounts,
        log_error: LogError,
    ) -> None:
        """Create a sink that is not started.

        ``log_error`` is called once when an error begins and once when it ends.
        """
        self.name = name
        self.queue = queue
        self._outlet = outlet
        self._counts = counts
        self._log_error = log_error
        self._trouble = ""
        self._reopening = False
        self._deadline: float | None = None  # None: not closing
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"audit {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def reopen(self) -> None:
        """Reopen the outlet on the sink's thread. Does not wait."""
        self._reopening = True
        self.queue.poke()

    def stop_by(self, deadline: float) -> None:
        """Write queued lines until ``deadline`` (seconds of the monotonic clock), then stop."""
        self._deadline = deadline
        self._closing.set()
        self.queue.poke()

    def join(self) -> None:
        """Wait for the end that ``stop_by`` has begun; count the remaining lines as dropped."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, (self._deadline or 0.0) - monotonic()))
            self._outlet.abort()
            self._thread.join(_JOIN_TIMEOUT)
        self.queue.abandon()
        if self._thread.is_alive():
            self._log_error(f"audit sink {self.name} hangs in a write and is left behind")
        elif trouble := self._outlet.close():
            self._report(trouble)

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            lines = self.queue.peek(
                _BATCH_RECORDS, _BATCH_BYTES, 0.0 if closing else self._outlet.pause()
            )
            if self._reopening:
                self._reopening = False
                self._outlet.reopen()
            if lines:
                self._write(lines)
            elif closing:
                return
            else:
                self._idle()
            if self._deadline is not None and monotonic() >= self._deadline:
                return

    def _write(self, lines: Sequence[bytes]) -> None:
        try:
            progress = self._outlet.write(lines)
        except Exception as error:  # a bug must not end the sink
            progress = Progress(0, trouble=f"a fault of criproxy's, tried again: {error!r}")
        self.queue.finish(progress.done, progress.lost, progress.reason, progress.durable)
        self._report(progress.trouble)
        if progress.done < len(lines) and progress.trouble:
            self._wait(progress.retry)

    def _idle(self) -> None:
        try:
            self._report(self._outlet.idle())
        except Exception as error:  # a bug must not end the sink
            self._report(f"a fault of criproxy's, tried again: {error!r}")
            self._wait(RETRY)

    def _wait(self, seconds: float) -> None:
        if self._closing.wait(seconds) and self._deadline is not None:
            left = self._deadline - monotonic()
            sleep(max(0.0, min(seconds, left, RETRY / 10)))

    def _report(self, trouble: str) -> None:
        """Count an error; log its beginning and its end."""
        if trouble:
            self._counts.errors += 1
        if trouble == self._trouble:
            return
        if trouble:
            self._log_error(f"audit sink {self.name}: {trouble}")
        else:
            self._log_error(f"audit sink {self.name} works again")
        self._trouble = trouble

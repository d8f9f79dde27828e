"""A sink: a queue, a thread, and an outlet that knows how to write to one kind of place."""

import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Final, NamedTuple, Protocol

from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.sink_queue import SinkQueue

RETRY: Final = 1.0
"""Seconds until a failed write is tried again."""

_MOST: Final = 4096
_LARGEST: Final = 1 << 20
"""Records and bytes that are written together."""

_LEAVING: Final = 1.0
"""Seconds that a write which was broken off has to come back."""


class Progress(NamedTuple):
    """What has become of the lines that an outlet was given."""

    done: int
    """The first so many are done with: written, or lost for good."""
    lost: int = 0
    """Of these."""
    reason: str = ""
    """Why those are lost, as AuditCounts has it."""
    trouble: str = ""
    """What was in the way of the rest (the mend with it), or of what was lost."""
    retry: float = RETRY
    """Seconds after which the rest is to be tried again."""
    durable: bool = True
    """Whether what is written is known to outlive a crash as far as the outlet promises."""


class Outlet(Protocol):
    """Where lines go. All but ``abort`` is called on the sink's thread (``close`` after it)."""

    def write(self, lines: Sequence[bytes]) -> Progress:
        """Write what can be written. Does not raise."""
        ...

    def pause(self) -> float | None:
        """Seconds after which ``idle`` has something to do; None: nothing."""
        ...

    def idle(self) -> str:
        """Do what is due when nothing is written. Returns what went wrong, or nothing."""
        ...

    def reopen(self) -> None:
        """Open anew with the next write what may have been moved."""
        ...

    def abort(self) -> None:
        """From any thread: have a write that waits come back now, and later ones not wait."""
        ...

    def close(self) -> str:
        """Let go of everything. Returns what went wrong, or nothing."""
        ...


class Sink:
    """One place where records go."""

    def __init__(
        self,
        name: str,
        queue: SinkQueue,
        outlet: Outlet,
        counts: SinkCounts,
        complain: Callable[[str], None],
        *,
        synced: bool = False,
        max_wait: float = 0.0,
    ) -> None:
        """``max_wait``: seconds that calls wait for its queue. ``complain`` is told of troubles as
        they begin and end, each once."""
        self.name = name
        self.queue = queue
        self.synced = synced
        self.max_wait = max_wait
        self._outlet = outlet
        self._counts = counts
        self._complain = complain
        self._trouble = ""
        self._reopening = False
        self._deadline: float | None = None  # None: not closing
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"audit {name}", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def reopen(self) -> None:
        """Have the outlet opened anew, soon, on the sink's thread."""
        self._reopening = True
        self.queue.poke()

    def finish_by(self, deadline: float) -> None:
        """Write what waits until ``deadline``, on the monotonic clock, and no longer."""
        self._deadline = deadline
        self._closing.set()
        self.queue.poke()

    def join(self) -> None:
        """Wait for the end of what ``finish_by`` has begun; count what is left as dropped."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, (self._deadline or 0.0) - monotonic()))
            self._outlet.abort()
            self._thread.join(_LEAVING)
        self.queue.abandon()
        if self._thread.is_alive():
            self._complain(f"audit sink {self.name} hangs in a write and is left behind")
        elif trouble := self._outlet.close():
            self._note(trouble)

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            lines = self.queue.peek(_MOST, _LARGEST, 0.0 if closing else self._outlet.pause())
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
        except Exception as error:  # ours, and it must not end the sink
            progress = Progress(0, trouble=f"a fault of criproxy's, tried again: {error!r}")
        self.queue.finish(progress.done, progress.lost, progress.reason, progress.durable)
        self._note(progress.trouble)
        if progress.done < len(lines) and progress.trouble:
            self._wait(progress.retry)

    def _idle(self) -> None:
        try:
            self._note(self._outlet.idle())
        except Exception as error:  # ours, and it must not end the sink
            self._note(f"a fault of criproxy's, tried again: {error!r}")
            self._wait(RETRY)

    def _wait(self, seconds: float) -> None:
        if self._closing.wait(seconds) and self._deadline is not None:
            left = self._deadline - monotonic()
            sleep(max(0.0, min(seconds, left, RETRY / 10)))

    def _note(self, trouble: str) -> None:
        """Say of each trouble that it began, and once that all is well again."""
        if trouble:
            self._counts.errors += 1
        if trouble == self._trouble:
            return
        if trouble:
            self._complain(f"audit sink {self.name}: {trouble}")
        else:
            self._complain(f"audit sink {self.name} works again")
        self._trouble = trouble

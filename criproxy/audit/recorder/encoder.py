"""Makes records of the intake's items on a thread, and puts them into every sink's queue.

Each sink has its own queue and thread, so a sink that is stuck does not delay another.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Protocol

from criproxy.audit.items import LISTINGS, Item
from criproxy.audit.recorder.intake import Intake, Source, Turn
from criproxy.audit.sinks.sink import LogError, Sink


class EncodedRecord(Protocol):
    """A record: ``line`` is a JSON object without its newline."""

    @property
    def line(self) -> bytes: ...  # noqa: D102


class RecordEncoder:
    """The encoder's thread and the sinks behind it."""

    def __init__(
        self,
        make: Callable[[Item], EncodedRecord | None],
        intake: Intake,
        sinks: Sequence[Sink],
        log_error: LogError,
    ) -> None:
        """Start the thread and the sinks. ``make`` is called on the encoder's thread only."""
        self._make = make
        self._intake = intake
        self._sinks = tuple(sinks)
        self._blockers = tuple(sink for sink in sinks if sink.queue.blocking)
        self._log_error = log_error
        self._failed = False
        self._deadline = float("inf")
        self._sources: dict[Source, str] = {}
        self._lock = threading.Lock()
        for sink in self._sinks:
            if sink.queue.blocking:
                sink.queue.on_room = self._report_room
            sink.start()
        self._thread = threading.Thread(target=self._run, name="audit encoder", daemon=True)
        self._thread.start()

    def add_source(self, source: Source, listener: str) -> None:
        """Report to a source whether there is room for its listener's records."""
        with self._lock:
            self._sources[source] = listener
        self._report_room()

    def remove_source(self, source: Source) -> None:
        """Report to a source no longer."""
        with self._lock:
            self._sources.pop(source, None)

    def report_dropped(self, reasons: dict[str, int]) -> None:
        """Report records that a worker dropped, and has counted, in the log of each sink."""
        for sink in self._sinks:
            for reason, count in reasons.items():
                sink.queue.report_dropped(count, reason)

    def reopen(self) -> None:
        """Reopen files, as after logrotate has moved them. Does not wait."""
        for sink in self._sinks:
            sink.reopen()

    def close(self, within: float) -> None:
        """Make and write all records for at most ``within`` seconds; count others as dropped."""
        self._deadline = deadline = monotonic() + within
        self._intake.close()
        self._thread.join()
        for sink in self._sinks:
            sink.stop_by(deadline)
        for sink in self._sinks:
            sink.join()

    def _run(self) -> None:
        while turn := self._intake.take():
            self._encode(turn)

    def _encode(self, turn: Turn) -> None:
        """Make records, give them to all sinks, and report to the sources."""
        lines: list[bytes] = []
        failed = unmade = 0
        for item in turn.items:
            if monotonic() > self._deadline:
                unmade += turn.listener != LISTINGS
                continue
            try:
                if record := self._make(item.decode()):
                    lines.append(record.line)
            except Exception as error:  # a bug must not end the audit log
                failed += 1
                self._report_failure(error)
        for sink in self._sinks:
            if lines:
                sink.queue.put(lines, turn.listener)
            if failed:
                sink.queue.count_dropped(failed, "failed", turn.listener)
            if unmade:
                sink.queue.count_dropped(unmade, "closing", turn.listener)
        sources = Counter(item.source for item in turn.items)
        if self._blockers:
            self._report_room()
        durable = not failed and not unmade
        for source, count in sources.items():
            first = source.taken(count)
            done = partial(source.done, first, count)
            _WaitForSinks(done, turn.listener, self._sinks, durable)

    def _report_room(self) -> None:
        with self._lock:  # while reporting, too, so that the last report is the latest
            for source, listener in self._sources.items():
                source.set_full(any(sink.queue.is_full(listener) for sink in self._blockers))

    def _report_failure(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._log_error(
                "a call could not be made into an audit record, and is counted as dropped; "
                f"this is a fault of criproxy's: {error!r}"
            )


class _WaitForSinks:
    """Calls ``done`` when all sinks have written or dropped a listener's lines.

    It is called with whether the lines are durable in each sink that blocks.
    """

    def __init__(
        self, done: Callable[[bool], None], listener: str, sinks: Sequence[Sink], durable: bool
    ) -> None:
        self._done = done
        self._left = len(sinks) + 1
        self._durable = durable
        self._lock = threading.Lock()
        for sink in sinks:
            one = self._one if sink.queue.blocking else self._one_that_drops
            sink.queue.when_finished(listener, one)
        self._one(durable)

    def _one_that_drops(self, durable: bool) -> None:
        self._one(True)

    def _one(self, durable: bool) -> None:
        with self._lock:
            self._left -= 1
            self._durable = self._durable and durable
            last = self._left == 0
        if last:
            self._done(self._durable)

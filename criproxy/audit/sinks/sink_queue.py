"""The bounded queue of a sink, which counts every record as written or dropped.

A queue that drops discards lines while it is full. As soon as there is room again, a record of kind
``Dropped`` is put where the others are missing; the records that were written and those reported as
dropped add up to all records that were put in. A queue that blocks accepts every line: the callers
have to respect ``full``.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from criproxy.audit.counts import SinkCounts
from criproxy.audit.dropped import DroppedRecords

Done = Callable[[bool], None]
"""Called from any thread with whether a record is durable."""


class SinkQueue:
    """The lines that wait for one sink. Any thread may put lines, the sink's thread takes them.

    A line stays in the queue until :meth:`finish`, so the limits include lines being written.
    """

    def __init__(
        self,
        *,
        records: int,
        size: int,
        blocking: bool,
        counts: SinkCounts,
        drop_record: Callable[[DroppedRecords], bytes],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Create a queue of ``records`` lines and ``size`` bytes; one line may exceed both.

        ``drop_record`` makes the record of kind ``Dropped``.
        """
        self.blocking = blocking
        self.full = False
        self.on_room: Callable[[], None] = lambda: None
        """Called on the sink's thread when ``full`` becomes false."""
        self._most = records
        self._largest = size
        self._counts = counts
        self._drop_record = drop_record
        self._wall_ns = wall_ns
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._put = 0  # lines ever put in, Dropped records included
        self._finished = 0
        self._drop_records: deque[tuple[int, DroppedRecords]] = deque()  # with their positions
        self._callbacks: deque[tuple[int, Done]] = deque()
        self._dropped = DroppedRecords()
        self._poked = False
        self._closed = False
        self._lock = threading.Condition(threading.Lock())

    def put(self, lines: Sequence[bytes]) -> None:
        """Append lines, or count them as dropped."""
        with self._lock:
            for line in lines:
                if self._closed or (self.full and not self.blocking):
                    self._count_dropped(1, "closing" if self._closed else "queue_full")
                else:
                    self._report_drops()
                    self._append(line)
            self._changed()

    def count_dropped(self, count: int, reason: str) -> None:
        """Count records that were dropped before they reached the queue."""
        with self._lock:
            self._count_dropped(count, reason)
            self._report_drops()
            self._changed()

    def when_finished(self, done: Done) -> None:
        """Call ``done`` when all lines put so far are written or dropped."""
        with self._lock:
            if self._finished < self._put:
                self._callbacks.append((self._put, done))
                return
            closed = self._closed
        done(not closed)

    def peek(self, records: int, size: int, wait: float | None) -> list[bytes]:
        """Return the oldest lines, at most ``records`` and ``size`` bytes, but at least one.

        Waits up to ``wait`` seconds (None: without a limit) for a line or :meth:`poke`.
        """
        with self._lock:
            if not self._lines and not self._poked:
                self._lock.wait(wait)
            self._poked = False
            batch: list[bytes] = []
            for line in islice(self._lines, records):
                size -= len(line)
                if size < 0 and batch:
                    break
                batch.append(line)
            return batch

    def poke(self) -> None:
        """Make :meth:`peek` return at once."""
        with self._lock:
            self._poked = True
            self._lock.notify()

    def finish(self, done: int, lost: int = 0, reason: str = "", durable: bool = True) -> None:
        """Remove the oldest ``done`` lines, all but ``lost`` of which are written.

        Not ``durable``: they are written but may not survive a crash.
        """
        with self._lock:
            if self._closed:  # abandoned during the write
                return
            was_full = self.full
            callbacks = self._take_out(done, lost, reason)
            self._changed()
            room = was_full and not self.full
        for callback in callbacks:
            callback(durable and not lost)
        if room:
            self.on_room()

    def abandon(self) -> None:
        """Count the remaining lines as dropped, and all later ones."""
        with self._lock:
            self._closed = True
            callbacks = self._take_out(len(self._lines), len(self._lines), "closing")
            self._changed()
        for callback in callbacks:
            callback(False)
        self.on_room()

    def _take_out(self, done: int, lost: int, reason: str) -> list[Done]:
        for _ in range(done):
            self._size -= len(self._lines.popleft())
        self._finished += done
        reports = []
        while self._drop_records and self._drop_records[0][0] <= self._finished:
            reports.append(self._drop_records.popleft()[1])
        records = done - len(reports)
        dropped = min(lost, records)
        self._counts.written += records - dropped
        if dropped:
            self._count_dropped(dropped, reason)
        if reports and lost >= done:  # dropped too, so the next Dropped record includes them
            for report in reversed(reports):
                self._dropped.merge(report)
        else:
            self._report_drops()
        callbacks = []
        while self._callbacks and self._callbacks[0][0] <= self._finished:
            callbacks.append(self._callbacks.popleft()[1])
        return callbacks

    def _count_dropped(self, count: int, reason: str) -> None:
        self._counts.dropped[reason] += count
        self._dropped.add(count, reason, self._wall_ns())

    def _report_drops(self) -> None:
        """Append a record of kind ``Dropped`` if there is something to report, and room."""
        if not self._dropped.reasons or self._closed or (self._lines and self._over()):
            return
        self._append(self._drop_record(self._dropped))
        self._drop_records.append((self._put, self._dropped))
        self._dropped = DroppedRecords()

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        self._put += 1
        self.full = self._over()

    def _over(self) -> bool:
        return len(self._lines) >= self._most or self._size >= self._largest

    def _changed(self) -> None:
        self.full = self._over()
        self._counts.backlog = len(self._lines)
        self._counts.backlog_bytes = self._size
        if self._lines:
            self._lock.notify()

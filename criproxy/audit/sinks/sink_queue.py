"""The bounded queue of a sink, which counts every record as written or dropped.

Each listener has a share of the queue: the limits divided by the number of listeners that have
lines in it. A listener may use more while there is room, and never less than its share, so the
queue holds at most twice its limits. Lines are written in the order of arrival as long as they fit
into one batch; otherwise each listener has an equal part of a batch.

A queue that drops discards the lines of a listener that is over its share of a full queue. As soon
as there is room again, a record of kind ``Dropped`` is put where the others are missing; the
records that were written and those reported as dropped add up to all records that were put in. A
queue that blocks accepts every line: the callers have to respect ``is_full``.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from criproxy.audit.counts import SinkCounts
from criproxy.audit.dropped import DroppedRecords

Done = Callable[[bool], None]
"""Called from any thread with whether a record is durable."""


class _Line(NamedTuple):
    number: int
    """The order of arrival."""
    data: bytes
    report: DroppedRecords | None
    """Set for a record of kind ``Dropped``."""


@dataclass(slots=True)
class _ListenerLines:
    """The lines of one listener."""

    waiting: deque[_Line] = field(default_factory=deque)
    """Lines that are not in the batch."""
    count: int = 0
    """Lines in the queue and in the batch."""
    size: int = 0
    """Their bytes."""
    batch_size: int = 0
    """Bytes in the batch that is being filled."""
    put: int = 0
    """Lines that were ever put in."""
    finished: int = 0
    """Lines that were written or dropped since."""
    callbacks: deque[tuple[int, Done]] = field(default_factory=deque)
    """With the number of finished lines that each waits for."""


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
        self.on_room: Callable[[], None] = lambda: None
        """Called when a listener for which the queue was full has room."""
        self._max_records = records
        self._max_size = size
        self._counts = counts
        self._drop_record = drop_record
        self._wall_ns = wall_ns
        self._no_listener = _ListenerLines()
        self._listeners: dict[str, _ListenerLines] = {"": self._no_listener}
        self._batch: deque[tuple[_ListenerLines, _Line]] = deque()
        self._count = 0
        self._size = 0
        self._next_number = 0
        self._full_for: set[str] = set()
        self._dropped = DroppedRecords()
        self._dropped_of = self._no_listener  # whose lines precede the Dropped record
        self._poked = False
        self._closed = False
        self._lock = threading.Condition(threading.Lock())

    def is_full(self, listener: str = "") -> bool:
        """Return whether a listener has used its share of a full queue."""
        with self._lock:
            full = not self._closed and self._is_full(self._of(listener))
            if full:
                self._full_for.add(listener)
            return full

    def put(self, lines: Sequence[bytes], listener: str = "") -> None:
        """Append a listener's lines, or count them as dropped."""
        with self._lock:
            own = self._of(listener)
            for line in lines:
                if self._closed or (not self.blocking and self._is_full(own)):
                    self._count_dropped(1, "closing" if self._closed else "queue_full", own)
                else:
                    self._report_drops()
                    self._append(own, line)
            self._changed()

    def count_dropped(self, count: int, reason: str, listener: str = "") -> None:
        """Count records that were dropped before they reached the queue."""
        with self._lock:
            self._count_dropped(count, reason, self._of(listener))
            self._report_drops()
            self._changed()

    def report_dropped(self, count: int, reason: str) -> None:
        """Report dropped records that are counted elsewhere."""
        with self._lock:
            self._dropped.add(count, reason, self._wall_ns())
            self._report_drops()
            self._changed()

    def when_finished(self, listener: str, done: Done) -> None:
        """Call ``done`` when all lines put so far for a listener are written or dropped."""
        with self._lock:
            own = self._of(listener)
            if own.finished < own.put:
                own.callbacks.append((own.put, done))
                return
            closed = self._closed
        done(not closed)

    def peek(self, records: int, size: int, wait: float | None) -> list[bytes]:
        """Return the oldest lines, at most ``records`` and ``size`` bytes, but at least one.

        Waits up to ``wait`` seconds (None: without a limit) for a line or :meth:`poke`.
        """
        with self._lock:
            if not self._count and not self._poked:
                self._lock.wait(wait)
            self._poked = False
            if not self._batch:
                # Half of a small queue, so that lines of other listeners get into the next batch.
                self._fill_batch(min(records, max(1, self._max_records // 2)), size)
            return [line.data for _, line in self._batch]

    def poke(self) -> None:
        """Make :meth:`peek` return at once."""
        with self._lock:
            self._poked = True
            self._lock.notify()

    def finish(self, done: int, lost: int = 0, reason: str = "", durable: bool = True) -> None:
        """Remove the first ``done`` lines of the batch, all but ``lost`` of which are written.

        Not ``durable``: they are written but may not survive a crash.
        """
        with self._lock:
            if self._closed:  # abandoned during the write
                return
            callbacks = self._take_out(done, lost, reason)
            self._changed()
            room = self._has_room()
        for callback in callbacks:
            callback(durable and not lost)
        if room:
            self.on_room()

    def abandon(self) -> None:
        """Count the remaining lines as dropped, and all later ones."""
        with self._lock:
            self._closed = True
            self._fill_batch(self._count, self._size)
            callbacks = self._take_out(len(self._batch), len(self._batch), "closing")
            self._changed()
        for callback in callbacks:
            callback(False)
        self.on_room()

    def _of(self, listener: str) -> _ListenerLines:
        own = self._listeners.get(listener)
        if own is None:
            own = self._listeners[listener] = _ListenerLines()
        return own

    def _is_over(self) -> bool:
        return self._count >= self._max_records or self._size >= self._max_size

    def _is_full(self, own: _ListenerLines) -> bool:
        if not self._is_over():
            return False
        sharing = sum(
            each is own or (each.count > 0 and each is not self._no_listener)
            for each in self._listeners.values()
        )
        return own.count * sharing >= self._max_records or own.size * sharing >= self._max_size

    def _has_room(self) -> bool:
        """Return whether some listener for which the queue was full has room."""
        has_room = {each for each in self._full_for if not self._is_full(self._of(each))}
        self._full_for -= has_room
        return bool(has_room)

    def _fill_batch(self, records: int, size: int) -> None:
        """Move lines into the batch: the same number of bytes for each listener, if possible."""
        sharing = [each for each in self._listeners.values() if each.waiting]
        for each in sharing:
            each.batch_size = 0
        while sharing and len(self._batch) < records:
            own = min(sharing, key=lambda each: each.batch_size) if sharing[1:] else sharing[0]
            length = len(own.waiting[0].data)
            if length > size and self._batch:
                break
            size -= length
            own.batch_size += length
            self._batch.append((own, own.waiting.popleft()))
            if not own.waiting:
                sharing.remove(own)
        self._batch = deque(sorted(self._batch, key=lambda each: each[1].number))

    def _take_out(self, done: int, lost: int, reason: str) -> list[Done]:
        own = self._no_listener
        reports = []
        callbacks = []
        for _ in range(done):
            own, line = self._batch.popleft()
            self._count -= 1
            self._size -= len(line.data)
            own.count -= 1
            own.size -= len(line.data)
            own.finished += 1
            if line.report is not None:
                reports.append(line.report)
            while own.callbacks and own.callbacks[0][0] <= own.finished:
                callbacks.append(own.callbacks.popleft()[1])
        records = done - len(reports)
        dropped = min(lost, records)
        self._counts.written += records - dropped
        if dropped:
            self._count_dropped(dropped, reason, own)
        if reports and lost >= done:  # dropped too, so the next Dropped record includes them
            for report in reversed(reports):
                self._dropped.merge(report)
        else:
            self._report_drops()
        return callbacks

    def _count_dropped(self, count: int, reason: str, own: _ListenerLines) -> None:
        self._counts.dropped[reason] += count
        self._dropped.add(count, reason, self._wall_ns())
        self._dropped_of = own

    def _report_drops(self) -> None:
        """Append a record of kind ``Dropped`` if there is something to report, and room."""
        if not self._dropped.reasons or self._closed or (self._count and self._is_over()):
            return
        self._append(self._dropped_of, self._drop_record(self._dropped), self._dropped)
        self._dropped = DroppedRecords()
        self._dropped_of = self._no_listener

    def _append(
        self, own: _ListenerLines, data: bytes, report: DroppedRecords | None = None
    ) -> None:
        own.waiting.append(_Line(self._next_number, data, report))
        own.count += 1
        own.size += len(data)
        own.put += 1
        self._next_number += 1
        self._count += 1
        self._size += len(data)

    def _changed(self) -> None:
        self._counts.backlog = self._count
        self._counts.backlog_bytes = self._size
        if self._count:
            self._lock.notify()

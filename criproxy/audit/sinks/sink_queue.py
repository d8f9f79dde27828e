"""What waits for a sink: bounded, counted to the record, and one record at least tells of a loss.

A queue that drops leaves out what comes while it is full. As soon as there is room again, a record
of kind ``Dropped`` stands where the others are missing; of all records that were put in, those
written and those reported as dropped add up to the whole. A queue that blocks takes everything:
that it is full is for those to heed who make records.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from criproxy.audit.counts import SinkCounts
from criproxy.audit.dropped import DroppedRecords

Done = Callable[[bool], None]
"""Told, from a thread, whether a record is where it was to go."""


class SinkQueue:
    """Lines on their way to one sink: any thread puts them in, the sink's takes them out.

    A line stays in the queue until :meth:`finish` says what became of it, so that the limits hold
    for what is being written as well.
    """

    def __init__(
        self,
        *,
        records: int,
        size: int,
        blocking: bool,
        counts: SinkCounts,
        notice: Callable[[DroppedRecords], bytes],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``size`` is in bytes; both limits may be passed by one line. ``notice`` makes the line
        that tells of missing ones."""
        self.blocking = blocking
        self.full = False
        self.on_room: Callable[[], None] = lambda: None
        """Called, from the sink's thread, when ``full`` has turned false."""
        self._most = records
        self._largest = size
        self._counts = counts
        self._notice = notice
        self._wall_ns = wall_ns
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._put = 0  # lines ever put in, notices among them
        self._finished = 0
        self._notices: deque[tuple[int, DroppedRecords]] = deque()  # which of the lines are notices
        self._tickets: deque[tuple[int, Done]] = deque()
        self._missing = DroppedRecords()
        self._poked = False
        self._closed = False
        self._lock = threading.Condition(threading.Lock())

    def put(self, lines: Sequence[bytes]) -> None:
        """Take lines, or count them as dropped."""
        with self._lock:
            for line in lines:
                if self._closed or (self.full and not self.blocking):
                    self._drop(1, "closing" if self._closed else "queue_full")
                else:
                    self._confess()
                    self._append(line)
            self._changed()

    def lose(self, count: int, reason: str) -> None:
        """Count records that did not even come this far."""
        with self._lock:
            self._drop(count, reason)
            self._confess()
            self._changed()

    def when_finished(self, done: Done) -> None:
        """Tell ``done`` when all that was put in so far has been written, or has not."""
        with self._lock:
            if self._finished < self._put:
                self._tickets.append((self._put, done))
                return
            closed = self._closed
        done(not closed)

    def peek(self, records: int, size: int, wait: float | None) -> list[bytes]:
        """Give the oldest lines: at most so many, of so many bytes in all, but one at least.

        Waits for a line for ``wait`` seconds (None: without a limit) or until :meth:`poke`.
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
        """Have :meth:`peek` return at once."""
        with self._lock:
            self._poked = True
            self._lock.notify()

    def finish(self, done: int, lost: int = 0, reason: str = "", durable: bool = True) -> None:
        """Take the oldest ``done`` lines out; all but ``lost`` of them are written.

        Not ``durable``: they are, but nobody can say whether they outlive a crash.
        """
        with self._lock:
            if self._closed:  # given up while they were being written
                return
            was_full = self.full
            tickets = self._take_out(done, lost, reason)
            self._changed()
            room = was_full and not self.full
        for ticket in tickets:
            ticket(durable and not lost)
        if room:
            self.on_room()

    def abandon(self) -> None:
        """Count all that is left as dropped; nothing is taken any more."""
        with self._lock:
            self._closed = True
            tickets = self._take_out(len(self._lines), len(self._lines), "closing")
            self._changed()
        for ticket in tickets:
            ticket(False)
        self.on_room()

    def _take_out(self, done: int, lost: int, reason: str) -> list[Done]:
        for _ in range(done):
            self._size -= len(self._lines.popleft())
        self._finished += done
        told = []
        while self._notices and self._notices[0][0] <= self._finished:
            told.append(self._notices.popleft()[1])
        records = done - len(told)
        dropped = min(lost, records)
        self._counts.written += records - dropped
        if dropped:
            self._drop(dropped, reason)
        if told and lost >= done:  # the notices are lost as well, and go with the next records
            for missing in reversed(told):
                self._missing.again(missing)
        else:
            self._confess()
        tickets = []
        while self._tickets and self._tickets[0][0] <= self._finished:
            tickets.append(self._tickets.popleft()[1])
        return tickets

    def _drop(self, count: int, reason: str) -> None:
        self._counts.dropped[reason] += count
        self._missing.add(count, reason, self._wall_ns())

    def _confess(self) -> None:
        """Say what is missing, where it is, as soon as there is room for it."""
        if not self._missing.reasons or self._closed or (self._lines and self._over()):
            return
        self._append(self._notice(self._missing))
        self._notices.append((self._put, self._missing))
        self._missing = DroppedRecords()

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

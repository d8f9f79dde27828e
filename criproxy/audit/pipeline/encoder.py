"""From what the event loop has seen to lines in every sink's queue, on a thread of its own.

The event loop only appends. One thread, the encoder, makes records and hands each to all sinks;
each sink has a queue and a thread of its own, so that one that is stuck holds up no other.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, sleep
from typing import Final, NamedTuple, Protocol

from criproxy.audit.items import CallAtStage, Item, RuntimeListing
from criproxy.audit.sinks.sink import LogError, Sink
from criproxy.audit.sinks.sink_queue import Done

_GATHERING: Final = 0.02
"""Seconds for which items gather before they are encoded together."""

_BATCH: Final = 256
"""Items after which the sinks are given what has been encoded of them."""

_TURN: Final = 4
"""Items after which the relay has its turn at the interpreter, if it waits for one: some hundred
microseconds, where it would be given one only after a millisecond. More often costs both more."""

_BEHIND: Final = 1000
"""Items that wait from which on the encoder gives nobody his turn: else a relay that never rests
would have it fall behind until records are dropped."""


class EncodedRecord(Protocol):
    """What a maker of records makes: ``line`` is a JSON object without its newline."""

    @property
    def line(self) -> bytes: ...  # noqa: D102


class IntakeLimits(NamedTuple):
    """What may wait to be encoded."""

    items: int = 20_000
    bytes: int = 64 << 20
    """Of the messages that were kept."""


INTAKE: Final = IntakeLimits()


class RecordEncoder:
    """The encoder's thread, before it an intake, behind it the sinks."""

    def __init__(
        self,
        make: Callable[[Item], EncodedRecord | None],
        sinks: Sequence[Sink],
        log_error: LogError,
        limits: IntakeLimits = INTAKE,
    ) -> None:
        """``make`` is called on the encoder's thread alone. The sinks are started here."""
        self._make = make
        self._sinks = tuple(sinks)
        self._blockers = tuple(sink for sink in sinks if sink.queue.blocking)
        self._log_error = log_error
        self._limits = limits
        self.blocking = bool(self._blockers)
        """Whether some sink must not lose a record."""
        self.synced = any(sink.synced for sink in self._blockers)
        """Whether one of these has each record on the disk before it is done with it."""
        self.max_wait = min((sink.max_wait for sink in self._blockers), default=0.0)
        """Seconds that a call may wait for room: the least of those sinks'."""
        self._items: deque[tuple[Item, int, Done | None]] = deque()
        self._held = 0  # items in the intake and in the encoder's hands
        self._size = 0  # bytes of their messages
        self._waiting: list[Callable[[], None]] = []
        self._failed = False
        self._closing = False
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        for sink in self._sinks:
            sink.queue.on_room = self._room
            sink.start()
        self._thread = threading.Thread(target=self._run, name="audit encoder", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether a sink that blocks has more to write than it may, or the intake before one."""
        return self.blocking and (
            self._held >= self._limits.items
            or self._size >= self._limits.bytes
            or any(sink.queue.full for sink in self._blockers)
        )

    def submit(self, item: Item) -> None:
        """Take an item: from any thread, without waiting.

        With a full intake it is dropped and counted for each sink, unless one blocks.
        """
        self._submit(item, None)

    def submit_synced(self, item: Item, done: Done) -> None:
        """Take an item, and tell ``done``, from a thread, when its record is durable.

        That is: written by each sink that blocks, and on the disk where it has ``fsync: always``.
        ``done(False)``: that has failed, or the pipeline was closed before.
        """
        self._submit(item, done)

    def count_dropped(self, reason: str) -> None:
        """Count a call of which there is to be no record, for each sink."""
        for sink in self._sinks:
            sink.queue.count_dropped(1, reason)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, from a thread, when ``full`` is false; at once if it is that now."""
        with self._lock:
            self._waiting.append(callback)
        self._room()

    def reopen(self) -> None:
        """Have files opened anew, as after logrotate has moved them. Does not wait."""
        for sink in self._sinks:
            sink.reopen()

    def close(self, within: float) -> None:
        """Write what can be written in ``within`` seconds; the rest counts as dropped."""
        deadline = monotonic() + within
        with self._lock:
            self._closing = True
            self._deadline = deadline
            self._wake.set()
            self._hurry.set()
        self._thread.join()
        for sink in self._sinks:
            sink.stop_by(deadline)
        for sink in self._sinks:
            sink.join()
        self._room()

    def _submit(self, item: Item, done: Done | None) -> None:
        size = _size(item)
        with self._lock:
            over = self._held >= self._limits.items or self._size + size > self._limits.bytes
            lost = self._closing or (over and self._held > 0 and not self.blocking)
            if not lost:
                self._held += 1
                self._size += size
                self._items.append((item, size, done))
                if len(self._items) == 1:
                    self._wake.set()
                if done is not None:
                    self._hurry.set()
                return
        if not isinstance(item, RuntimeListing):
            for sink in self._sinks:
                sink.queue.count_dropped(1, "closing" if self._closing else "intake_full")
        if done is not None:
            done(False)

    def _room(self) -> None:
        if not self._waiting or (self.full and not self._closing):
            return
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for callback in waiting:
            with suppress(RuntimeError):  # an event loop that is closed by now
                callback()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._hurry.wait(_GATHERING)
            with self._lock:
                self._wake.clear()
                self._hurry.clear()
                last = self._closing
            while self._items:
                self._encode(min(len(self._items), _BATCH))
            if last:
                return

    def _encode(self, count: int) -> None:
        """Encode the oldest items, give all sinks the lines, and make room."""
        lines: list[bytes] = []
        callbacks: list[Done] = []
        failed = unmade = size = 0
        for made in range(count):
            if made % _TURN == 0 and len(self._items) < _BEHIND:
                sleep(0)
            item, bytes_of_it, done = self._items.popleft()
            size += bytes_of_it
            if monotonic() > self._deadline:
                unmade += not isinstance(item, RuntimeListing)
            else:
                try:
                    if record := self._make(item):
                        lines.append(record.line)
                except Exception as error:  # ours, and it must not end the audit log
                    failed += 1
                    self._failure(error)
            if done is not None:
                callbacks.append(done)
        for sink in self._sinks:
            if lines:
                sink.queue.put(lines)
            if failed:
                sink.queue.count_dropped(failed, "failed")
            if unmade:
                sink.queue.count_dropped(unmade, "closing")
        for done in callbacks:
            _Together(done, self._blockers, well=not failed and not unmade)
        with self._lock:
            self._held -= count
            self._size -= size
        self._room()

    def _failure(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._log_error(
                "a call could not be made into an audit record, and is counted as dropped; "
                f"this is a fault of criproxy's: {error!r}"
            )


class _Together:
    """Waits for all sinks that block, then tells ``done`` once."""

    def __init__(self, done: Done, sinks: Sequence[Sink], well: bool) -> None:
        self._done = done
        self._left = len(sinks) + 1
        self._well = well
        self._lock = threading.Lock()
        for sink in sinks:
            sink.queue.when_finished(self._one)
        self._one(well)

    def _one(self, well: bool) -> None:
        with self._lock:
            self._left -= 1
            self._well = self._well and well
            last = self._left == 0
        if last:
            with suppress(RuntimeError):  # an event loop that is closed by now
                self._done(self._well)


def _size(item: Item) -> int:
    """Bytes that an item holds, beside the few hundred of any."""
    if isinstance(item, RuntimeListing):
        return len(item.pods) + len(item.containers)
    if not isinstance(item, CallAtStage) or item.call.capture is None:
        return 0
    halves = (item.call.capture.request, item.call.capture.response)
    return sum(len(message) for half in halves if half for message, _ in half.messages)

"""Sends items to the recorder, and keeps each until its record is written.

Each listener has a queue with a limit on items that wait for the recorder, so that one listener's
calls neither have another's records dropped nor make its calls wait. If the recorder dies, kept
items are sent again over a new channel; a record may then be in the log twice.
"""

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple

from criproxy.audit.channel import (
    LENGTH,
    SLOTS,
    EncodedItem,
    QueueStatus,
    connection_frame,
    decode_status,
    dropped_frame,
    encode_item,
)
from criproxy.audit.counts import SinkCounts
from criproxy.audit.items import LISTINGS, Item, RuntimeListing
from criproxy.audit.sinks.sink_queue import Done
from criproxy.audit.spec import SinkSpec
from criproxy.concurrency.frame_sender import send_some
from criproxy.peers.peer import Connection

_COLLECTING: Final = 0.005
"""Seconds for which items are collected before they are sent together."""

_AT_ONCE: Final = 256 << 10
"""Bytes of items that are sent without collecting more."""

_QUEUE_TURN: Final = 64 << 10
"""Bytes of a queue's items that are sent before those of the next queue."""

_LOOP_TURN: Final = 1 << 20
"""Bytes that are sent before the event loop does other work: some 100 µs."""

_FRAME: Final = 256
"""Bytes that a frame counts beside its item's size."""

_CHUNK: Final = 64 << 10

_COPY_BELOW: Final = 16 << 10
"""Bytes of a frame below which its parts are joined, which is cheaper than sending them apart."""


class ChannelLimits(NamedTuple):
    """Limits on the items that wait for the recorder, for all queues together."""

    items: int = 20_000
    bytes: int = 32 << 20


LIMITS: Final = ChannelLimits()


class _Entry(NamedTuple):
    """An item that is kept until its record is written."""

    item: EncodedItem
    connection: Connection | None
    done: Done | None


class _ItemQueue:
    """The items of one listener."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: deque[_Entry] = deque()
        """Items that are not written, the oldest first."""
        self.unsent: deque[_Entry] = deque()
        """The last of them: those that have no frame in the output yet."""
        self.first = 0
        """The number of the first entry, counted from 0 since the channel was opened."""
        self.sizes: deque[int] = deque()
        """Of the last entries: those that are not made into records yet."""
        self.bytes = 0
        """The sum of ``sizes``."""
        self.kept_bytes = 0
        """Of all entries."""
        self.full = False
        """What the recorder reports."""
        self.waiting: list[Callable[[], None]] = []

    def append(self, entry: _Entry) -> None:
        """Append an item that is to be sent."""
        self.entries.append(entry)
        self.unsent.append(entry)
        self.sizes.append(entry.item.size)
        self.bytes += entry.item.size
        self.kept_bytes += entry.item.size

    def pop(self) -> _Entry:
        """Remove the oldest item."""
        entry = self.entries.popleft()
        self.kept_bytes -= entry.item.size
        self.first += 1
        return entry

    def restart(self) -> None:
        """Count from 0 on a new channel; all entries have to be made into records again."""
        self.first = 0
        self.full = False
        self.unsent = self.entries.copy()
        self.sizes = deque(entry.item.size for entry in self.entries)
        self.bytes = sum(self.sizes)


class RecorderClient:
    """The worker's end of a channel. Used on one event loop only."""

    def __init__(
        self,
        channel: socket.socket,
        sinks: Sequence[SinkSpec],
        counts: Mapping[str, SinkCounts],
        queues: int,
        lost: Callable[[], None],
        limits: ChannelLimits = LIMITS,
    ) -> None:
        """``channel`` is a stream socket. ``counts`` are counters of dropped records by sink.

        ``queues`` is the number of listeners, which have an equal share of ``limits`` each.
        ``lost`` is called when the recorder has closed the channel.
        """
        blocking = [spec for spec in sinks if spec.on_full == "block"]
        self.blocking = bool(blocking)
        """Whether some sink must not lose a record."""
        self.synced = any(spec.file and spec.file.fsync == "always" for spec in blocking)
        """Whether one of these has each record on the disk before it counts as written."""
        self.max_wait = min((float(spec.max_wait) for spec in blocking), default=0.0)
        """Seconds that a call may wait for room: the least of those sinks'."""
        self._counts = counts
        self._report_lost = lost
        self._items = max(1, limits.items // max(1, queues))
        self._bytes = max(1, limits.bytes // max(1, queues))
        self._queues: dict[str, _ItemQueue] = {}
        self._by_number: list[_ItemQueue] = []
        self._slots: dict[Connection, int] = {}
        self._connections: list[Connection | None] = []  # by slot
        self._next_slot = 0
        self._dropped: Counter[str] = Counter()
        self._output: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0  # of the items in all queues' ``unsent``
        self._input = bytearray()
        self._loop = asyncio.get_running_loop()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._closed = False
        self._channel: socket.socket | None = None
        self._connect(channel)

    @property
    def full(self) -> bool:
        """Whether a sink that blocks has no room for the calls of some listener."""
        return self.blocking and any(map(self._is_full, self._by_number))

    def is_full(self, listener: str) -> bool:
        """Return whether a sink that blocks has no room for a listener's calls."""
        queue = self._queues.get(listener)
        return self.blocking and queue is not None and self._is_full(queue)

    def submit(self, item: Item, done: Done | None = None) -> None:
        """Send an item. Does not wait.

        If its queue is full, it is dropped and counted for each sink, unless one blocks. ``done``
        is called when the record is written by all sinks, with whether it survives a crash.
        """
        connection = None if isinstance(item, RuntimeListing) else item.connection
        queue = self._queue(LISTINGS if connection is None else connection.listener)
        over = len(queue.sizes) >= self._items or queue.bytes >= self._bytes
        if self._closed or (over and not self.blocking):
            if connection is not None:
                self.count_dropped("closing" if self._closed else "intake_full")
            if done is not None:
                done(False)
            return
        entry = _Entry(encode_item(item), connection, done)
        queue.append(entry)
        if not self.blocking:
            # Beyond these limits a sink is stuck, and the records are in the recorder's queue.
            while self._keeps_too_much(queue) and len(queue.entries) > len(queue.sizes):
                queue.pop()
        self._unsent_bytes += entry.item.size
        if self._channel is not None and not self._writing:
            if done is not None or self._unsent_bytes >= _AT_ONCE:
                self._flush()
            else:
                self._schedule_flush()

    def count_dropped(self, reason: str) -> None:
        """Count a call without a record, for each sink."""
        for each in self._counts.values():
            each.dropped[reason] += 1
        self._dropped[reason] += 1
        if self._channel is not None:
            self._schedule_flush()

    def when_room(self, listener: str, callback: Callable[[], None]) -> None:
        """Call back once when there is room for a listener's calls; at once if there is now."""
        queue = self._queue(listener)
        if self._closed or not (self.blocking and self._is_full(queue)):
            callback()
        else:
            queue.waiting.append(callback)

    def forget(self, connection: Connection) -> None:
        """Free the slot of a connection that is closed."""
        slot = self._slots.pop(connection, None)
        if slot is not None:
            self._connections[slot] = None

    def reconnect(self, channel: socket.socket) -> bool:
        """Use a new channel if the recorder has closed the one before; return whether it is used.

        Items without a written record are sent again.
        """
        if self._channel is not None:
            channel.close()
            return False
        self._connect(channel)
        for queue in self._by_number:
            queue.restart()
        self._unsent_bytes = sum(queue.bytes for queue in self._by_number)
        self._flush()
        return True

    def close(self, within: float) -> int:
        """Send what waits for at most ``within`` seconds; return the number of unsent items.

        If a sink blocks, wait until all records are written, too.
        """
        self._closed = True
        if self._channel is not None:
            self._finish(self._channel, monotonic() + within)
        unsent = 0
        if self._output or self._channel is None or any(queue.unsent for queue in self._by_number):
            unsent = sum(len(queue.sizes) for queue in self._by_number)
            for each in self._counts.values():
                each.dropped["closing"] += unsent
        self._disconnect()
        for queue in self._by_number:
            queue.unsent.clear()
            while queue.entries:
                entry = queue.pop()
                if entry.done is not None:
                    entry.done(False)
            self._call_waiting(queue)
        return unsent

    # Queues

    def _queue(self, name: str) -> _ItemQueue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _ItemQueue(len(self._by_number))
            self._by_number.append(queue)
        return queue

    def _is_full(self, queue: _ItemQueue) -> bool:
        return (
            queue.full
            or len(queue.sizes) >= self._items
            or queue.bytes >= self._bytes
            or self._keeps_too_much(queue)
        )

    def _keeps_too_much(self, queue: _ItemQueue) -> bool:
        return len(queue.entries) > 2 * self._items or queue.kept_bytes > 2 * self._bytes

    def _call_waiting(self, queue: _ItemQueue) -> None:
        waiting, queue.waiting = queue.waiting, []
        for callback in waiting:
            callback()

    def _apply(self, status: QueueStatus) -> None:
        queue = self._by_number[status.queue]
        taken = status.taken - (queue.first + len(queue.entries) - len(queue.sizes))
        for _ in range(taken):
            queue.bytes -= queue.sizes.popleft()
        failed = set(status.failed)
        while queue.first < status.done:
            number = queue.first
            entry = queue.pop()
            if entry.done is not None:
                entry.done(number not in failed)
        queue.full = status.full
        if queue.waiting and not self._is_full(queue):
            self._call_waiting(queue)

    # Output

    def _fill_output(self) -> None:
        """Make frames of the next items, some of each queue."""
        if self._dropped:
            self._append(dropped_frame(self._dropped))
            self._dropped.clear()
        for queue in self._by_number:
            room = _QUEUE_TURN
            while queue.unsent and room > 0:
                entry = queue.unsent.popleft()
                self._unsent_bytes -= entry.item.size
                room -= entry.item.size + _FRAME
                self._append_entry(queue, entry)

    def _append_entry(self, queue: _ItemQueue, entry: _Entry) -> None:
        connection = entry.connection
        slot = queue.number if connection is None else self._slot_of(queue, connection)
        buffers = entry.item.frame(slot)
        if entry.item.size < _COPY_BELOW:
            self._append(b"".join(buffers))
        else:
            for each in buffers:
                self._append(each)

    def _slot_of(self, queue: _ItemQueue, connection: Connection) -> int:
        """Return the slot of a connection, which is described first if it has none."""
        slot = self._slots.get(connection)
        if slot is not None:
            return slot
        slot = self._next_slot
        self._next_slot = (slot + 1) % SLOTS
        if slot == len(self._connections):
            self._connections.append(connection)
        else:
            previous = self._connections[slot]
            if previous is not None:
                del self._slots[previous]
            self._connections[slot] = connection
        self._slots[connection] = slot
        self._append(connection_frame(slot, queue.number, connection))
        return slot

    def _append(self, data: bytes) -> None:
        if data:
            self._output.append(data)

    def _schedule_flush(self) -> None:
        if self._flush_timer is None and not self._writing:
            self._flush_timer = self._loop.call_later(_COLLECTING, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        channel = self._channel
        if channel is None:
            return
        left = _LOOP_TURN
        try:
            while left > 0 and (sent := self._send_some(channel)):
                left -= sent
        except (BlockingIOError, InterruptedError):
            left = 0
        except OSError:
            self._lost()
            return
        if left <= 0 and not self._writing:
            self._writing = True
            self._loop.add_writer(channel.fileno(), self._flush)
        elif left > 0 and self._writing:
            self._writing = False
            self._loop.remove_writer(channel.fileno())

    def _send_some(self, channel: socket.socket) -> int:
        """Send some of the next items; return the number of bytes, 0 if there is nothing left."""
        if not self._output:
            self._fill_output()
            if not self._output:
                return 0
        return send_some(channel, self._output)

    def _finish(self, channel: socket.socket, deadline: float) -> None:
        """Send all output and, if a sink blocks, read until all records are written."""
        with suppress(OSError):
            while (left := deadline - monotonic()) > 0:
                channel.settimeout(left)
                if not self._send_some(channel):
                    break
            while self._has_entries() and (left := deadline - monotonic()) > 0:
                channel.settimeout(left)
                data = channel.recv(_CHUNK)
                if not data:
                    return
                self._receive(data)

    def _has_entries(self) -> bool:
        return self.blocking and any(queue.entries for queue in self._by_number)

    # The channel

    def _connect(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._slots.clear()
        self._connections.clear()
        self._next_slot = 0
        self._loop.add_reader(channel.fileno(), self._read)

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._output.clear()
        self._input.clear()
        if channel is not None:
            self._loop.remove_reader(channel.fileno())
            if self._writing:
                self._loop.remove_writer(channel.fileno())
            channel.close()
        self._writing = False

    def _lost(self) -> None:
        self._disconnect()
        self._report_lost()

    def _read(self) -> None:
        assert self._channel is not None
        try:
            data = self._channel.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        self._input += data
        for status in self._statuses():
            self._apply(status)

    def _statuses(self) -> Iterator[QueueStatus]:
        while len(self._input) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._input)
            end = LENGTH.size + length
            if len(self._input) < end:
                return
            statuses = decode_status(self._input[LENGTH.size : end])
            del self._input[:end]
            yield from statuses

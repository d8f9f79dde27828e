"""Reads the workers' channels and reports to them, on one thread for all."""

import selectors
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from criproxy.audit.channel import (
    HEADER,
    Kind,
    QueueStatus,
    decode_connection,
    decode_dropped,
    decode_item,
    status_frame,
)
from criproxy.audit.items import LISTINGS
from criproxy.audit.recorder.encoder import RecordEncoder
from criproxy.audit.recorder.intake import Intake, WaitingItem
from criproxy.concurrency.wake_up import WakeUp
from criproxy.peers.peer import Connection

_CHUNK: Final = 256 << 10


class _QueueProgress:
    """The progress of a queue, which is reported to its worker. It is a Source of the intake."""

    def __init__(self, number: int, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._status = QueueStatus(number, 0, 0, False)
        self._early: dict[int, tuple[int, bool]] = {}  # done before those before them, by number
        self._changed = False

    def taken(self, count: int) -> int:
        """See Source."""
        with self._lock:
            first = self._status.taken
            self._status.taken += count
            self._changed = True
        self._wake()
        return first

    def done(self, first: int, count: int, durable: bool) -> None:
        """See Source."""
        with self._lock:
            self._early[first] = count, durable
            while known := self._early.pop(self._status.done, None):
                count, durable = known
                if not durable:
                    begin = self._status.done
                    self._status.failed.extend(range(begin, begin + count))
                self._status.done += count
                self._changed = True
        self._wake()

    def set_full(self, full: bool) -> None:
        """See Source."""
        with self._lock:
            if full == self._status.full:
                return
            self._status.full = full
            self._changed = True
        self._wake()

    def report(self) -> QueueStatus | None:
        """Return the status if it has changed since it was last returned."""
        with self._lock:
            if not self._changed:
                return None
            self._changed = False
            status = self._status
            self._status = QueueStatus(status.queue, status.taken, status.done, status.full)
            return status


class _Channel:
    """The recorder's end of a worker's channel."""

    def __init__(
        self, sock: socket.socket, intake: Intake, encoder: RecordEncoder, wake: Callable[[], None]
    ) -> None:
        self.sock = sock
        self.encoder = encoder
        self.output = b""
        self._intake = intake
        self._wake = wake
        self._input = bytearray()
        self._slots: dict[int, tuple[_QueueProgress, Connection]] = {}
        self._queues: dict[int, _QueueProgress] = {}

    def receive(self, data: memoryview) -> None:
        """Parse frames, and put their items into the intake."""
        self._input += data
        position = 0
        size = len(self._input)
        while size - position >= HEADER.size:
            length, kind, slot, fields = HEADER.unpack_from(self._input, position)
            begin = position + HEADER.size
            if size - begin < length:
                break
            position = begin + length
            middle = begin + fields
            self._frame(
                Kind(kind),
                slot,
                bytes(self._input[begin:middle]),
                bytes(self._input[middle:position]),
            )
        del self._input[:position]

    def _frame(self, kind: Kind, slot: int, fields: bytes, payload: bytes) -> None:
        if kind is Kind.CONNECTION:
            number, connection = decode_connection(fields)
            self._slots[slot] = self._queue(number, connection.listener), connection
            return
        if kind is Kind.DROPPED:
            self.encoder.report_dropped(decode_dropped(fields))
            return
        described: Connection | None
        if kind is Kind.LISTING:
            queue, described = self._queue(slot, LISTINGS), None
        else:
            queue, described = self._slots[slot]
        decode = partial(decode_item, kind, fields, payload, described)
        item = WaitingItem(queue, decode, len(fields) + len(payload))
        self._intake.put(LISTINGS if described is None else described.listener, item)

    def _queue(self, number: int, listener: str) -> _QueueProgress:
        queue = self._queues.get(number)
        if queue is None:
            queue = self._queues[number] = _QueueProgress(number, self._wake)
            self.encoder.add_source(queue, listener)
        return queue

    def send(self) -> bool:
        """Send the queues' changes; return whether some could not be sent yet."""
        try:
            while True:
                if not self.output:
                    changed = [
                        status for queue in self._queues.values() if (status := queue.report())
                    ]
                    if not changed:
                        return False
                    self.output = status_frame(changed)
                self.output = self.output[self.sock.send(self.output) :]
        except BlockingIOError:
            return True
        except OSError:  # the worker is gone: its items are read to the end
            self.output = b""
            return False

    def close(self) -> None:
        """Close the channel; items that were read are still recorded."""
        for queue in self._queues.values():
            self.encoder.remove_source(queue)
        self.sock.close()


class Channels:
    """All channels, and the thread that serves them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_up = WakeUp()
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        self._new: list[_Channel] = []
        self._open: dict[_Channel, RecordEncoder] = {}
        self._buffer = memoryview(bytearray(_CHUNK))
        self._lock = threading.Lock()
        self._closing = False
        self._ended = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name="audit channels", daemon=True)
        self._thread.start()

    def add(self, sock: socket.socket, intake: Intake, encoder: RecordEncoder) -> None:
        """Serve a channel until its worker closes it; the socket is closed then."""
        sock.setblocking(False)
        channel = _Channel(sock, intake, encoder, self._wake_up.wake)
        with self._lock:
            self._open[channel] = encoder
            self._new.append(channel)
        self._wake_up.wake()

    def wait_for(self, encoder: RecordEncoder) -> None:
        """Wait until all channels of an encoder are closed and read to their ends."""
        with self._ended:
            self._ended.wait_for(lambda: encoder not in self._open.values())

    def close(self) -> None:
        """End the thread once all channels are closed and read to their ends."""
        with self._lock:
            self._closing = True
        self._wake_up.wake()
        self._thread.join()
        self._selector.close()
        self._wake_up.close()  # a sink that is stuck may report later

    def _run(self) -> None:
        while True:
            with self._lock:
                new, self._new = self._new, []
                if self._closing and not self._open:
                    return
            for channel in new:
                self._selector.register(channel.sock, selectors.EVENT_READ, channel)
            for key, events in self._selector.select():
                if key.fileobj is self._wake_up:
                    self._wake_up.clear()
                elif events & selectors.EVENT_READ:
                    self._read(key.data)
            for key in list(self._selector.get_map().values()):
                if key.data is not None:
                    self._send(key.data, key.events)

    def _read(self, channel: _Channel) -> None:
        try:
            count = channel.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count:
            channel.receive(self._buffer[:count])
            return
        self._selector.unregister(channel.sock)
        channel.close()
        with self._ended:
            del self._open[channel]
            self._ended.notify_all()

    def _send(self, channel: _Channel, events: int) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.send() else 0)
        if wanted != events:
            self._selector.modify(channel.sock, wanted, channel)

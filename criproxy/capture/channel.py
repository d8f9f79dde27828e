"""Sends records to the writing process: a bounded queue in front of a socket.

The relay only encodes a record, in a few microseconds. It never waits for the writing process:
what does not fit into the queue is dropped, counted, and noted in the cassette.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from criproxy.cassette.blocks import frame
from criproxy.cassette.records import AnyRecord, Dropped, MessagePassed, encode

QUEUE_BYTES: Final = 32 << 20
"""Bytes of records that may wait for the writing process."""

_BATCH: Final = 256 << 10
"""Bytes that are sent with one system call, unless one record has more."""


class RecordChannel:
    """The relay's end of the socket; :meth:`put` records, then :meth:`close`."""

    def __init__(
        self,
        sock: socket.socket,
        closed: Callable[[], None],
        limit: int = QUEUE_BYTES,
    ) -> None:
        """``sock`` belongs to the channel from now on. ``closed`` is called once when the writing
        process accepts no more records; ``limit`` is in bytes. Needs a running event loop.
        """
        self.dropped = 0
        """Records that were dropped."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._closed: Callable[[], None] | None = closed
        self._limit = limit
        self._queue: deque[bytes | memoryview] = deque()
        self._size = 0
        self._is_scheduled = False
        self._is_waiting = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._lost: Dropped | None = None
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._hung_up)

    def put(self, record: AnyRecord, *, essential: bool = False) -> bool:
        """Queue a record; return False if it was dropped.

        ``essential``: whether it is queued in any case, because what came before has bounded how
        many of them there can be.
        """
        if self._closed is None:
            return False
        data = frame(encode(record))
        if self._size + len(data) > self._limit and not essential:
            self._drop(record)
            return False
        if self._lost is not None:
            self._append(frame(encode(self._lost)))
            self._lost = None
        self._append(data)
        return True

    async def close(self, within: float) -> None:
        """Send what is queued, for ``within`` seconds at most, and close the socket."""
        if self._lost is not None and self._closed is not None:
            self._append(frame(encode(self._lost)))
        try:
            async with asyncio.timeout(within):
                await self._empty.wait()
        except TimeoutError:
            pass
        self._end()

    def _append(self, data: bytes) -> None:
        self._queue.append(data)
        self._size += len(data)
        self._empty.clear()
        if not self._is_scheduled and not self._is_waiting:
            self._is_scheduled = True
            self._loop.call_soon(self._send)

    def _drop(self, record: AnyRecord) -> None:
        self.dropped += 1
        at = getattr(record, "at", 0)
        size = record.size if isinstance(record, MessagePassed) else 0
        lost = self._lost
        if lost is None:
            self._lost = Dropped(at=at, since=at, records=1, bytes=size)
        else:
            self._lost = Dropped(
                at=at, since=lost.since, records=lost.records + 1, bytes=lost.bytes + size
            )

    def _send(self) -> None:
        self._is_scheduled = False
        while self._queue:
            batch: list[bytes | memoryview] = []
            size = 0
            while self._queue and (not batch or size + len(self._queue[0]) <= _BATCH):
                size += len(self._queue[0])
                batch.append(self._queue.popleft())
            data = batch[0] if len(batch) == 1 else b"".join(batch)
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end()
                return
            self._size -= sent
            if sent < size:
                self._queue.appendleft(memoryview(data)[sent:])  # copies nothing of a large record
                if not self._is_waiting:
                    self._is_waiting = True
                    self._loop.add_writer(self._sock.fileno(), self._send)
                return
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._sock.fileno())
        self._empty.set()

    def _hung_up(self) -> None:
        """Called when the writing process has closed its end: it sends nothing."""
        self._end()

    def _end(self) -> None:
        closed, self._closed = self._closed, None
        if closed is None:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._queue.clear()
        self._size = 0
        self._empty.set()
        closed()

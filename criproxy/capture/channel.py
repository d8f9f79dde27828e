"""The records between a relay and the process that keeps them, over a stream socketpair.

The relay only encodes a record, in a few microseconds. It never waits for the other process: what
does not fit into the queue is dropped, counted, and noted in the cassette.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from criproxy.cassette.blocks import frame, framed_in
from criproxy.cassette.records import AnyRecord, Dropped, MessagePassed, decode, encode
from criproxy.concurrency.frame_sender import FrameSender

QUEUE_BYTES: Final = 32 << 20
"""Bytes of records that may wait for the other process: more than the largest message has."""


class RecordChannel:
    """The relay's end of the socket; :meth:`put` records, then :meth:`close`."""

    def __init__(
        self,
        sock: socket.socket,
        lost: Callable[[], object],
        limit: int = QUEUE_BYTES,
    ) -> None:
        """``sock`` belongs to the channel from now on. ``lost`` is called when the other process
        accepts no more records; ``limit`` is in bytes. Needs a running event loop.
        """
        self.dropped: Counter[str] = Counter()
        """Dropped records: ``channel_full`` or ``unavailable``, because no process was there."""
        self._report_lost = lost
        self._sender = FrameSender(sock, self._lost, limit)
        self._dropped: Dropped | None = None
        self.reconnect = self._sender.reconnect
        """Uses another socket if the process has ended, and returns whether it does."""

    def put(self, record: AnyRecord, *, essential: bool = False) -> bool:
        """Queue a record; return False if it was dropped, or if nobody would receive it.

        ``essential``: whether it is queued in any case, because what came before has bounded how
        many of them there can be.
        """
        if not self._sender.connected:
            self.dropped["unavailable"] += 1
            return False
        data = frame(encode(record))
        if not essential and not self._sender.has_room(len(data)):
            self._drop(record)
            return False
        self._note_dropped()
        self._sender.send(data)
        return True

    async def flush(self, within: float) -> None:
        """Send what is queued, for ``within`` seconds at most."""
        self._note_dropped()
        await self._sender.flush(within)

    def close(self, within: float = 0.0) -> int:
        """Send what is queued, for ``within`` seconds at most, during which nothing else is done,
        and close the socket; return the number of records that were not sent."""
        self._note_dropped()
        return self._sender.close(within)

    def _note_dropped(self) -> None:
        if self._dropped is not None:
            self._sender.send(frame(encode(self._dropped)))
            self._dropped = None

    def _drop(self, record: AnyRecord) -> None:
        self.dropped["channel_full"] += 1
        at = getattr(record, "at", 0)
        size = record.size if isinstance(record, MessagePassed) else 0
        before = self._dropped or Dropped(at=at, since=at, records=0)
        self._dropped = Dropped(
            at=at, since=before.since, records=before.records + 1, bytes=before.bytes + size
        )

    def _lost(self, cut: bool) -> None:
        self._sender.clear()  # the next process would not know what these records are about
        self._dropped = None
        self._report_lost()


class RecordReceiver:
    """Assembles the records that come through one socket."""

    def __init__(self) -> None:
        self._input = bytearray()

    def receive(self, data: bytes) -> Iterator[AnyRecord]:
        """Yield the records that end in the next bytes. Raises ValueError for what is none."""
        self._input += data
        records, end = framed_in(self._input)
        del self._input[:end]
        yield from map(decode, records)

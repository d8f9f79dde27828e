"""The bounded queue between the relay and the process that writes."""

import asyncio
import socket
from collections.abc import Iterator
from struct import unpack_from

from criproxy.capture.channel import RecordChannel
from criproxy.cassette.records import (
    AnyRecord,
    CallBegan,
    CallEnded,
    Dropped,
    MessagePassed,
    decode,
)

LARGE = bytes(100_000)


def message(at: int) -> MessagePassed:
    return MessagePassed(call=1, at=at, size=len(LARGE), data=LARGE)


def received(sock: socket.socket) -> Iterator[AnyRecord]:
    sock.setblocking(True)
    buffer = b""
    while data := sock.recv(1 << 20):
        buffer += data
    position = 0
    while position < len(buffer):
        (length,) = unpack_from("<I", buffer, position)
        yield decode(buffer[position + 4 : position + 4 + length])
        position += 4 + length


def test_what_does_not_fit_is_dropped_and_noted() -> None:
    """Nobody reads: records are dropped over the limit, but not the essential ones; the next that
    fits comes behind a note of what was lost."""

    async def run() -> list[AnyRecord]:
        ours, theirs = socket.socketpair()
        channel = RecordChannel(ours, lambda: None, limit=1_000_000)
        assert channel.put(CallBegan(call=1, connection=1, at=0, path="/a"))
        results = [channel.put(message(at)) for at in range(1, 21)]
        assert results == [True] * 9 + [False] * 11
        assert channel.put(CallEnded(call=1, at=30, end="status"), essential=True)
        assert channel.dropped == {"channel_full": 11}
        reading = asyncio.to_thread(lambda: list(received(theirs)))
        found = asyncio.ensure_future(reading)
        await channel.flush(60.0)
        assert channel.close() == 0
        try:
            return await found
        finally:
            theirs.close()

    found = asyncio.run(run())
    assert found == [
        CallBegan(call=1, connection=1, at=0, path="/a"),
        *(message(at) for at in range(1, 10)),
        Dropped(at=20, since=10, records=11, bytes=11 * len(LARGE)),
        CallEnded(call=1, at=30, end="status"),
    ]


def test_a_large_record_is_not_copied_for_each_part() -> None:
    """What the socket does not take yet is sent from where it is, however many parts it takes."""

    async def run() -> list[AnyRecord]:
        ours, theirs = socket.socketpair()
        sent: list[object] = []

        class Narrow(socket.socket):
            def sendmsg(self, buffers: list[memoryview | bytes]) -> int:  # type: ignore[override]
                (view,) = map(memoryview, buffers)
                sent.append(view.obj)
                return super().send(view[:10_000])

        channel = RecordChannel(Narrow(fileno=ours.detach()), lambda: None)
        assert channel.put(message(1))
        found = asyncio.ensure_future(asyncio.to_thread(lambda: list(received(theirs))))
        await channel.flush(60.0)
        channel.close()
        assert len(sent) > 10
        assert all(each is sent[0] for each in sent)
        try:
            return await found
        finally:
            theirs.close()

    assert asyncio.run(run()) == [message(1)]


def test_a_writing_process_that_is_gone() -> None:
    """When the other end is closed that is reported once, and records go nowhere, counted; what
    waited is not for the next process, which would not know what it is about."""
    closed: list[None] = []

    async def run() -> None:
        ours, theirs = socket.socketpair()
        stopped = asyncio.Event()
        channel = RecordChannel(ours, lambda: (closed.append(None), stopped.set())[0])
        assert channel.put(message(1))
        theirs.close()
        await stopped.wait()
        assert not channel.put(message(2), essential=True)
        assert channel.dropped == {"unavailable": 1}
        ours, theirs = socket.socketpair()
        assert channel.reconnect(ours)
        assert channel.put(message(3))
        assert channel.close(60.0) == 0
        assert list(received(theirs)) == [message(3)]
        theirs.close()

    asyncio.run(run())
    assert closed == [None]

"""CallSender and CallReceiver: calls over a channel that may be full or lost."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from criproxy.traces.channel import LENGTH, CallReceiver, TracedCall, frame
from criproxy.traces.counts import TraceCounts
from criproxy.traces.worker.call_sender import CallSender
from tests.traces.traced_calls import Calls

CALLS = [Calls(f"pod-{number}").sandbox() for number in range(20)]
SIZE = len(frame(CALLS[0]))


class Setup:
    """A sender, the other end of its channel, and what is counted."""

    def __init__(self, limit: int) -> None:
        self.counts = TraceCounts()
        self.lost = asyncio.Event()
        ours, self.theirs = socket.socketpair()
        self.sender = CallSender(ours, self.counts, self.lost.set, limit)

    async def received(self, count: int, sock: socket.socket | None = None) -> list[TracedCall]:
        """Receive this number of calls."""
        receiver, calls = CallReceiver(), []
        peer = sock or self.theirs
        peer.setblocking(False)
        while len(calls) < count:
            data = await asyncio.get_running_loop().sock_recv(peer, 1000)
            assert data
            calls += receiver.receive(data)
        return calls


def run(test: Callable[[Setup], Coroutine[Any, Any, None]], limit: int = 1 << 20) -> None:
    async def main() -> None:
        setup = Setup(limit)
        await test(setup)
        setup.sender.close(0)
        setup.theirs.close()

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_calls_are_received_as_sent(size: int) -> None:
    """Each call is received once and in order, wherever the bytes are cut."""
    data = b"".join(map(frame, CALLS))
    receiver = CallReceiver()
    parts = [data[begin : begin + size] for begin in range(0, len(data), size)]
    assert [call for part in parts for call in receiver.receive(part)] == CALLS


def test_what_is_no_call() -> None:
    """A frame that is too long or no call is an error, not a wait for its end."""
    for data in (LENGTH.pack(1 << 30), LENGTH.pack(1) + b"\xc1"):
        with pytest.raises(ValueError, match=r"."):
            list(CallReceiver().receive(data))


def test_calls_are_sent() -> None:
    """Calls are sent soon, in order."""

    async def test(setup: Setup) -> None:
        assert all(setup.sender.send(call) for call in CALLS)
        assert await setup.received(len(CALLS)) == CALLS
        assert not setup.counts.dropped

    run(test)


def test_a_full_channel_drops() -> None:
    """While the exporter reads nothing, calls above the limit are dropped and counted, and the
    sender never waits; those within it arrive."""

    async def test(setup: Setup) -> None:
        sent = [setup.sender.send(call) for call in CALLS]
        assert 0 < sum(sent) < len(CALLS)
        assert setup.counts.dropped == {"channel_full": len(CALLS) - sum(sent)}
        kept = [call for call, was_sent in zip(CALLS, sent, strict=True) if was_sent]
        assert await setup.received(len(kept)) == kept
        assert setup.sender.send(CALLS[0])  # there is room again
        assert await setup.received(1) == CALLS[:1]

    run(test, limit=5 * SIZE)


def test_a_lost_exporter() -> None:
    """When the exporter is gone that is reported; calls wait for the next one."""

    async def test(setup: Setup) -> None:
        setup.theirs.close()
        await setup.lost.wait()
        assert setup.sender.send(CALLS[0])
        ours, theirs = socket.socketpair()
        assert setup.sender.reconnect(ours)
        assert await setup.received(1, theirs) == CALLS[:1]
        spare, other = socket.socketpair()
        assert not setup.sender.reconnect(spare)  # the first is still there
        theirs.close()
        other.close()

    run(test)


def test_a_frame_that_was_cut_is_not_continued() -> None:
    """What is left of a frame that was sent in part is not sent to the next exporter."""

    async def test(setup: Setup) -> None:
        many = [Calls(f"{number:01000}").sandbox() for number in range(2000)]
        for call in many:
            setup.sender.send(call)
        setup.sender._sender._flush()
        setup.theirs.close()
        await setup.lost.wait()
        waiting = setup.sender._sender.waiting
        assert 0 < waiting < len(many)
        ours, theirs = socket.socketpair()
        setup.sender.reconnect(ours)
        assert await setup.received(waiting, theirs) == many[-waiting:]
        theirs.close()

    run(test, limit=8 << 20)


def test_the_end() -> None:
    """At the end what waits is sent as long as the exporter reads; the rest is counted."""

    async def test(setup: Setup) -> None:
        for call in CALLS:
            setup.sender.send(call)
        assert setup.sender.close(120) == 0
        assert await setup.received(len(CALLS)) == CALLS

    run(test)

    async def stuck(setup: Setup) -> None:
        many = [Calls(f"{number:01000}").sandbox() for number in range(2000)]
        for call in many:
            setup.sender.send(call)
        unsent = setup.sender.close(0.01)
        assert unsent > 0
        assert setup.counts.dropped == {"closing": unsent}

    run(stuck, limit=8 << 20)

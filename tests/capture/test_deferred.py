"""Events that are observed a little later."""

import asyncio
from typing import Any

from criproxy.capture import deferred
from criproxy.capture.deferred import DeferredObserver
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallBegan, Event, MessagePassed, Side

CONNECTION = Connection("unix:///run/test.sock", Peer(7, 0, 0, None), 0.0)


class Observed:
    """An observer that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._more = asyncio.Event()

    async def seen(self, count: int) -> None:
        """Wait until it was told so much."""
        while len(self.told) < count:
            self._more.clear()
            await self._more.wait()

    def connection_opened(self, connection: Connection) -> None:
        self.told.append("opened")

    def connection_closed(self, connection: Connection) -> None:
        self.told.append("closed")

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        self.told.append(reason)

    def observe(self, connection: Connection, event: Event) -> None:
        self.told.append(event)
        self._more.set()
        if isinstance(event, CallBegan) and event.call.path == b"/fault":
            raise RuntimeError("a fault")


def began(path: bytes = b"/a") -> CallBegan:
    return CallBegan(Call(1, path, b"", True, 0.0))


def test_events_come_later_and_in_order() -> None:
    """What is observed was not before other work was done, is in order, and all of it is there
    before a connection is closed; a fault in one event ends nothing."""
    failures: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: failures.append(context)
        )
        observed = Observed()
        observer = DeferredObserver(observed)
        observer.connection_opened(CONNECTION)
        events = [began(), began(b"/fault"), *(began() for _ in range(200))]
        for event in events:
            observer.observe(CONNECTION, event)
        assert observed.told == ["opened"]
        await observed.seen(1 + len(events))
        last = began()
        observer.observe(CONNECTION, last)
        observer.connection_closed(CONNECTION)
        assert observed.told == ["opened", *events, last, "closed"]

    asyncio.run(asyncio.wait_for(run(), 120))
    assert [str(each["exception"]) for each in failures] == ["a fault"]


def test_what_waits_is_bounded() -> None:
    """Neither more events nor more bytes of messages wait than may: then they are observed."""

    async def run() -> None:
        observed = Observed()
        observer = DeferredObserver(observed)
        call = Call(1, b"/a", b"", True, 0.0)
        message = MessagePassed(call, Side.CLIENT, bytes(1 << 20), False, 0.0)
        for _ in range(4):
            observer.observe(CONNECTION, message)
        assert observed.told == []
        observer.observe(CONNECTION, message)
        assert len(observed.told) == 5
        for _ in range(deferred._MOST_EVENTS):
            observer.observe(CONNECTION, began())
        assert len(observed.told) == 5
        observer.observe(CONNECTION, began())
        assert len(observed.told) == 6 + deferred._MOST_EVENTS

    asyncio.run(run())

"""The pauses of reading from a peer."""

import asyncio
from typing import cast

from criproxy.relay.connections.pausable import BACKPRESSURE, PausableProtocol
from tests.support import virtual_time
from tests.support.virtual_time import passed


class _Transport:
    reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def test_last_throttling_counts() -> None:
    """A peer that is throttled again is read from when the last pause ends, not the first."""

    async def scenario() -> None:
        protocol, transport = PausableProtocol(), _Transport()
        protocol._transport = cast(asyncio.Transport, transport)
        protocol.throttle(0.1)
        protocol.throttle(1.0)
        await passed(0.5)
        assert not transport.reading
        await passed(0.6)
        assert transport.reading
        protocol.throttle(1.0)
        protocol.throttle(0.1)
        await passed(0.2)
        assert transport.reading
        await passed(2.0)
        assert transport.reading

    virtual_time.run(scenario)


def test_reasons_add_up() -> None:
    """The end of a throttling does not end another reason for not reading."""

    async def scenario() -> None:
        protocol, transport = PausableProtocol(), _Transport()
        protocol._transport = cast(asyncio.Transport, transport)
        protocol.throttle(0.1)
        protocol.pause_reading(BACKPRESSURE)
        await passed(0.5)
        assert not transport.reading
        protocol.resume_reading(BACKPRESSURE)
        assert transport.reading

    virtual_time.run(scenario)

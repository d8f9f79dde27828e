"""Calls that wait for the audit log: what must not be lost is not begun where it cannot be kept.

Stands before whatever else acts on calls. As long as there is room a call passes as if this were
not there. Where each call has to be on record before the runtime hears of it, each waits for that.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from criproxy.peers.peer import Connection
from criproxy.relay.policy import Policy
from criproxy.wire.grpc import StatusCode, parse_timeout
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold, StreamHandler
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side

_TOO_LATE: Final = "criproxy: deadline exceeded while the audit log was waited for"
_NO_ROOM: Final = (
    "criproxy: the audit log takes no more records, and no call may go unrecorded; see the log of "
    "criproxy and audit.sinks in its configuration"
)


class AuditLog(Protocol):
    """What is asked of the audit log, on the event loop."""

    synced: bool
    """Whether a call has to be on record, durably, before the runtime hears of it."""
    max_wait: float
    """Seconds that a call may wait for room."""

    @property
    def full(self) -> bool:
        """Whether there is no room for records."""

    def records(self, connection: Connection, path: bytes) -> bool:
        """Tell whether calls of a ``:path`` may be recorded."""

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, from any thread, when there is room."""

    def received(self, connection: Connection, call: Call, done: Callable[[bool], None]) -> None:
        """Record that a call has begun; ``done`` is told, from any thread, when that is durable."""

    def refused(self, call: Call | None) -> None:
        """Take notice that a call is refused because it cannot be recorded."""


class AuditGate:
    """Has calls wait. For the event loop alone."""

    def __init__(self, log: AuditLog, clock: Callable[[], float]) -> None:
        """``clock`` is the one that calls are timed with: seconds."""
        self.log = log
        self.clock = clock
        self.waiting = 0
        """Calls that wait."""
        self._for_room: dict[_Waiting, None] = {}  # in the order in which they came
        self._asked = False

    def wait_for_room(self, call: "_Waiting") -> None:
        """Tell a call when there is room."""
        self._for_room[call] = None
        if not self._asked:
            self._asked = True
            loop = asyncio.get_running_loop()

            def room() -> None:
                loop.call_soon_threadsafe(self._has_room)

            self.log.when_room(room)

    def forget(self, call: "_Waiting") -> None:
        """Tell a call nothing any more."""
        self._for_room.pop(call, None)

    def _has_room(self) -> None:
        self._asked = False
        calls, self._for_room = self._for_room, {}
        for call in calls:
            call.has_room()


class GatedPolicy:
    """What else acts on calls (a :class:`criproxy.relay.policy.Policy`), behind the gate."""

    enforcing = True
    """A connection that cannot be read is closed: its calls would go unrecorded."""

    def __init__(self, gate: AuditGate, inner: Policy | None) -> None:
        """``inner`` is None where nothing else acts on calls."""
        self.inner = inner
        self._gate = gate

    def wanted(self, path: bytes) -> bool:
        """See Policy."""
        log = self._gate.log
        return log.synced or log.full or (self.inner is not None and self.inner.wanted(path))

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        """See Policy."""
        log = self._gate.log
        inner = None
        if self.inner is not None and self.inner.wanted(stream.path):
            inner = self.inner.begin(connection, call, stream, headers)
        if not log.records(connection, stream.path):
            return inner
        if call is not None and not (log.synced or log.full):
            return inner
        if inner is not None and inner.hidden and not log.full:
            return inner  # the runtime does not hear of it, so nothing has to be on record before
        timeout = next((value for name, value in headers if name == b"grpc-timeout"), b"")
        waiting = _Waiting(self._gate, connection, call, stream, inner, parse_timeout(timeout))
        if inner is None:
            return Hold(waiting, request=True, response=False)
        return replace(inner, handler=waiting, request=True)


class _Waiting:
    """A call that waits, then goes on to whoever else handles it (a StreamHandler)."""

    def __init__(
        self,
        gate: AuditGate,
        connection: Connection,
        call: Call | None,
        stream: HeldStream,
        inner: Hold | None,
        timeout: float | None,
    ) -> None:
        """``timeout`` is the client's, in seconds."""
        self._gate = gate
        self._connection = connection
        self._call = call
        self._stream = stream
        self._inner = inner
        self._timeout = timeout
        self._messages: list[tuple[bytes, bool]] = []
        self._complete = False
        self._answers: list[Callable[[], None]] = []  # what has come too early, to be handed on
        self._recording = False
        """Whether it only waits for its record: there was room."""
        self._recorded = False
        """Whether that is being made."""
        self._through: StreamHandler | None = None
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    # What the stream tells.

    def opened(self) -> None:
        """Begin to wait."""
        log, call = self._gate.log, self._call
        wait, late = log.max_wait, False
        if self._timeout is not None and self._timeout <= wait:
            wait, late = self._timeout, True
        self._timer = asyncio.get_running_loop().call_later(wait, self._give_up, late)
        self._gate.waiting += 1
        if call is not None:
            call.waiting_since = self._gate.clock()
        self.has_room()

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Keep a message, or hand it on."""
        if self._through is not None:
            self._through.message(side, payload, compressed)
        elif side is Side.RUNTIME:
            self._answers.append(partial(self.message, side, payload, compressed))
        else:
            self._messages.append((payload, compressed))
            self._record()

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Take notice of the request's end, or hand on an end."""
        if self._through is not None:
            self._through.ended(side, trailers)
        elif side is Side.RUNTIME:
            self._answers.append(partial(self.ended, side, trailers))
        else:
            self._complete = True
            self._record()

    def too_large(self, side: Side, limit: int) -> None:
        """Hand on; a request that is too large while it waits is refused for that."""
        if self._through is not None:
            self._through.too_large(side, limit)

    def closed(self) -> None:
        """Wait no longer: the call is over."""
        self._over = True
        self._stop()
        if self._inner is not None:
            self._inner.handler.closed()

    # What the audit log tells.

    def has_room(self) -> None:
        """Look whether the call can go on now, or have its record made."""
        log = self._gate.log
        if self._timer is None:
            return
        if self._call is None:  # it cannot be read, or not any more: there will be no record
            self._give_up(late=False)
        elif log.full:
            self._gate.wait_for_room(self)
        elif log.synced:
            self._recording = True
            self._record()
        else:
            self._go_on()

    def _record(self) -> None:
        """Have a record made once something has come that it can tell of."""
        if not self._recording or self._recorded or not (self._messages or self._complete):
            return
        self._recorded = True
        assert self._call is not None
        loop = asyncio.get_running_loop()

        def done(durable: bool) -> None:
            loop.call_soon_threadsafe(self._is_durable, durable)

        self._gate.log.received(self._connection, self._call, done)

    def _is_durable(self, durable: bool) -> None:
        if self._timer is None:
            return
        if durable:
            self._go_on()
        else:
            self._give_up(late=False)

    def _go_on(self) -> None:
        self._stop()
        stream = self._stream
        if self._inner is None:
            for payload, compressed in self._messages:
                stream.send(Side.CLIENT, payload, compressed)
            if self._complete:
                stream.end(Side.CLIENT)
            else:
                stream.release(Side.CLIENT)
            stream.detach()
            return
        # It may hold no request: so it is given all that there is before it lets that go on.
        self._through = handler = self._inner.handler
        for payload, compressed in self._messages:
            handler.message(Side.CLIENT, payload, compressed)
        if self._complete:
            handler.ended(Side.CLIENT, [])
        if not self._over:
            handler.opened()
        for hand_on in self._answers:
            if not self._over:
                hand_on()

    def _give_up(self, late: bool) -> None:
        self._stop()
        if late:
            self._stream.reply(StatusCode.DEADLINE_EXCEEDED, _TOO_LATE)
            return
        self._gate.log.refused(self._call)
        self._stream.reply(StatusCode.UNAVAILABLE, _NO_ROOM)

    def _stop(self) -> None:
        """Wait no longer."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._gate.waiting -= 1
        self._gate.forget(self)
        if self._call is not None and self._call.waiting_since is not None:
            self._call.held = self._call.held_by(self._gate.clock())
            self._call.waiting_since = None

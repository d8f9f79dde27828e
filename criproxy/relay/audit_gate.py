"""Holds calls while the audit log cannot take their records (``on_full: block``).

The gate precedes every other policy. While the audit log has room, calls pass without being held.
With ``fsync: always`` each call is held until its record is on the disk.
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

_DEADLINE_EXCEEDED: Final = "criproxy: deadline exceeded while the audit log was waited for"
_NO_ROOM: Final = (
    "criproxy: the audit log takes no more records, and no call may go unrecorded; see the log of "
    "criproxy and audit.sinks in its configuration"
)


class AuditLog(Protocol):
    """The audit log as the gate needs it. Called on the event loop."""

    synced: bool
    """Whether a call's record has to be durable before the call reaches the runtime."""
    max_wait: float
    """Seconds that a call may wait."""

    @property
    def full(self) -> bool:
        """Whether there is no room for further records of some listener."""

    def is_full(self, listener: str) -> bool:
        """Return whether there is no room for further records of a listener."""

    def records(self, connection: Connection, path: bytes) -> bool:
        """Return whether calls of a ``:path`` may be recorded."""

    def when_room(self, listener: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, from any thread, when there is room for a listener's records."""

    def received(self, connection: Connection, call: Call, done: Callable[[bool], None]) -> None:
        """Record that a call has begun; call ``done``, from any thread, when that is durable."""

    def refused(self, call: Call | None) -> None:
        """Called when a call is refused because it cannot be recorded."""


class AuditGate:
    """The calls that wait for room. Used on the event loop only."""

    def __init__(self, log: AuditLog, clock: Callable[[], float]) -> None:
        """``clock`` is the calls' clock, in seconds."""
        self.log = log
        self.clock = clock
        self.waiting = 0
        """The number of calls that wait."""
        self._waiting_for_room: dict[str, dict[_WaitingCall, None]] = {}
        """By listener, in the order of arrival."""

    def wait_for_room(self, call: "_WaitingCall") -> None:
        """Call ``has_room`` of a call when there is room."""
        waiting = self._waiting_for_room.get(call.listener)
        if waiting is None:
            waiting = self._waiting_for_room[call.listener] = {}
            loop = asyncio.get_running_loop()

            def room() -> None:
                loop.call_soon_threadsafe(self._has_room, call.listener)

            self.log.when_room(call.listener, room)
        waiting[call] = None

    def forget(self, call: "_WaitingCall") -> None:
        """Remove a call that waits for room."""
        self._waiting_for_room.get(call.listener, {}).pop(call, None)

    def _has_room(self, listener: str) -> None:
        for call in self._waiting_for_room.pop(listener, {}):
            call.has_room()


class GatedPolicy:
    """A :class:`criproxy.relay.policy.Policy` that applies the gate before another policy."""

    enforcing = True
    """Connections that cannot be parsed are closed: their calls would have no records."""

    def __init__(self, gate: AuditGate, inner: Policy | None) -> None:
        """``inner`` is None if there is no other policy."""
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
        full = log.is_full(connection.listener)
        if call is not None and not (log.synced or full):
            return inner
        if inner is not None and inner.hidden and not full:
            return inner  # the call does not reach the runtime, so its record may come later
        timeout = next((value for name, value in headers if name == b"grpc-timeout"), b"")
        waiting = _WaitingCall(self._gate, connection, call, stream, inner, parse_timeout(timeout))
        if inner is None:
            return Hold(waiting, request=True, response=False)
        return replace(inner, handler=waiting, request=True)


class _WaitingCall:
    """A StreamHandler that holds a call until it may proceed, then delegates to the inner one."""

    def __init__(
        self,
        gate: AuditGate,
        connection: Connection,
        call: Call | None,
        stream: HeldStream,
        inner: Hold | None,
        timeout: float | None,
    ) -> None:
        """``timeout`` is the call's grpc-timeout in seconds."""
        self.listener = connection.listener
        self._gate = gate
        self._connection = connection
        self._call = call
        self._stream = stream
        self._inner = inner
        self._timeout = timeout
        self._messages: list[tuple[bytes, bool]] = []
        self._complete = False
        self._early_events: list[Callable[[], None]] = []  # of the response, for the inner handler
        self._recording = False
        """Whether there is room and the call waits for its record only."""
        self._recorded = False
        """Whether the record was requested."""
        self._inner_handler: StreamHandler | None = None
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    # StreamHandler

    def opened(self) -> None:
        """Start to wait."""
        log, call = self._gate.log, self._call
        wait, late = log.max_wait, False
        if self._timeout is not None and self._timeout <= wait:
            wait, late = self._timeout, True
        self._timer = asyncio.get_running_loop().call_later(wait, self._refuse, late)
        self._gate.waiting += 1
        if call is not None:
            call.waiting_since = self._gate.clock()
        self.has_room()

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Keep a message, or pass it to the inner handler."""
        if self._inner_handler is not None:
            self._inner_handler.message(side, payload, compressed)
        elif side is Side.RUNTIME:
            self._early_events.append(partial(self.message, side, payload, compressed))
        else:
            self._messages.append((payload, compressed))
            self._record()

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Note the request's end, or pass an end to the inner handler."""
        if self._inner_handler is not None:
            self._inner_handler.ended(side, trailers)
        elif side is Side.RUNTIME:
            self._early_events.append(partial(self.ended, side, trailers))
        else:
            self._complete = True
            self._record()

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
        """Pass on; while the call waits, the stream refuses it."""
        if self._inner_handler is not None:
            self._inner_handler.limit_exceeded(side, reason, detail)

    def closed(self) -> None:
        """Stop waiting: the call is over."""
        self._over = True
        self._stop()
        if self._inner is not None:
            self._inner.handler.closed()

    # Audit log

    def has_room(self) -> None:
        """Let the call proceed, or request its record, if there is room."""
        log = self._gate.log
        if self._timer is None:
            return
        if self._call is None:  # not parsed (any more), so there will be no record
            self._refuse(late=False)
        elif log.is_full(self.listener):
            self._gate.wait_for_room(self)
        elif log.synced:
            self._recording = True
            self._record()
        else:
            self._proceed()

    def _record(self) -> None:
        """Request the record once a message or the end has arrived."""
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
            self._proceed()
        else:
            self._refuse(late=False)

    def _proceed(self) -> None:
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
        # An inner handler that does not hold the request forwards it in ``opened``, so it gets the
        # messages first.
        self._inner_handler = handler = self._inner.handler
        for payload, compressed in self._messages:
            handler.message(Side.CLIENT, payload, compressed)
        if self._complete:
            handler.ended(Side.CLIENT, [])
        if not self._over:
            handler.opened()
        for deliver in self._early_events:
            if not self._over:
                deliver()

    def _refuse(self, late: bool) -> None:
        self._stop()
        if late:
            self._stream.reply(StatusCode.DEADLINE_EXCEEDED, _DEADLINE_EXCEEDED)
            return
        self._gate.log.refused(self._call)
        self._stream.reply(StatusCode.UNAVAILABLE, _NO_ROOM)

    def _stop(self) -> None:
        """Stop waiting."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._gate.waiting -= 1
        self._gate.forget(self)
        if self._call is not None and self._call.waiting_since is not None:
            self._call.held = self._call.held_by(self._gate.clock())
            self._call.waiting_since = None

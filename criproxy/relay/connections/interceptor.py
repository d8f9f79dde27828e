"""Applies a policy to one connection: relays its bytes and holds the streams that rules act on.

While no held call is open, bytes are forwarded as they come; only the request paths are looked at.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from criproxy.relay.notifier import ObservedConnection
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import INTERNAL_ERROR, HTTP1Error, WireError
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.http1 import SwitchScanner, forbidden
from criproxy.wire.intercept.interceptor import ConnectionInterceptor
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import Side

DELIVERY: Final = 10.0
"""Seconds that a client's connection stays open after its runtime has gone, to deliver complete
responses that are still held."""

_NOT_READ: Final = "the connection is not read any more, so rules cannot be kept on it"

_SWITCHES: Final = (
    "criproxy: an upgrade to HTTP/2 would evade the rules of this listener; begin with HTTP/2"
)

Write = Callable[[bytes], None]


class _InternalErrorHandler:
    """Answers a call with INTERNAL because the policy failed with an exception."""

    def __init__(self, stream: HeldStream) -> None:
        self._stream = stream

    def opened(self) -> None:
        self._stream.reply(StatusCode.INTERNAL, "criproxy: internal error in the rules")

    def message(self, side: Side, payload: bytes, compressed: bool) -> None: ...

    def ended(self, side: Side, trailers: list[Header]) -> None: ...

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None: ...

    def closed(self) -> None: ...


class RelayInterceptor:
    """Receives the bytes of both sides of a connection and writes to both.

    It may be installed on a connection in use, where :meth:`relay_until_known` returns True.
    """

    def __init__(
        self,
        observed: ObservedConnection,
        active_policy: ActivePolicy,
        to_client: Write,
        to_runtime: Write,
        inserts: Callable[[], tuple[list[bytes], list[bytes]]],
        delivered: Callable[[], None],
    ) -> None:
        """``inserts`` returns the frames of ours that wait to be inserted into each side's bytes.

        ``delivered`` is called when the last held response of a runtime that has gone is delivered.
        """
        self._observed = observed
        self._active_policy = active_policy
        self._to_client = to_client
        self._to_runtime = to_runtime
        self._inserts = inserts
        self._delivered = delivered
        self._runtime_ended = False
        self._notifying = False
        self._pending_cuts: list[int] = []
        self._core: ConnectionInterceptor | None = ConnectionInterceptor(
            observed.reader,
            self._is_wanted,
            self._decide,
            self._flush,
            active_policy.budget,
            observed.reader.header_block_limit,
        )

    @staticmethod
    def relay_until_known(
        observed: ObservedConnection,
        active_policy: ActivePolicy,
        side: Side,
        data: bytes,
        relay: Callable[[bytes], None],
    ) -> tuple[bool, bytes]:
        """Relay what has to pass before it is known where in the client's bytes the next frame
        begins; return whether that is known, and the rest.

        Called when ``side`` has sent ``data`` on a connection older than the rules. A connection
        that is not read any more is closed if the policy is enforced.
        """
        position = 0
        while not (known := RelayInterceptor._can_begin(observed, active_policy, side)):
            size = observed.reader.until_known(side) if side is Side.CLIENT else 0
            if not 0 < size < len(data) - position:
                break
            relay(data[position : position + size])
            position += size
        return known, data[position:]

    @staticmethod
    def _can_begin(observed: ObservedConnection, active_policy: ActivePolicy, side: Side) -> bool:
        reader, policy = observed.reader, active_policy.policy
        if reader.http1 is not None:
            return True
        if reader.not_started or reader.to_boundary(Side.CLIENT) is not None:
            return True
        if side is Side.CLIENT and policy is not None and policy.enforcing and not reader.reading:
            observed.notifier.refused(observed, INTERNAL_ERROR, _NOT_READ)
            observed.close()
        return False

    @property
    def raw(self) -> bool:
        """Whether bytes are forwarded as they come."""
        return self._core is None or self._core.raw

    @property
    def busy(self) -> bool:
        """Whether bytes are held that may still have to be written."""
        core = self._core
        return core is not None and (core.held > 0 or core.undelivered)

    def to_boundary(self, side: Side) -> int | None:
        """Return the bytes until the next frame header of a side; None where it is unknown."""
        core = self._core
        return self._observed.reader.to_boundary(side) if core is None else core.to_boundary(side)

    def received(self, side: Side, data: bytes, now: float) -> None:
        """Handle bytes that a side has sent, which came at ``now`` (seconds)."""
        core, http1 = self._core, self._observed.reader.http1
        if http1 is not None:
            self._receive_http1(http1, side, data, now)
            return
        try:
            if core is None or (core.raw and side is Side.RUNTIME):
                self._pass(side, data, now)
            elif not self._observed.reader.reading and core.needs_reader:
                self._give_up(side, INTERNAL_ERROR, _NOT_READ, now, data)
            elif not core.raw:
                if core.try_pass_through(side, data):
                    self._pass(side, data, now)
                else:
                    self._receive(core, side, data, now)
            else:
                passing, rest = core.scan(data)
                if passing:
                    self._pass(side, passing, now)
                if rest:
                    self._begin_interception(core, rest, now)
        except HTTP1Error as http1_error:
            assert core is not None
            self._core = None
            if SwitchScanner().finds(http1_error.beginning):
                self._to_client(forbidden(_SWITCHES, http1_error.beginning))
                self._refuse(http1_error.reason, _SWITCHES)
            else:
                self._pass(side, core.leftover(), now)
        except WireError as error:
            self._give_up(side, error.reason, str(error), now)

    def _receive_http1(self, http1: SwitchScanner, side: Side, data: bytes, now: float) -> None:
        """Relay HTTP/1, which carries no calls, as long as it cannot turn into HTTP/2."""
        policy = self._active_policy.policy
        switches = http1.finds(data) or (http1.switched and policy is not None and policy.enforcing)
        if side is Side.CLIENT and policy is not None and switches:
            self._refuse(HTTP1Error.reason, _SWITCHES)
        else:
            self._pass(side, data, now)

    def _refuse(self, reason: str, detail: str) -> None:
        self._observed.notifier.refused(self._observed, reason, detail)
        self._observed.close()

    def ended(self, side: Side) -> bool:
        """Handle the close of a side; return whether the client is to be kept open for a while."""
        core = self._core
        if core is None:
            return False
        if self._runtime_ended and side is Side.RUNTIME:
            return core.undelivered
        calls = self._observed.reader.calls
        unanswered = [(call.stream, bool(call.http_status)) for call in calls]
        core.end(side, unanswered, self._observed.clock())
        self._runtime_ended = side is Side.RUNTIME
        self._flush()
        return side is Side.RUNTIME and core.undelivered

    def half_closed(self) -> None:
        """Handle the client's half-close: forward what is buffered of an incomplete frame."""
        if self._core is not None and (rest := self._core.leftover()):
            self._to_runtime(rest)

    def cut(self, stream: int) -> bool:
        """Reset a stream towards both sides; return False while bytes are forwarded raw."""
        if self._notifying:
            self._pending_cuts.append(stream)
        elif self._core is None or self._core.raw:
            return False
        else:
            self._core.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
        return True

    def leftover(self) -> bytes:
        """Return the unforwarded beginning of a client's frame."""
        return b"" if self._core is None else self._core.leftover()

    def end_call(self, stream: int, message: str, headers_sent: bool) -> None:
        """End a call with UNAVAILABLE, while not raw; ``headers_sent``: those of the response."""
        assert self._core is not None
        self._core.reply(stream, StatusCode.UNAVAILABLE, message, headers_sent)

    def _is_wanted(self, path: bytes) -> bool:
        policy = self._active_policy.policy
        return policy is not None and policy.wanted(path)

    def _decide(self, stream: HeldStream) -> Hold | None:
        policy, observed = self._active_policy.policy, self._observed
        if policy is None:
            return None
        call = observed.reader.call(stream.id)
        if call is not None and not policy.wanted(stream.path):  # the others report nothing
            return None
        try:
            return policy.begin(observed.connection, call, stream, stream.headers)
        except Exception as error:  # a fault of ours
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the rules for a call failed", "exception": error}
            )
            if not policy.enforcing:
                return None
            return Hold(_InternalErrorHandler(stream), True, True, hidden=True)

    def _pass(self, side: Side, data: bytes, now: float) -> None:
        if side is Side.CLIENT:
            self._to_runtime(data)
        else:
            self._to_client(data)
        self._observed.notifier.relayed(self._observed, side, data, now)

    def _begin_interception(self, core: ConnectionInterceptor, data: bytes, now: float) -> None:
        if not self._observed.reader.reading:
            self._give_up(Side.CLIENT, INTERNAL_ERROR, _NOT_READ, now, data)
            return
        core.start(self._inserts())
        self._receive(core, Side.CLIENT, data, now)

    def _receive(self, core: ConnectionInterceptor, side: Side, data: bytes, now: float) -> None:
        if side is Side.CLIENT:
            self._notifying = True  # the core has not received these bytes yet
            self._observed.notifier.relayed(self._observed, side, data, now)
            self._notifying = False
        core.receive(side, data, now)
        while self._pending_cuts:
            self._observed.cut(self._pending_cuts.pop())
        self._flush()

    def _flush(self) -> None:
        core, observed = self._core, self._observed
        if core is None:
            return
        if data := core.take(Side.RUNTIME):
            self._to_runtime(data)
        if data := core.take(Side.CLIENT):
            since = observed.clock()
            self._to_client(data)
            observed.notifier.relayed(observed, Side.RUNTIME, data, since)
        if self._runtime_ended and not core.undelivered:
            self._delivered()

    def _give_up(self, side: Side, reason: str, detail: str, now: float, data: bytes = b"") -> None:
        """Relay without rules if the policy allows that, else close the connection."""
        core = self._core
        policy = self._active_policy.policy
        assert core is not None
        raw = core.raw
        rest = core.leftover() + data
        self._core = None
        if raw and (policy is None or not policy.enforcing):
            self._pass(side, rest, now)
        else:
            core.end(Side.CLIENT, (), now)
            self._refuse(reason, detail)

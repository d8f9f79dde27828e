"""What stands between a client and what serves it once there are rules.

A connection's bytes go through it, and it shows them to the witness. As long as no call is begun
that a rule may act on it only looks for one.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from criproxy.relay.notifier import ObservedConnection
from criproxy.relay.policy import ActivePolicy
from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import INTERNAL_ERROR, WireError
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.interceptor import ConnectionInterceptor
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import Side

DELIVERY: Final = 10.0
"""Seconds that a client's connection stays open behind a runtime that has gone, for what it had
answered and what is still held."""

_NOT_READ: Final = "the connection is not read any more, so rules cannot be kept on it"

Write = Callable[[bytes], None]


class _Refusal:
    """Answers a call that rules should have looked at and could not."""

    def __init__(self, stream: HeldStream) -> None:
        self._stream = stream

    def opened(self) -> None:
        self._stream.answer(StatusCode.INTERNAL, "criproxy: internal error in the rules")

    def message(self, side: Side, payload: bytes, compressed: bool) -> None: ...

    def ended(self, side: Side, trailers: list[Header]) -> None: ...

    def too_large(self, side: Side, limit: int) -> None: ...

    def over(self) -> None: ...


class RelayInterceptor:
    """Takes what either side sends, and writes to either side.

    Made for a connection of which all that has come was relayed as it is, where :meth:`can_begin`.
    """

    def __init__(
        self,
        watched: ObservedConnection,
        rulebook: ActivePolicy,
        to_client: Write,
        to_runtime: Write,
        inserts: Callable[[], tuple[list[bytes], list[bytes]]],
        delivered: Callable[[], None],
    ) -> None:
        """``inserts`` hands over frames that wait to be put in among what each side sends.

        ``delivered`` is called when nothing is left to be delivered behind a runtime that has gone.
        """
        self._watched = watched
        self._rulebook = rulebook
        self._to_client = to_client
        self._to_runtime = to_runtime
        self._inserts = inserts
        self._delivered = delivered
        self._runtime_ended = False
        self._showing = False
        self._cuts: list[int] = []
        self._interception: ConnectionInterceptor | None = ConnectionInterceptor(
            watched.reader,
            self._is_wanted,
            self._decide,
            self._flush,
            rulebook.budget,
            watched.reader.header_block_limit,
        )

    @staticmethod
    def can_begin(watched: ObservedConnection, rulebook: ActivePolicy, side: Side) -> bool:
        """Tell whether it is known where in the client's bytes the next frame begins.

        It is asked when ``side`` has sent something on a connection older than the rules. The next
        time that it is not known the connection is closed if the rules have to be kept: who ends
        all that it sends within a frame's header would never come under them.
        """
        reader, policy = watched.reader, rulebook.policy
        if reader.untouched or reader.to_boundary(Side.CLIENT) is not None:
            return True
        if side is Side.CLIENT and policy is not None and policy.enforcing:
            if watched.missed or not reader.reading:
                watched.witness.refused(watched, INTERNAL_ERROR, _NOT_READ)
                watched.close()
            watched.missed = True
        return False

    @property
    def raw(self) -> bool:
        """Whether what comes goes on at once."""
        return self._interception is None or self._interception.raw

    @property
    def busy(self) -> bool:
        """Whether something is held that may have to be written yet."""
        interception = self._interception
        return interception is not None and (interception.held > 0 or interception.undelivered)

    def received(self, side: Side, data: bytes, now: float) -> None:
        """Take what a side has sent, which came at ``now``."""
        interception = self._interception
        try:
            if interception is None or (interception.raw and side is Side.RUNTIME):
                self._pass(side, data, now)
            elif not self._watched.reader.reading and interception.needs_reader:
                self._give_up(side, INTERNAL_ERROR, _NOT_READ, now, data)
            elif not interception.raw:
                if interception.skim(side, data):
                    self._pass(side, data, now)
                else:
                    self._hold(interception, side, data, now)
            else:
                passing, rest = interception.admit(data)
                if passing:
                    self._pass(side, passing, now)
                if rest:
                    self._begin_holding(interception, rest, now)
        except WireError as error:
            self._give_up(side, error.reason, str(error), now)

    def ended(self, side: Side) -> bool:
        """Take notice that a side has gone; tell whether the other is to be kept for a while."""
        interception = self._interception
        if interception is None:
            return False
        if self._runtime_ended and side is Side.RUNTIME:
            return interception.undelivered
        calls = self._watched.reader.calls
        unanswered = [(call.stream, call.first_byte is not None) for call in calls]
        interception.end(side, unanswered, self._watched.clock())
        self._runtime_ended = side is Side.RUNTIME
        self._flush()
        return side is Side.RUNTIME and interception.undelivered

    def half_closed(self) -> None:
        """Take notice that the client sends nothing more: what is kept of a frame goes on."""
        if self._interception is not None and (rest := self._interception.leftover()):
            self._to_runtime(rest)

    def cut(self, stream: int) -> bool:
        """End a call to both sides, see Watched; tell whether that is being done here.

        It is not while the bytes pass raw.
        """
        if self._showing:
            self._cuts.append(stream)
        elif self._interception is None or self._interception.raw:
            return False
        else:
            self._interception.cut(stream, ErrorCode.ENHANCE_YOUR_CALM)
        return True

    def _is_wanted(self, path: bytes) -> bool:
        policy = self._rulebook.policy
        return policy is not None and policy.wanted(path)

    def _decide(self, stream: HeldStream) -> Hold | None:
        policy, watched = self._rulebook.policy, self._watched
        if policy is None:
            return None
        call = watched.reader.call(stream.id)
        if call is not None and not policy.wanted(stream.path):  # of others nobody is told
            return None
        try:
            return policy.begin(watched.connection, call, stream, stream.headers)
        except Exception as error:  # ours, not the call's
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the rules for a call failed", "exception": error}
            )
            if not policy.enforcing:
                return None
            return Hold(_Refusal(stream), True, True, unheard=True)

    def _pass(self, side: Side, data: bytes, now: float) -> None:
        if side is Side.CLIENT:
            self._to_runtime(data)
        else:
            self._to_client(data)
        self._watched.witness.relayed(self._watched, side, data, now)

    def _begin_holding(self, interception: ConnectionInterceptor, data: bytes, now: float) -> None:
        if not self._watched.reader.reading:
            self._give_up(Side.CLIENT, INTERNAL_ERROR, _NOT_READ, now, data)
            return
        interception.enter(self._inserts())
        self._hold(interception, Side.CLIENT, data, now)

    def _hold(
        self, interception: ConnectionInterceptor, side: Side, data: bytes, now: float
    ) -> None:
        if side is Side.CLIENT:
            self._showing = True  # what is told of now has not been received yet
            self._watched.witness.relayed(self._watched, side, data, now)
            self._showing = False
        interception.receive(side, data, now)
        while self._cuts:
            self._watched.cut(self._cuts.pop())
        self._flush()

    def _flush(self) -> None:
        interception, watched = self._interception, self._watched
        if interception is None:
            return
        if data := interception.take(Side.RUNTIME):
            self._to_runtime(data)
        if data := interception.take(Side.CLIENT):
            since = watched.clock()
            self._to_client(data)
            watched.witness.relayed(watched, Side.RUNTIME, data, since)
        if self._runtime_ended and not interception.undelivered:
            self._delivered()

    def _give_up(self, side: Side, reason: str, detail: str, now: float, data: bytes = b"") -> None:
        """Go on without rules where they allow it; else end the connection."""
        interception = self._interception
        policy = self._rulebook.policy
        assert interception is not None
        raw = interception.raw
        rest = interception.leftover() + data
        self._interception = None
        if raw and (policy is None or not policy.enforcing):
            self._pass(side, rest, now)
        else:
            interception.end(Side.CLIENT, (), now)
            self._watched.witness.refused(self._watched, reason, detail)
            self._watched.close()

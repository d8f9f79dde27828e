"""Denies calls when they are opened, and all calls of clients that ``allow`` does not admit."""

from criproxy.cri.naming import MethodName, resolve
from criproxy.enforce.counts import Counts, record_denial
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.callers import is_caller
from criproxy.rules.spec import CallersSpec
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side

CALLER = "caller"
"""The reason for calls of a client that ``allow`` does not admit."""


class DenyHandler:
    """Answers a call in the runtime's place; the runtime does not see it."""

    def __init__(self, stream: HeldStream, code: StatusCode, message: str) -> None:
        self._stream = stream
        self._code = code
        self._message = message

    def opened(self) -> None:
        """Answer the call."""
        self._stream.reply(self._code, self._message)

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Do nothing."""

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Do nothing."""

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
        """Do nothing."""

    def closed(self) -> None:
        """Do nothing."""


def deny_stream(
    counts: Counts,
    connection: Connection,
    name: MethodName,
    call: Call | None,
    stream: HeldStream,
    reason: str,
    message: str,
    code: StatusCode = StatusCode.PERMISSION_DENIED,
) -> Hold:
    """Deny a call that has been opened; ``reason`` is a value of the metric's label, ``message``
    the status message."""
    record_denial(counts, connection, name, call, reason)
    return Hold(DenyHandler(stream, code, message), True, True, hidden=True)


class DenyAllPolicy:
    """The policy for a client that ``allow`` does not admit: all of its calls are denied."""

    enforcing = True

    def __init__(self, reason: str, counts: Counts) -> None:
        """``reason`` is part of the status message: see :func:`rejection_reason`."""
        self.message = f"criproxy: this listener is not for {reason}"
        """The status message of the denied calls."""
        self._counts = counts

    def wanted(self, path: bytes) -> bool:
        """Return True: every call is held."""
        return True

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold:
        """Deny the call."""
        name = resolve(stream.path)
        return deny_stream(self._counts, connection, name, call, stream, CALLER, self.message)


def rejection_reason(allow: CallersSpec, peer: Peer) -> str | None:
    """Return which property of a client ``allow`` does not admit; None for an admitted one."""
    if is_caller(allow, peer):
        return None
    facts = {
        "uid": peer.uid,
        "gid": peer.gid,
        "executable": peer.executable,
        "unit": peer.unit,
        "kubelet": peer.kubelet,
    }
    for name, value in facts.items():
        required = getattr(allow, name)
        if required is not None and not is_caller(CallersSpec(**{name: required}), peer):
            return f"callers with {name} {'unknown' if value is None else value}"
    return "this caller"

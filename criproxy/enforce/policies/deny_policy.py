"""Calls that are denied as soon as they are opened, and who is refused all of theirs."""

from criproxy.cri.naming import MethodName, resolve
from criproxy.enforce.counts import Counts, note_denial
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.callers import is_caller
from criproxy.rules.spec import CallersSpec
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import Side

CALLER = "caller"
"""The reason for a call of somebody who may not connect."""


class DenyHandler:
    """Answers a call with PERMISSION_DENIED; the runtime hears nothing of it."""

    def __init__(self, stream: HeldStream, message: str) -> None:
        self._stream = stream
        self._message = message

    def opened(self) -> None:
        """Answer."""
        self._stream.answer(StatusCode.PERMISSION_DENIED, self._message)

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        """Leave it at that."""

    def ended(self, side: Side, trailers: list[Header]) -> None:
        """Leave it at that."""

    def too_large(self, side: Side, limit: int) -> None:
        """Leave it at that."""

    def over(self) -> None:
        """Leave it at that."""


def refused(
    counts: Counts,
    connection: Connection,
    named: MethodName,
    call: Call | None,
    stream: HeldStream,
    reason: str,
    message: str,
) -> Hold:
    """Deny a call that has been opened, for a ``reason`` in one word; ``message`` is the client's
    to read."""
    note_denial(counts, connection, named, call, reason)
    return Hold(DenyHandler(stream, message), True, True, unheard=True)


class DenyAllPolicy:
    """The policy for a client that may not connect: all of its calls are denied."""

    enforcing = True

    def __init__(self, reason: str, counts: Counts) -> None:
        """``reason`` is what the client is told, in a few words: see :func:`why_not`."""
        self._message = f"criproxy: this listener is not for {reason}"
        self._counts = counts

    def wanted(self, path: bytes) -> bool:
        """Want every call."""
        return True

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold:
        """Deny the call."""
        named = resolve(stream.path)
        return refused(self._counts, connection, named, call, stream, CALLER, self._message)


def why_not(allow: CallersSpec, peer: Peer) -> str | None:
    """Say what of a client does not fit a listener's ``allow``; None where it may connect."""
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
        wanted = getattr(allow, name)
        if wanted is not None and not is_caller(CallersSpec(**{name: wanted}), peer):
            return f"callers with {name} {'unknown' if value is None else value}"
    return "this caller"

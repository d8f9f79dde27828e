"""Makes calls and connections for tests of observers."""

from criproxy.peers.peer import Connection, Peer
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call, End

RUNTIME = b"/runtime.v1.RuntimeService/"
CONNECTION = Connection("unix:///run/test.sock", Peer(4711, 12, 34, "/usr/bin/kubelet"), 0.0)


def running(method: bytes, began: float = 0.0) -> Call:
    """A call that has begun; ``method`` of v1's RuntimeService, or a whole path."""
    path = method if method.startswith(b"/") else RUNTIME + method
    return Call(1, path, b"", True, began)


def ended(
    method: bytes,
    code: StatusCode | None = StatusCode.OK,
    *,
    began: float = 0.0,
    took: float = 0.0,
    first_byte: float | None = None,
    overhead: float = 0.0,
    request: tuple[int, int] = (1, 0),
    response: tuple[int, int] = (1, 0),
    message: bytes = b"",
    rules: tuple[str, ...] = (),
    held: float = 0.0,
) -> Call:
    """A call that has ended: ``took`` and ``first_byte`` are in seconds since it began."""
    call = running(method, began)
    call.ended = began + took
    call.first_byte = None if first_byte is None else began + first_byte
    call.code = code
    call.end = End.UNREAD if code is None else End.STATUS
    call.message = message
    call.overhead = overhead
    call.rules, call.held = rules, held
    call.request.messages, call.request.bytes = request
    call.response.messages, call.response.bytes = response
    return call

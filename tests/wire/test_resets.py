"""Aborted calls: resets in every state, deadlines, GOAWAY, the connection's end."""

import pytest

from criproxy.wire import grpc
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.wire import (
    Began,
    Conversation,
    Ended,
    Sent,
    check,
    client,
    conversation,
    message,
    runtime,
)

ABC = message(b"abc")
HALF = ABC[:6]  # a message's prefix and the first byte

STATES: dict[str, tuple[Conversation, tuple[int, int], tuple[int, int]]] = {
    "asked": ([client(wire.request(1))], (0, 0), (0, 0)),
    "half-closed by the client": ([client(wire.request(1, end=True))], (0, 0), (0, 0)),
    "within a request message": ([client(wire.request(1), wire.data(1, HALF))], (0, 1), (0, 0)),
    "within a request prefix": ([client(wire.request(1), wire.data(1, b"\0"))], (0, 0), (0, 0)),
    "informational response": (
        [client(wire.request(1)), runtime(wire.response(1, status=b"103"))],
        (0, 0),
        (0, 0),
    ),
    "answered": (
        [client(wire.request(1), wire.data(1, ABC)), runtime(wire.response(1))],
        (1, 3),
        (0, 0),
    ),
    "within a response message": (
        [client(wire.request(1, end=True)), runtime(wire.response(1), wire.data(1, ABC + HALF))],
        (0, 0),
        (1, 4),
    ),
    "between messages of both": (
        [
            client(wire.request(1), wire.data(1, ABC)),
            runtime(wire.response(1), wire.data(1, ABC)),
            client(wire.data(1, ABC)),
        ],
        (2, 6),
        (1, 3),
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("side", Side)
def test_reset_in_every_state(state: str, side: Side) -> None:
    """A reset of either side ends a call in any state, once, with the counts so far."""
    before, request, response = STATES[state]
    if side is Side.CLIENT:
        end = Ended(1, "client_reset", StatusCode.CANCELLED, b"", request, response)
    else:
        text = b"stream reset: CANCEL"
        end = Ended(1, "runtime_reset", StatusCode.CANCELLED, text, request, response)
    crossing = [
        client(wire.data(1, ABC), wire.reset(1, 2)),
        runtime(wire.data(1, ABC), wire.trailers(1, 3), wire.reset(1, 2)),
    ]
    check(conversation(*before, Sent(side, wire.reset(1))), Began(1), end)
    check(conversation(*before, Sent(side, wire.reset(1)), *crossing), Began(1), end)


@pytest.mark.parametrize("side", Side)
def test_reset_of_a_stream_that_is_not_open(side: Side) -> None:
    """A reset of an idle, closed or impossible stream does not affect the others."""
    check(
        conversation(
            client(wire.request(1), wire.request(3)),
            runtime(wire.trailers_only(1, 0)),
            *(Sent(side, wire.reset(stream)) for stream in (0, 1, 2, 5, 0x7FFFFFFF)),
            runtime(wire.trailers_only(3, 0)),
        ),
        Began(1),
        Began(3),
        Ended(1),
        Ended(3),
    )


RESETS = {
    0x0: StatusCode.INTERNAL,
    0x1: StatusCode.INTERNAL,
    0x2: StatusCode.INTERNAL,
    0x3: StatusCode.INTERNAL,
    0x4: StatusCode.INTERNAL,
    0x5: StatusCode.INTERNAL,
    0x6: StatusCode.INTERNAL,
    0x7: StatusCode.UNAVAILABLE,
    0x8: StatusCode.CANCELLED,
    0x9: StatusCode.INTERNAL,
    0xA: StatusCode.INTERNAL,
    0xB: StatusCode.RESOURCE_EXHAUSTED,
    0xC: StatusCode.PERMISSION_DENIED,
    0xD: StatusCode.INTERNAL,
    0xE: StatusCode.UNKNOWN,
    0xFFFFFFFF: StatusCode.UNKNOWN,
}


@pytest.mark.parametrize(("error", "code"), RESETS.items())
def test_the_code_of_each_reset(error: int, code: StatusCode) -> None:
    """An RST_STREAM's error code maps to a status code as in gRPC over HTTP/2, "Errors"."""
    assert grpc.code_of_reset(error) is code


NAMES = {
    0x0: b"NO_ERROR",
    0x1: b"PROTOCOL_ERROR",
    0x7: b"REFUSED_STREAM",
    0xD: b"HTTP_1_1_REQUIRED",
    0xE: b"0xe",
    0xFFFFFFFF: b"0xffffffff",
}


@pytest.mark.parametrize(("error", "code"), RESETS.items())
def test_the_runtime_resets(error: int, code: StatusCode) -> None:
    """A runtime's reset gives the code that gRPC maps its error to, and names the error."""
    got: list[wire.Report] = wire.read(
        wire.ConnectionReader(),
        conversation(client(wire.request(1)), runtime(wire.reset(1, error))),
    )
    (_, ended) = got
    assert isinstance(ended, Ended)
    assert ended == Ended(1, "runtime_reset", code, ended.message)
    assert ended.message == b"stream reset: " + NAMES.get(error, ended.message[14:])


@pytest.mark.parametrize(("error", "code"), RESETS.items())
def test_the_client_resets(error: int, code: StatusCode) -> None:
    """A client's CANCEL or NO_ERROR is a cancellation; its other errors map as the runtime's."""
    if error in (0x0, 0x8):
        code = StatusCode.CANCELLED
    check(
        conversation(client(wire.request(1)), client(wire.reset(1, error))),
        Began(1),
        Ended(1, "client_reset", code),
    )


@pytest.mark.parametrize(
    ("timeout", "after", "expired"),
    [
        (b"", 1e9, False),
        (b"1S", 0.5, False),
        (b"1S", 0.97, False),
        (b"1S", 0.999, True),
        (b"1S", 1.0, True),
        (b"1S", 60.0, True),
        (b"10100m", 10.0, True),  # C-core's rounding up of ten seconds
        (b"10100m", 9.5, False),
        (b"50m", 0.030, False),
        (b"50m", 0.046, True),
        (b"1n", 0.0, True),
        (b"1H", 3600.0, True),
        (b"bad", 1e9, False),
    ],
)
@pytest.mark.parametrize("side", Side)
def test_deadline_or_cancellation(timeout: bytes, after: float, expired: bool, side: Side) -> None:
    """A CANCEL is DEADLINE_EXCEEDED from when the call's own timeout explains it, less a slack."""
    code = StatusCode.DEADLINE_EXCEEDED if expired else StatusCode.CANCELLED
    began = 1000.0
    if side is Side.CLIENT:
        end = Ended(1, "client_reset", code)
    else:
        end = Ended(1, "runtime_reset", code, b"stream reset: CANCEL")
    check(
        conversation(
            client(wire.request(1, timeout=timeout), now=began),
            Sent(side, wire.reset(1), began + after),
        ),
        Began(1),
        end,
    )


@pytest.mark.parametrize("side", Side)
def test_a_deadline_does_not_explain_other_resets(side: Side) -> None:
    """Past its deadline, a reset that is no cancellation keeps its own code."""
    _, ended = wire.read(
        wire.ConnectionReader(),
        conversation(
            client(wire.request(1, timeout=b"1S")), Sent(side, wire.reset(1, 0xB), now=9.0)
        ),
    )
    assert isinstance(ended, Ended)
    assert ended.code is StatusCode.RESOURCE_EXHAUSTED


def test_goaway_of_the_runtime() -> None:
    """A runtime's GOAWAY ends the calls above its last stream; those below continue."""
    left_out = (StatusCode.UNAVAILABLE, b"the runtime is going")
    check(
        conversation(
            client(*(wire.request(stream) for stream in (1, 3, 5, 7))),
            runtime(wire.goaway(0x7FFFFFFF), wire.response(1)),
            runtime(wire.goaway(3, 2, b"why")),
            runtime(wire.trailers(1), wire.trailers_only(3, 0), wire.trailers_only(5, 0)),
        ),
        *(Began(stream) for stream in (1, 3, 5, 7)),
        Ended(5, "goaway", *left_out),
        Ended(7, "goaway", *left_out),
        Ended(1),
        Ended(3),
    )


def test_goaway_of_the_client() -> None:
    """A client's GOAWAY ends no call: it speaks of streams that the runtime might open."""
    check(
        conversation(
            client(wire.request(1), wire.request(3), wire.goaway(0)),
            runtime(wire.trailers_only(1, 0)),
        ),
        Began(1),
        Began(3),
        Ended(1),
    )


@pytest.mark.parametrize("side", Side)
def test_the_connection_ends(side: Side) -> None:
    """The connection's end ends the calls in flight, in the order in which they began."""
    if side is Side.CLIENT:
        how = ("client_gone", StatusCode.CANCELLED, b"the client closed the connection")
    else:
        how = ("runtime_gone", StatusCode.UNAVAILABLE, b"the runtime closed the connection")
    check(
        conversation(
            client(wire.request(1), wire.request(3), wire.data(3, HALF), wire.request(5)),
            runtime(wire.trailers_only(1, 0)),
            Sent(side, b"", 2.0),
            Sent(Side(1 - side), b"", 3.0),
        ),
        *(Began(stream) for stream in (1, 3, 5)),
        Ended(1),
        Ended(3, *how, request=(0, 1)),
        Ended(5, *how),
    )


@pytest.mark.parametrize("side", Side)
def test_a_connection_without_calls_ends(side: Side) -> None:
    """The end of an idle connection, or of one without bytes, reports nothing."""
    check(conversation(Sent(side, b"")))
    assert wire.ConnectionReader().end(side, 0.0) == []

"""The positions at which reading stops, and the events before them."""

import hpack
import pytest

from criproxy.wire.errors import INTERNAL_ERROR, REASONS
from criproxy.wire.reading.connection import ConnectionReader, ReadingStopped, Side
from tests.support import wire
from tests.support.wire import (
    Began,
    Conversation,
    Ended,
    Stopped,
    check,
    client,
    conversation,
    message,
    read,
    runtime,
)


def unread(stream: int, request: tuple[int, int] = (0, 0)) -> Ended:
    return Ended(stream, "unread", None, b"", request)


BAD: dict[str, tuple[Conversation, str]] = {
    "a client's even stream": ([client(wire.request(6))], "protocol_error"),
    "DATA on a client's idle stream": ([client(wire.data(5, b"x"))], "protocol_error"),
    "DATA on stream 0": ([client(wire.data(0, b"x"))], "protocol_error"),
    "DATA on stream 0, runtime": ([runtime(wire.data(0, b"x"))], "protocol_error"),
    "DATA on a runtime's idle stream": ([runtime(wire.data(5, b"x"))], "protocol_error"),
    "DATA on a stream of the runtime's": ([runtime(wire.data(8, b"x"))], "protocol_error"),
    "a response on an idle stream": ([runtime(wire.response(5))], "protocol_error"),
    "a response on stream 0": ([runtime(wire.response(0))], "protocol_error"),
    "a push": ([runtime(wire.frame(wire.PUSH_PROMISE, 4, 3, bytes(5)))], "protocol_error"),
    "a small SETTINGS_MAX_FRAME_SIZE": ([client(wire.settings((5, 16383)))], "protocol_error"),
    "a large SETTINGS_MAX_FRAME_SIZE": ([runtime(wire.settings((5, 1 << 24)))], "protocol_error"),
    "a PING of five bytes": ([runtime(wire.frame(wire.PING, 0, 0, b"12345"))], "frame_size_error"),
    "a bad header block": ([client(wire.headers(5, b"\x80"))], "compression_error"),
    "a bad trailers block": ([runtime(wire.headers(3, b"\x80", end=True))], "compression_error"),
    "a header block without end": (
        [
            client(
                wire.frame(wire.HEADERS, 0, 5), wire.frame(wire.CONTINUATION, 0, 5, b"\x82" * 501)
            )
        ],
        "limit",
    ),
    "a table over the limit": (
        [
            runtime(wire.settings((1, 1 << 21))),
            client(wire.headers(5, wire.integer(1 << 21, 5, 32))),
        ],
        "limit",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_reading_stops(what: str) -> None:
    """A bad frame ends the open calls as UNREAD and then reading; all that came before stays."""
    sent, reason = BAD[what]
    check(
        conversation(
            client(wire.request(1), wire.request(3), wire.data(3, message(b"abc"))),
            runtime(wire.trailers_only(1, 0)),
            *sent,
            # Neither direction is read any further.
            client(wire.request(9)),
            runtime(wire.trailers_only(3, 0)),
        ),
        Began(1),
        Began(3),
        Ended(1),
        unread(3, request=(1, 3)),
        Stopped(reason),
        header_block_limit=500,
    )


def test_events_of_the_same_bytes_come_first() -> None:
    """The events of a chunk before its error are kept, in order."""
    reader = ConnectionReader()
    frames = wire.PREFACE + wire.settings() + wire.request(1) + wire.reset(1) + wire.request(3)
    events = reader.receive(Side.CLIENT, frames + wire.request(4) + wire.request(5), 7.0)
    ended = Ended(1, "client_reset", wire.StatusCode.CANCELLED)
    assert [wire.report_of(event) for event in events] == [
        Began(1),
        ended,
        Began(3),
        unread(3),
        Stopped("protocol_error"),
    ]
    stopped = events[-1]
    assert isinstance(stopped, ReadingStopped)
    assert stopped.detail == "a client opens stream 4"
    assert not reader.reading
    assert reader.receive(Side.RUNTIME, b"anything", 8.0) == []
    assert reader.end(Side.CLIENT, 9.0) == []


def test_reasons() -> None:
    """A reason is one of a fixed set of words, and a reader meets all but that of a send queue."""
    met = {reason for _, reason in BAD.values()}
    assert met | {"not_http2", "http1", "flow_control_error", INTERNAL_ERROR} == set(REASONS)


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PUT /x HTTP/1.0\r\n\r\n", b"POST /\n"]
)
def test_a_client_that_speaks_http1(first: bytes) -> None:
    """A client's bytes that begin a request of HTTP/1 are told from others."""
    check([client(first)], Stopped("http1"))


@pytest.mark.parametrize(
    "first",
    [
        b"get / HTTP/1.1\r\n",
        b"GETS / HTTP/1.1\r\n",
        b"PRI * HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\n",
        wire.settings(),
        wire.PREFACE + wire.ping(),
        wire.PREFACE + wire.settings(ack=True),
        wire.PREFACE + wire.PREFACE,
    ],
)
def test_a_client_that_speaks_another_protocol(first: bytes) -> None:
    """A client's bytes that do not begin with the preface and SETTINGS are not HTTP/2."""
    check([client(first)], Stopped("not_http2"))


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", wire.PREFACE, wire.ping(), b"\x15\x03\x01" + bytes(9)],
)
def test_a_runtime_that_does_not_speak_http2(first: bytes) -> None:
    """A runtime's bytes that do not begin with SETTINGS are not HTTP/2; open calls are UNREAD."""
    opening = client(wire.PREFACE, wire.settings(), wire.request(1))
    check([opening, runtime(first)], Began(1), unread(1), Stopped("not_http2"))


def test_nothing_yet() -> None:
    """A part of the preface or of the first frame reports nothing, also when no more follows."""
    for cut in wire.CUTS:
        started = [client(wire.PREFACE[:10]), runtime(wire.settings()[:5])]
        assert read(ConnectionReader(), [*started, client(b""), runtime(b"")], cut) == []


def test_stream_limit() -> None:
    """As many calls as the limit may be open at a time; one more is not read."""
    turns = [
        sent
        for stream in range(5, 45, 2)
        for sent in (client(wire.request(stream)), runtime(wire.trailers_only(stream, 0)))
    ]
    events = [event for stream in range(5, 45, 2) for event in (Began(stream), Ended(stream))]
    fits = conversation(client(wire.request(1), wire.request(3)), *turns, client(wire.request(45)))
    check(fits, Began(1), Began(3), *events, Began(45), stream_limit=3)
    check(
        [*fits, client(wire.request(47))],
        Began(1),
        Began(3),
        *events,
        Began(45),
        unread(1),
        unread(3),
        unread(45),
        Stopped("limit"),
        stream_limit=3,
    )


def test_header_table_resizes_by_settings() -> None:
    """Each side's SETTINGS_HEADER_TABLE_SIZE allows the other's encoder a larger table."""
    to_runtime, to_client = hpack.Encoder(), hpack.Encoder()
    to_runtime.header_table_size = 8192
    to_client.header_table_size = 16384
    value = b"v" * 5000
    fields = [*wire.request_fields(), (b"x-long", value)]
    response = [(b":status", b"200"), (b"x-long", value * 2), (b"grpc-status", b"0")]
    conversed = conversation(client(wire.settings((1, 16384))), runtime(wire.settings((1, 8192))))
    events: list[wire.Report] = []
    for stream in (1, 3, 5):
        block = to_runtime.encode(fields)
        answer = to_client.encode(response)
        if stream > 1:
            assert len(block) + len(answer) < 30  # the long field is in the table
        conversed.append(client(wire.headers(stream, block, end=True)))
        conversed.append(runtime(wire.headers(stream, answer, end=True)))
        events += [Began(stream), Ended(stream)]
    check(conversed, *events)


@pytest.mark.parametrize("announces", Side)
def test_a_table_that_the_other_side_did_not_allow(announces: Side) -> None:
    """An encoder's larger table is refused where only its own side has announced it."""
    allowing = [wire.Sent(announces, wire.settings((1, 8192)))]
    block = wire.integer(8192, 5, 32)
    check(
        conversation(*allowing, wire.Sent(announces, wire.headers(1, block))),
        Stopped("compression_error"),
    )


@pytest.mark.parametrize("side", Side)
def test_larger_frames_by_settings(side: Side) -> None:
    """SETTINGS_MAX_FRAME_SIZE allows the other side larger frames, never one's own."""
    other = Side(1 - side)
    opened = conversation(client(wire.request(1)), runtime(wire.response(1)))
    opened.append(wire.Sent(other, wire.settings((5, 20000))))
    large = wire.data(1, message(b"x" * 19000))
    reader = ConnectionReader()
    assert read(reader, [*opened, wire.Sent(side, large)]) == [Began(1)]
    (call,) = reader.calls
    counters = (call.request, call.response)
    assert [(counter.messages, counter.bytes) for counter in counters] == [
        (1, 19000) if side is own else (0, 0) for own in Side
    ]
    assert read(reader, [wire.Sent(other, large)])[-1] == Stopped("frame_size_error")


def test_a_smaller_frame_size_is_not_enforced() -> None:
    """Frames that were allowed once may be under way: taking the allowance back changes nothing."""
    large = wire.data(1, message(b"x" * 19000))
    reader = ConnectionReader()
    shrunk = runtime(wire.settings((5, 20000)), wire.settings((5, 16384)))
    assert read(reader, conversation(client(wire.request(1)), shrunk, client(large))) == [Began(1)]
    assert reader.calls[0].request.bytes == 19000


def test_nothing_stays_of_ended_calls() -> None:
    """No ended call is kept, however many there were."""
    reader = ConnectionReader(stream_limit=1)
    read(reader, conversation())
    for stream in range(1, 2001, 2):
        read(reader, [client(wire.request(stream)), runtime(wire.trailers_only(stream, 0))])
        assert reader.calls == ()
    assert reader.reading

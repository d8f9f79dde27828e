"""Header blocks that are expensive to process, read in passing."""

import pytest

from criproxy.wire.grpc import StatusCode
from criproxy.wire.http2.frames import MAX_CONTINUATIONS
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.wire import Began, Ended, Stopped, check, client, conversation, runtime

LARGE = b"\x40" + wire.string(b"x-large") + wire.string(b"v" * 4000)
REFERENCE = b"\xbe"
OPENED = wire.headers(1, wire.block(*wire.request_fields()) + LARGE, end=True)


def fragments(stream: int, count: int, *, ended: bool = True, payload: bytes = b"") -> bytes:
    """HEADERS and so many CONTINUATION frames with the same payload."""
    first = wire.frame(wire.HEADERS, wire.END_STREAM, stream, wire.block(*wire.request_fields()))
    middle = wire.frame(wire.CONTINUATION, 0, stream, payload) * (count - 1)
    last = wire.frame(wire.CONTINUATION, wire.END_HEADERS if ended else 0, stream, payload)
    return first + middle + last


def test_references_over_the_limit_are_read_in_part() -> None:
    """A list over 64 KiB by references to a large field is read as far as the limit goes."""
    block = wire.block(*wire.request_fields()) + REFERENCE * 500
    check(
        conversation(
            client(OPENED, wire.headers(3, block, end=True)),
            runtime(wire.trailers_only(1, 0), wire.trailers_only(3, 0)),
        ),
        Began(1),
        Began(3),
        Ended(1),
        Ended(3),
    )


def test_twenty_thousand_references_stop_the_reading() -> None:
    """A block of 20,000 references to a field of 4,000 bytes is not decoded."""
    block = wire.block(*wire.request_fields()) + REFERENCE * 15_000
    unread = Ended(1, "unread", None)
    flood = wire.headers(3, block, end=True)
    check(conversation(client(OPENED, flood)), Began(1), unread, Stopped("limit"))


def test_a_long_status_message() -> None:
    """Trailers with a message over the limit end their call with their code."""
    block = wire.block((b"grpc-status", b"5"), (b"grpc-message", b"m" * 200_000))
    check(
        conversation(
            client(wire.request(1)), runtime(wire.headers(1, block, end=True, fragments=13))
        ),
        Began(1),
        Ended(1, code=StatusCode.NOT_FOUND),
    )


@pytest.mark.parametrize("payload", [b"", b"\x82"])
def test_continuations(payload: bytes) -> None:
    """A block may have 128 CONTINUATION frames, empty or not; with one more the reading stops."""
    many = fragments(1, MAX_CONTINUATIONS, payload=payload)
    check(conversation(client(many)), Began(1))
    check(conversation(client(many, fragments(3, 5))), Began(1), Began(3))
    too_many = fragments(1, MAX_CONTINUATIONS + 1, payload=payload, ended=False)
    check(conversation(client(too_many)), Stopped("limit"))


@pytest.mark.parametrize("side", Side)
def test_empty_continuations_without_end(side: Side) -> None:
    """CONTINUATION frames without payload or end are not kept."""
    reader = ConnectionReader()
    flood = fragments(1, 10_000, ended=False)
    wire.read(reader, conversation(wire.Sent(side, flood)))
    assert not reader.reading


def test_table_size_updates() -> None:
    """A block of size updates stops the reading."""
    block = wire.integer(4096, 5, 0x20) * 5000 + wire.block(*wire.request_fields())
    check(conversation(client(wire.headers(1, block))), Stopped("limit"))

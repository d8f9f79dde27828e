"""Builds HTTP/2 bytes, cuts them into chunks, and turns a reader's events into plain values.

A conversation is a list of :class:`Sent`: what each side sent, in the order in which it passes. Its
numbers are written out here, apart from those of ``criproxy.wire``, so that a wrong one shows.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.connection import CallBegan, CallEnded, ConnectionReader, Event, Side

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, MAX_FRAME_SIZE = 1, 5

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = b"/runtime.v1.RuntimeService/Version"

Header = tuple[bytes, bytes]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def padded(payload: bytes, padding: int) -> bytes:
    return bytes((padding,)) + payload + bytes(padding)


def data(
    stream: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None
) -> bytes:
    flags = END_STREAM if end else 0
    if padding is not None:
        flags |= PADDED
        payload = padded(payload, padding)
    return frame(DATA, flags, stream, payload)


def headers(stream: int, block: bytes, *, end: bool = False, fragments: int = 1) -> bytes:
    """A HEADERS frame and as many CONTINUATION frames as make ``fragments`` in all."""
    size = -(-len(block) // fragments)
    parts = [block[size * number : size * (number + 1)] for number in range(fragments)]
    frames = [(HEADERS, END_STREAM if end else 0, parts[0])]
    frames += [(CONTINUATION, 0, part) for part in parts[1:]]
    kind, flags, last = frames.pop()
    frames.append((kind, flags | END_HEADERS, last))
    return b"".join(frame(kind, flags, stream, part) for kind, flags, part in frames)


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
    return frame(SETTINGS, ACK if ack else 0, 0, payload)


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def ping(*, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, b"pingpong")


def integer(value: int, prefix_bits: int, first: int = 0) -> bytes:
    """An HPACK integer; ``first`` holds the bits in front of its prefix (RFC 7541 section 5.1)."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((first | value,))
    value -= most
    out = bytearray((first | most,))
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def block(*fields: Header) -> bytes:
    """A header block of literals without indexing: it can be sent at any time."""
    return b"".join(b"\x00" + string(name) + string(value) for name, value in fields)


def request_fields(
    path: bytes = PATH, timeout: bytes = b"", content_type: bytes = b"application/grpc"
) -> list[Header]:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path)]
    fields += [(b":authority", b"localhost"), (b"content-type", content_type), (b"te", b"trailers")]
    if timeout:
        fields.append((b"grpc-timeout", timeout))
    return fields


def request(
    stream: int,
    *,
    path: bytes = PATH,
    timeout: bytes = b"",
    content_type: bytes = b"application/grpc",
    end: bool = False,
) -> bytes:
    return headers(stream, block(*request_fields(path, timeout, content_type)), end=end)


def response(stream: int, *, status: bytes = b"200", end: bool = False) -> bytes:
    fields = ((b":status", status), (b"content-type", b"application/grpc"))
    return headers(stream, block(*fields), end=end)


def trailers(stream: int, code: int = 0, message: bytes = b"") -> bytes:
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", message))
    return headers(stream, block(*fields), end=True)


def trailers_only(stream: int, code: int, message: bytes = b"", status: bytes = b"200") -> bytes:
    fields = [(b":status", status), (b"grpc-status", b"%d" % code), (b"grpc-message", message)]
    return headers(stream, block(*fields), end=True)


def message(content: bytes = b"", *, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + len(content).to_bytes(4, "big") + content


class Sent(NamedTuple):
    """Bytes that one side sent, and when in seconds. No bytes: it ended the connection."""

    side: Side
    data: bytes
    now: float = 0.0


Conversation = list[Sent]


def client(*frames: bytes, now: float = 0.0) -> Sent:
    return Sent(Side.CLIENT, b"".join(frames), now)


def runtime(*frames: bytes, now: float = 0.0) -> Sent:
    return Sent(Side.RUNTIME, b"".join(frames), now)


def conversation(*sent: Sent) -> Conversation:
    """Return a conversation that begins with both sides' first SETTINGS."""
    return [client(PREFACE, settings()), runtime(settings(), settings(ack=True)), *sent]


Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for number in range(len(data)):
        yield data[number : number + 1]


def at_random(seed: int, longest: int = 40) -> Cut:
    """Cut into pieces of one byte to ``longest``, the same way each time for one ``seed``."""

    def cut(data: bytes) -> Iterator[bytes]:
        generator = random.Random(seed)
        position = 0
        while position < len(data):
            end = position + generator.randint(1, longest)
            yield data[position:end]
            position = end

    return cut


CUTS: list[Cut] = [whole, byte_by_byte, *(at_random(seed) for seed in range(4))]


class Began(NamedTuple):
    stream: int
    path: bytes = PATH


class Ended(NamedTuple):
    """The end of a call; ``request`` and ``response`` are numbers of messages and bytes."""

    stream: int
    end: str = "status"
    code: StatusCode | None = StatusCode.OK
    message: bytes = b""
    request: tuple[int, int] = (0, 0)
    response: tuple[int, int] = (0, 0)


class Stopped(NamedTuple):
    reason: str


Report = Began | Ended | Stopped


def report_of(event: Event) -> Report:
    """The event as a plain value."""
    if isinstance(event, CallBegan):
        return Began(event.call.stream, event.call.path)
    if isinstance(event, CallEnded):
        call = event.call
        assert call.end is not None
        return Ended(
            call.stream,
            call.end.value,
            call.code,
            call.message,
            (call.request.messages, call.request.bytes),
            (call.response.messages, call.response.bytes),
        )
    return Stopped(event.reason)


def read(reader: ConnectionReader, sent: Iterable[Sent], cut: Cut = whole) -> list[Report]:
    """Give the reader a conversation, each side's bytes cut into chunks; return its events."""
    events = []
    for side, payload, now in sent:
        if not payload:
            events += reader.end(side, now)
        for piece in cut(payload):
            events += reader.receive(side, piece, now)
    return [report_of(event) for event in events]


_UNFINISHED = [client(b"\0\0\x08\x06"), runtime(b"\0\0\x08\x06")]


def check(
    sent: Conversation,
    *expected: Report,
    stream_limit: int = 100,
    header_block_limit: int = 1 << 20,
) -> None:
    """Check the events of a conversation, for every cut and whether or not more follows."""
    for cut in CUTS:
        for trailing in ([], _UNFINISHED):
            reader = ConnectionReader(
                stream_limit=stream_limit, header_block_limit=header_block_limit
            )
            got = read(reader, sent + trailing, cut)
            assert got == list(expected), "\n".join(map(str, ["events:", *got]))
            begun = [event.stream for event in expected if isinstance(event, Began)]
            ended = {event.stream for event in expected if isinstance(event, Ended)}
            assert [call.stream for call in reader.calls] == [s for s in begun if s not in ended]
            assert reader.reading is not any(isinstance(event, Stopped) for event in expected)

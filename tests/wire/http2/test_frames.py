"""Frames of one direction: the calls of their handler, for every cut of their bytes."""

import pytest

from criproxy.wire.errors import WireError
from criproxy.wire.http2.frames import FrameReader
from tests.support import wire
from tests.support.wire import CUTS, Header

GET = b"\x82"  # a header block: :method GET
FIELDS = [(b":method", b"GET")]


class Recorder:
    """A handler that records its calls; the pieces of a DATA payload are joined."""

    def __init__(self) -> None:
        self.record: list[tuple[object, ...]] = []

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        self.record.append(("headers", stream, headers, ended))

    def data(self, stream: int, chunk: bytes, start: int, end: int, now: float) -> None:
        piece = chunk[start:end]
        assert piece
        before = self.record[-1] if self.record else ()
        if before[:2] == ("data", stream):
            piece = before[2] + piece  # type: ignore[operator]
            self.record.pop()
        self.record.append(("data", stream, piece))

    def data_ended(self, stream: int, now: float) -> None:
        self.record.append(("data_ended", stream))

    def reset(self, stream: int, code: int, now: float) -> None:
        self.record.append(("reset", stream, code))

    def setting(self, identifier: int, value: int) -> None:
        self.record.append(("setting", identifier, value))

    def settings_acknowledged(self) -> None:
        self.record.append(("settings_acknowledged",))

    def goaway(self, last_stream: int, code: int, now: float) -> None:
        self.record.append(("goaway", last_stream, code))


def record_of(
    data: bytes, cut: wire.Cut, *, max_frame_size: int = 16384, limit: int = 1 << 20
) -> list[tuple[object, ...]]:
    """Return a handler's calls for a runtime's bytes; the last is an error's reason, if any."""
    recorder = Recorder()
    reader = FrameReader(recorder, preface=False, header_block_limit=limit)
    reader.max_frame_size = max_frame_size
    try:
        for piece in cut(data):
            reader.read(piece, 0.0)
    except WireError as error:
        recorder.record.append(("refused", error.reason))
    return recorder.record


def check(
    frames: bytes, *expected: tuple[object, ...], max_frame_size: int = 16384, limit: int = 1 << 20
) -> None:
    """Check the handler's calls, after the first SETTINGS, for every cut."""
    for cut in CUTS:
        for trailing in (b"", b"\0\0\x08\x06"):
            data = wire.settings() + frames + trailing
            got = record_of(data, cut, max_frame_size=max_frame_size, limit=limit)
            assert got == list(expected)


@pytest.mark.parametrize("padding", [None, 0, 1, 17, 254, 255])
@pytest.mark.parametrize("payload", [b"", b"x", b"payload" * 100])
def test_padded_data(payload: bytes, padding: int | None) -> None:
    """DATA is shown without its padding, and its end comes once, also when nothing is shown."""
    shown = [("data", 1, payload)] if payload else []
    check(
        wire.data(1, payload, end=True, padding=padding) + wire.reset(3),
        *shown,
        ("data_ended", 1),
        ("reset", 3, 8),
    )


@pytest.mark.parametrize("padding", [None, 0, 1, 255])
@pytest.mark.parametrize("priority", [b"", b"\x80\0\0\x01\xff"])
def test_padded_and_prioritised_headers(padding: int | None, priority: bytes) -> None:
    """A header block is read without its padding and its priority."""
    flags = wire.END_HEADERS | (wire.HAS_PRIORITY if priority else 0)
    payload = priority + GET
    if padding is not None:
        flags |= wire.PADDED
        payload = wire.padded(payload, padding)
    check(wire.frame(wire.HEADERS, flags, 5, payload), ("headers", 5, FIELDS, False))


def test_padding_up_to_the_whole_payload() -> None:
    """Padding that takes all that is left is allowed; one byte more is refused."""
    for length in (1, 2, 200, 256):
        whole = bytes((length - 1,)) + bytes(length - 1)
        check(
            wire.frame(wire.DATA, wire.PADDED | wire.END_STREAM, 1, whole),
            ("data_ended", 1),
        )
        flags = wire.PADDED | wire.END_HEADERS
        check(wire.frame(wire.HEADERS, flags, 1, whole), ("headers", 1, [], False))
    for length in (1, 2, 200, 255):
        over = bytes((length,)) + bytes(length - 1)
        check(wire.frame(wire.DATA, wire.PADDED, 1, over), ("refused", "protocol_error"))
        check(wire.frame(wire.HEADERS, wire.PADDED, 1, over), ("refused", "protocol_error"))


def test_data_with_end_stream_and_nothing_else() -> None:
    """An empty DATA frame may end its stream; one without END_STREAM reports nothing."""
    check(wire.data(1) + wire.data(1, end=True), ("data_ended", 1))


def test_the_end_of_data_belongs_to_its_frame() -> None:
    """END_STREAM is reported behind the last byte of its own frame, not of the next or the last."""
    check(
        wire.data(1, b"a", end=True) + wire.data(3, b"b") + wire.data(5, b"c", end=True),
        ("data", 1, b"a"),
        ("data_ended", 1),
        ("data", 3, b"b"),
        ("data", 5, b"c"),
        ("data_ended", 5),
    )


@pytest.mark.parametrize("fragments", [1, 2, 3, 40])
@pytest.mark.parametrize("end", [False, True])
def test_continuation(fragments: int, end: bool) -> None:
    """A block that CONTINUATION frames carry on is one block, with its HEADERS' END_STREAM."""
    fields = [(b"name", b"value" * 8), (b"other", b"")]
    frames = wire.headers(7, wire.block(*fields), end=end, fragments=fragments)
    check(frames + wire.reset(7), ("headers", 7, fields, end), ("reset", 7, 8))


def test_blocks_carried_on_do_not_mix() -> None:
    """A second block in fragments has none of the first's bytes, nor its END_STREAM."""
    frames = wire.headers(1, GET * 4, end=True, fragments=2) + wire.headers(3, GET * 6, fragments=3)
    check(frames, ("headers", 1, FIELDS * 4, True), ("headers", 3, FIELDS * 6, False))


def test_empty_continuations() -> None:
    """Fragments may be empty, as often as the peer likes."""
    frames = wire.frame(wire.HEADERS, 0, 1) + wire.frame(wire.CONTINUATION, 0, 1) * 50
    frames += wire.frame(wire.CONTINUATION, wire.END_HEADERS, 1, GET)
    check(frames, ("headers", 1, FIELDS, False))


@pytest.mark.parametrize(
    "intruder",
    [
        pytest.param(wire.data(1, b"x"), id="DATA"),
        pytest.param(wire.headers(1, GET), id="HEADERS"),
        pytest.param(wire.headers(3, GET), id="HEADERS of another stream"),
        pytest.param(wire.frame(wire.CONTINUATION, 4, 3), id="CONTINUATION of another stream"),
        pytest.param(wire.settings(), id="SETTINGS"),
        pytest.param(wire.ping(), id="PING"),
        pytest.param(wire.reset(1), id="RST_STREAM"),
        pytest.param(wire.frame(0x77), id="a type that nobody knows"),
    ],
)
def test_nothing_stands_within_a_header_block(intruder: bytes) -> None:
    """Between HEADERS and the last CONTINUATION no other frame may come (section 6.10)."""
    for opened in (b"", wire.frame(wire.CONTINUATION, 0, 1, GET)):
        check(
            wire.frame(wire.HEADERS, 0, 1, GET) + opened + intruder, ("refused", "protocol_error")
        )


def test_a_continuation_of_nothing() -> None:
    """A CONTINUATION needs a block that is open: never the first, never behind END_HEADERS."""
    lonely = wire.frame(wire.CONTINUATION, wire.END_HEADERS, 1, GET)
    check(lonely, ("refused", "protocol_error"))
    check(
        wire.headers(1, GET) + lonely, ("headers", 1, FIELDS, False), ("refused", "protocol_error")
    )
    whole = wire.headers(1, GET * 2, fragments=2)
    check(whole + lonely, ("headers", 1, FIELDS * 2, False), ("refused", "protocol_error"))


def test_header_block_limit() -> None:
    """A block up to the limit is read, in one frame or many; a byte more is refused."""
    for fragments in (1, 2, 5):
        fields = FIELDS * 100
        fits = wire.headers(1, GET * 100, fragments=fragments)
        check(fits, ("headers", 1, fields, False), limit=100)
        check(wire.headers(1, GET * 101, fragments=fragments), ("refused", "limit"), limit=100)


def test_a_block_without_end_is_refused_at_the_limit() -> None:
    """CONTINUATION frames that never end cost no more than the limit."""
    endless = wire.frame(wire.HEADERS, 0, 1) + wire.frame(wire.CONTINUATION, 0, 1, GET * 64) * 17
    check(endless, ("refused", "limit"), limit=1024)


def test_only_gathered_frames_meet_the_limit() -> None:
    """The limit is on buffered frames: DATA and skipped frames may be longer."""
    check(
        wire.data(1, b"x" * 500) + wire.frame(0x77, 0, 0, bytes(500)) + wire.reset(1),
        ("data", 1, b"x" * 500),
        ("reset", 1, 8),
        limit=100,
    )


@pytest.mark.parametrize("kind", [wire.PRIORITY, wire.PING, wire.WINDOW_UPDATE, 0xA, 0x77, 0xFF])
@pytest.mark.parametrize("flags", [0, 0xFF])
def test_frames_that_say_nothing(kind: int, flags: int) -> None:
    """Frames that do not concern calls, known or not, are skipped whatever their flags."""
    size = {wire.PRIORITY: 5, wire.PING: 8, wire.WINDOW_UPDATE: 4}.get(kind, 300)
    check(wire.frame(kind, flags, 1, b"\x01" * size) + wire.reset(1), ("reset", 1, 8))


def test_unknown_flags_and_the_reserved_bit() -> None:
    """Flags without a meaning and the bit in front of a stream's number are ignored."""
    high = 1 << 31
    check(
        wire.frame(wire.DATA, 0xF6, high | 1, b"x")
        + wire.frame(wire.HEADERS, 0xD6, high | 3, GET)
        + wire.frame(wire.HEADERS, 0, high | 5, GET)
        + wire.frame(wire.CONTINUATION, 0xFF, 5, GET)
        + wire.frame(wire.RST_STREAM, 0xFF, high | 7, bytes(4))
        + wire.frame(wire.GOAWAY, 0xFF, 0, b"\xff\xff\xff\xff" + bytes(4)),
        ("data", 1, b"x"),
        ("headers", 3, FIELDS, False),
        ("headers", 5, FIELDS * 2, False),
        ("reset", 7, 0),
        ("goaway", high - 1, 0),
    )


def test_settings() -> None:
    """Each parameter is reported in order, known or not; an ACK is reported as one."""
    check(
        wire.settings((1, 0), (5, 16384), (0xFFFF, 0xFFFFFFFF), (1, 100)) + wire.settings(ack=True),
        ("setting", 1, 0),
        ("setting", 5, 16384),
        ("setting", 0xFFFF, 0xFFFFFFFF),
        ("setting", 1, 100),
        ("settings_acknowledged",),
    )


def test_goaway() -> None:
    """A GOAWAY reports its last stream and its code; its debug data is ignored."""
    check(
        wire.goaway(5, 0) + wire.goaway(3, 11, b"too_many_pings"),
        ("goaway", 5, 0),
        ("goaway", 3, 11),
    )


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(wire.frame(wire.PRIORITY, 0, 1, bytes(4)), id="PRIORITY"),
        pytest.param(wire.frame(wire.RST_STREAM, 0, 1, bytes(3)), id="RST_STREAM, short"),
        pytest.param(wire.frame(wire.RST_STREAM, 0, 1, bytes(5)), id="RST_STREAM, long"),
        pytest.param(wire.frame(wire.SETTINGS, 0, 0, bytes(5)), id="SETTINGS"),
        pytest.param(wire.frame(wire.SETTINGS, wire.ACK, 0, bytes(6)), id="SETTINGS, ACK"),
        pytest.param(wire.frame(wire.PING, 0, 0, bytes(7)), id="PING"),
        pytest.param(wire.frame(wire.GOAWAY, 0, 0, bytes(7)), id="GOAWAY"),
        pytest.param(wire.frame(wire.WINDOW_UPDATE, 0, 0, bytes(5)), id="WINDOW_UPDATE"),
        pytest.param(wire.frame(wire.HEADERS, wire.PADDED, 1), id="HEADERS, no Pad Length"),
        pytest.param(wire.frame(wire.HEADERS, wire.HAS_PRIORITY, 1, bytes(4)), id="HEADERS, 4"),
        pytest.param(wire.data(1, bytes(16385)), id="DATA over the largest"),
        pytest.param(wire.frame(0x77, 0, 0, bytes(16385)), id="an unknown one over the largest"),
    ],
)
def test_wrong_sizes(bad: bytes) -> None:
    """A frame of a size that its type cannot have is an error, after the frames before it."""
    check(wire.reset(1) + bad, ("reset", 1, 8), ("refused", "frame_size_error"))


@pytest.mark.parametrize("size", [16384, 16385, (1 << 24) - 1])
def test_the_largest_frame(size: int) -> None:
    """A frame of just the size that the peer allows is read, and a byte more is refused."""
    payload = bytes(size)
    got = record_of(
        wire.settings() + wire.data(1, payload, end=True), wire.whole, max_frame_size=size
    )
    assert got == [("data", 1, payload), ("data_ended", 1)]
    if size < (1 << 24) - 1:  # which three bytes cannot pass
        frames = wire.settings() + wire.data(1, payload + b"x")
        over = record_of(frames, wire.whole, max_frame_size=size)
        assert over == [("refused", "frame_size_error")]


def test_push_promise() -> None:
    """gRPC has no server push: a PUSH_PROMISE, whose block would be left undecoded, is refused."""
    check(wire.frame(wire.PUSH_PROMISE, 4, 1, bytes(4) + GET), ("refused", "protocol_error"))


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(wire.settings(ack=True), id="an acknowledgement"),
        pytest.param(wire.ping(), id="PING"),
        pytest.param(wire.headers(1, GET), id="HEADERS"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", id="TLS"),
        pytest.param(bytes(9), id="zeros"),
        pytest.param(wire.frame(wire.PING, 0, 0, b""), id="PING of a wrong size"),
    ],
)
def test_settings_come_first(first: bytes) -> None:
    """Bytes that do not begin with a SETTINGS frame are not HTTP/2."""
    for cut in CUTS:
        assert record_of(first, cut) == [("refused", "not_http2")]


def test_a_header_block_that_does_not_decode() -> None:
    """A bad block is refused for its compression, in one frame or several."""
    for fragments in (1, 3):
        check(
            wire.headers(1, b"\x82\x80\x82", fragments=fragments), ("refused", "compression_error")
        )


def test_padded_data_without_a_pad_length() -> None:
    """A DATA frame that claims padding and is empty is empty: the next frame keeps its bytes."""
    frames = wire.frame(wire.DATA, wire.PADDED | wire.END_STREAM, 1) + wire.reset(3)
    check(frames, ("data_ended", 1), ("reset", 3, 8))

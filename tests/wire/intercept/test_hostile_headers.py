"""Header blocks that are expensive to process, on connections with held streams."""

import hpack
import pytest

from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import LimitError
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.http2.frames import MAX_CONTINUATIONS
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.handlers import Gathering
from tests.support.worlds import Frame, RawWorld

C, R = Side.CLIENT, Side.RUNTIME
HELD = b"/held"
LARGE: Header = (b"x-large", b"v" * 4000)
INSERTED = b"\x40" + wire.string(LARGE[0]) + wire.string(LARGE[1])
REFERENCE = b"\xbe"
OVER = REFERENCE * 17
"""References to a field of 4,000 bytes, which are more than 64 KiB."""


def request(path: bytes = b"/other", more: bytes = b"") -> bytes:
    return wire.block(*wire.request_fields(path)) + more


class Held(RawWorld):
    """A world in which calls of a path are held until their handler acts."""

    def __init__(self) -> None:
        self.handlers: dict[int, Gathering] = {}
        super().__init__(self._hold, lambda path: path.startswith(HELD))

    def _hold(self, stream: HeldStream) -> Hold | None:
        if not stream.path.startswith(HELD):
            return None
        self.handlers[stream.id] = handler = Gathering(stream)
        return Hold(handler, True, True)


def holding() -> Held:
    """A world in which stream 1 is held and LARGE is in the table of the client's blocks."""
    world = Held()
    world.receive(C, wire.headers(1, request(HELD, INSERTED)))
    world.written(R)
    return world


def of(frames: list[Frame], stream: int) -> list[tuple[int, int]]:
    """The kinds of a stream's frames, and the error codes of its resets."""
    return [
        (f.kind, int.from_bytes(f.payload, "big") if f.kind == wire.RST_STREAM else 0)
        for f in frames
        if f.stream == stream
    ]


@pytest.mark.parametrize("ended", [False, True])
def test_a_held_call_over_the_limit_is_refused(ended: bool) -> None:
    """Its client gets RESOURCE_EXHAUSTED; the runtime gets none of its fields."""
    world = holding()
    world.receive(C, wire.headers(3, request(HELD, OVER), end=ended))
    to_client, to_runtime = hpack.Decoder(), hpack.Decoder()
    frames = world.written(R)
    assert of(frames, 3) == [(wire.HEADERS, 0), (wire.RST_STREAM, ErrorCode.CANCEL)]
    assert len(frames[0].payload) < 200
    to_runtime.decode(frames[0].payload)
    answer = world.written(C)
    resets = [] if ended else [(wire.RST_STREAM, ErrorCode.NO_ERROR)]
    assert of(answer, 3) == [(wire.HEADERS, 0), *resets]
    fields = dict(to_client.decode(answer[0].payload, raw=True))
    assert fields[b"grpc-status"] == b"8"
    assert b"limits.header_list" in fields[b"grpc-message"]
    assert 3 not in world.handlers
    world.receive(C, wire.data(3, b"late"))
    assert not world.written(R)


def test_a_raw_connection_is_intercepted_for_a_list_over_the_limit() -> None:
    """A wanted call with such a list is refused on a connection that was raw before."""
    world = Held()
    world.receive(C, wire.headers(1, request(more=INSERTED)))
    assert world.is_raw
    world.receive(C, wire.headers(3, request(HELD, OVER)))
    assert of(world.written(C), 3)[0] == (wire.HEADERS, 0)


def test_other_calls_over_the_limit_are_forwarded() -> None:
    """A call that no policy holds is forwarded unchanged, raw or not, whatever its headers."""
    world = Held()
    opened = wire.headers(1, request(more=INSERTED))
    flood = wire.headers(3, request(more=REFERENCE * 1000))
    world.receive(C, opened + flood)
    assert world.passed[R].endswith(opened + flood)
    world.receive(C, wire.headers(5, request(HELD)))
    again = wire.headers(7, request(more=OVER))
    world.receive(C, again)
    assert world.passed[R].endswith(again)
    long = wire.headers(9, request(more=wire.block((b"n", b"v" * 70_000))), fragments=9)
    world.receive(C, long)
    assert world.passed[R].endswith(long)


def test_a_path_behind_the_limit_is_not_trusted() -> None:
    """A call whose path stands behind more than the limit is refused, whichever it is."""
    world = holding()
    world.receive(C, wire.headers(3, OVER + request(HELD)))
    assert of(world.written(R), 3)[1] == (wire.RST_STREAM, ErrorCode.CANCEL)


def diverged() -> Held:
    """A world that re-encodes the client's blocks: one that inserted LARGE was discarded."""
    world = Held()
    world.receive(C, wire.headers(1, request(HELD)))
    world.receive(C, wire.headers(3, request(HELD, INSERTED + OVER)))
    return world


def test_reencoded_blocks_are_in_proportion() -> None:
    """A field is re-encoded in full once; each further reference takes one byte."""
    world = diverged()
    decoder = hpack.Decoder()
    world.blocks(R, decoder)
    for stream in range(5, 45, 2):
        world.receive(C, wire.headers(stream, request(more=REFERENCE * 15)))
    frames = world.written(R)
    assert [frame.stream for frame in frames] == list(range(5, 45, 2))
    assert sum(len(frame.payload) for frame in frames) < 4000 + 20 * 200
    for frame in frames:
        fields = decoder.decode(frame.payload, raw=True)
        assert [tuple(field) for field in fields[-15:]] == [LARGE] * 15


def test_a_list_over_the_limit_is_not_reencoded() -> None:
    """A call with such a list is refused where its block cannot be forwarded as it is."""
    world = diverged()
    world.written(R)
    world.receive(C, wire.headers(5, request(more=OVER)))
    assert of(world.written(R), 5) == [(wire.HEADERS, 0), (wire.RST_STREAM, ErrorCode.CANCEL)]
    assert of(world.written(C), 5)[0] == (wire.HEADERS, 0)


def test_reencoding_keeps_to_the_receiver_s_table() -> None:
    """A receiver that allows a smaller table is announced it, in the next block."""
    world = diverged()
    decoder = hpack.Decoder()
    world.blocks(R, decoder)
    world.receive(R, wire.settings((wire.HEADER_TABLE_SIZE, 100)))
    decoder.max_allowed_table_size = 100
    world.receive(C, wire.settings(ack=True))
    world.receive(C, wire.headers(5, request(more=REFERENCE)))
    ((fields,),) = world.blocks(R, decoder).values()
    assert fields[-1] == LARGE
    assert decoder.header_table_size == 100


def test_a_response_over_the_limit_of_a_held_call() -> None:
    """A held call whose response's headers are over the limit is reset with ENHANCE_YOUR_CALM."""
    world = holding()
    world.receive(R, wire.headers(1, wire.block((b":status", b"200")) + INSERTED + OVER))
    assert of(world.written(C), 1) == [(wire.RST_STREAM, ErrorCode.ENHANCE_YOUR_CALM)]
    assert of(world.written(R), 1) == [(wire.RST_STREAM, ErrorCode.CANCEL)]
    assert world.handlers[1].reported[-1] == "closed"
    assert world.budget.streams == 0


@pytest.mark.parametrize("count", [MAX_CONTINUATIONS, MAX_CONTINUATIONS + 1])
def test_continuations(count: int) -> None:
    """A held call's block may have 128 CONTINUATION frames, empty or not."""
    world = holding()
    block = [wire.frame(wire.HEADERS, 0, 3, request(HELD))]
    block += [wire.frame(wire.CONTINUATION, 0, 3)] * (count - 1)
    block.append(wire.frame(wire.CONTINUATION, wire.END_HEADERS, 3))
    if count <= MAX_CONTINUATIONS:
        world.receive(C, b"".join(block))
        assert 3 in world.handlers
        return
    with pytest.raises(LimitError):
        world.interceptor.receive(C, b"".join(block), 0.0)


def test_a_block_far_over_the_limit_ends_the_connection() -> None:
    """A block of 15,000 references to a large field is not decoded."""
    world = holding()
    flood = wire.headers(3, request(HELD, REFERENCE * 15_000))
    with pytest.raises(LimitError):
        world.interceptor.receive(C, flood, 0.0)


def test_sensitive_fields_are_not_indexed_when_reencoded() -> None:
    """A field that must not be indexed keeps that in re-encoded blocks (RFC 7541 7.1.3)."""
    world = diverged()
    decoder = hpack.Decoder()
    world.blocks(R, decoder)
    secret = b"\x10" + wire.string(b"authorization") + wire.string(b"secret")
    world.receive(C, wire.headers(5, request(more=secret)))
    (frame,) = world.written(R)
    assert isinstance(decoder.decode(frame.payload, raw=True)[-1], hpack.NeverIndexedHeaderTuple)

"""The number of operations grows at most linearly with the input, for inputs of every kind.

Each case builds an input of a size that is proportional to a number. The operations are counted for
that number and its double: they may not more than double, but for a small part. And the part of an
input that is handled at once takes a bounded number of operations, however large the input is.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from criproxy.rules.facts import Metadata
from criproxy.wire.errors import WireError
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Decoder
from criproxy.wire.http2.work import INTERCEPTED, READ, part_size
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.handlers import Gathering, Handler
from tests.support.operations import CountedBytes, operations
from tests.support.wire import conversation, message
from tests.support.worlds import RawWorld

C, R = Side.CLIENT, Side.RUNTIME
SLACK = 1.15
"""The part by which the operations for twice the input may exceed twice those for the input."""

LARGE = b"\x40" + wire.string(b"x-large") + wire.string(b"v" * 4000)
FIELDS = wire.block(*wire.request_fields())
OK = wire.block((b":status", b"200"), (b"content-type", b"application/grpc"))
STATUS = wire.block((b"grpc-status", b"0"))

Input = list[tuple[Side, bytes]]
"""Bytes of a side, in the order in which they arrive; a chunk each."""


def streams(count: int) -> range:
    """The numbers of ``count`` streams, from 3 on."""
    return range(3, 3 + 2 * count, 2)


def one_block(fields: bytes, **options: int) -> Input:
    """A call with a header block, after one that has put a large field into the table."""
    return [
        (C, wire.headers(1, FIELDS + LARGE, end=True)),
        (C, wire.headers(3, FIELDS + fields, end=True, **options)),
    ]


def bit_by_bit(data: bytes) -> Input:
    return [(C, data[number : number + 1]) for number in range(len(data))]


def opened(count: int, end: bool = True) -> bytes:
    return b"".join(wire.headers(stream, FIELDS, end=end) for stream in streams(count))


INPUTS: dict[str, tuple[int, Callable[[int], Input]]] = {
    "references": (400, lambda n: one_block(b"\xbe" * n)),
    "references of two bytes": (400, lambda n: one_block(b"\xff\x00" * n)),
    "refused references": (10_000, lambda n: one_block(b"\xbe" * n)),
    "literals": (900, lambda n: one_block(wire.block((b"n", b"v")) * n)),
    "insertions": (900, lambda n: one_block(b"\x40\x01n\x01v" * n)),
    "insertions of a large name": (300, lambda n: one_block(b"\x7e\x01v" * n)),
    "sensitive fields": (900, lambda n: one_block(b"\x10\x01n\x01v" * n)),
    "a Huffman string": (
        4000,
        lambda n: one_block(b"\x00\x01n" + wire.integer(n, 7, 0x80) + b"\x00" * (n - 1) + b"\x07"),
    ),
    "a long string": (30_000, lambda n: one_block(b"\x00\x01n" + wire.string(b"v" * n))),
    "size updates": (
        2000,
        lambda n: [(C, wire.headers(1, b"\x3f\xe1\x1f" * n + FIELDS, end=True))],
    ),
    "CONTINUATION frames": (60, lambda n: one_block(b"\x82" * n, fragments=n)),
    "a block in small pieces": (
        500,
        lambda n: bit_by_bit(wire.headers(1, FIELDS + wire.block((b"n", b"v" * n)))),
    ),
    "DATA in small pieces": (
        500,
        lambda n: [(C, wire.headers(1, FIELDS)), *bit_by_bit(wire.data(1, message(b"m" * n)))],
    ),
    "small DATA frames": (
        200,
        lambda n: [
            (C, wire.headers(1, FIELDS)),
            *((C, wire.data(1, bytes((byte,)))) for byte in message(b"m" * n)),
        ],
    ),
    "small DATA frames at once": (
        200,
        lambda n: [
            (C, wire.headers(1, FIELDS)),
            (C, b"".join(wire.data(1, bytes((byte,))) for byte in message(b"m" * n))),
        ],
    ),
    "small messages": (
        200,
        lambda n: [(C, wire.headers(1, FIELDS)), (C, wire.data(1, message() * n))],
    ),
    "empty DATA": (200, lambda n: [(C, wire.headers(1, FIELDS)), (C, wire.data(1) * n)]),
    "streams": (200, lambda n: [(C, opened(n))]),
    "streams one by one": (
        200,
        lambda n: [(C, wire.headers(stream, FIELDS)) for stream in streams(n)],
    ),
    "calls": (
        60,
        lambda n: [
            each
            for stream in streams(n)
            for each in (
                (C, wire.headers(stream, FIELDS) + wire.data(stream, message(b"m"), end=True)),
                (R, wire.headers(stream, OK) + wire.data(stream, message(b"m"))),
                (R, wire.headers(stream, STATUS, end=True)),
            )
        ],
    ),
    "resets": (
        200,
        lambda n: [(C, wire.headers(stream, FIELDS) + wire.reset(stream)) for stream in streams(n)],
    ),
    "resets of the runtime": (
        200,
        lambda n: [(C, opened(n)), *((R, wire.reset(stream)) for stream in streams(n))],
    ),
    "PING": (200, lambda n: [(C, wire.ping() * n)]),
    "SETTINGS": (200, lambda n: [(C, wire.settings((4, 65_535)) * n)]),
    "PRIORITY": (200, lambda n: [(C, wire.frame(wire.PRIORITY, 0, 1, bytes(5)) * n)]),
    "WINDOW_UPDATE": (
        200,
        lambda n: [(C, wire.headers(1, FIELDS)), (C, wire.window_update(1, 1) * n)],
    ),
    "GOAWAY": (200, lambda n: [(C, wire.headers(1, FIELDS)), (C, wire.goaway(0) * n)]),
}


def counted(data: Input) -> Input:
    return [(side, CountedBytes(chunk)) for side, chunk in data]


def assert_linear(count: Callable[[int], int], number: int) -> None:
    once, twice = count(number), count(2 * number)
    print(f"{once} operations for {number}, {twice} for twice as many")
    assert twice <= 2 * SLACK * once


@pytest.mark.parametrize("what", INPUTS)
def test_reading(what: str) -> None:
    """Reading a connection takes work in proportion to its bytes."""
    number, build = INPUTS[what]

    def count(number: int) -> int:
        reader = ConnectionReader()
        wire.read(reader, conversation())
        sent = counted(build(number))
        return operations(lambda: [reader.receive(side, data, 0.0) for side, data in sent])

    assert_linear(count, number)


def receive(world: RawWorld, sent: Iterable[tuple[Side, bytes]]) -> None:
    """Give the world bytes; stop at those that cannot be read."""
    try:
        for side, data in sent:
            world.receive(side, data)
    except WireError:
        pass


class Denying(Handler):
    """Denies its call when it is opened."""

    def opened(self) -> None:
        self.stream.reply(StatusCode.PERMISSION_DENIED, "no")


HOLDS: dict[str, Callable[[HeldStream], Hold | None]] = {
    "every call": lambda stream: Hold(Gathering(stream), True, True),
    "the first call": lambda stream: (
        Hold(Gathering(stream), True, True) if stream.id == 1 else None
    ),
    "denied calls": lambda stream: Hold(Denying(stream), True, True, hidden=True),
}


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("what", INPUTS)
def test_intercepting(what: str, hold: str) -> None:
    """So does intercepting it, whatever is held."""
    number, build = INPUTS[what]

    def count(number: int) -> int:
        world = RawWorld(HOLDS[hold])
        sent = counted(build(number))
        return operations(lambda: receive(world, sent))

    assert_linear(count, number)


@pytest.mark.parametrize("what", INPUTS)
def test_scanning(what: str) -> None:
    """So does looking for wanted calls of which there are none."""
    number, build = INPUTS[what]

    def count(number: int) -> int:
        world = RawWorld(wanted=lambda path: False)
        sent = counted(build(number))
        return operations(lambda: receive(world, sent))

    assert_linear(count, number)


AT_ONCE = 500_000
"""Operations that may be made at once: an operation takes 4 to 10 ns."""
CHUNK = 100_000
"""Bytes that arrive at once."""


def as_chunks(data: Input) -> Input:
    """Join what a side sends without an answer to large chunks."""
    joined: Input = []
    for side, chunk in data:
        if joined and joined[-1][0] is side and len(joined[-1][1]) < CHUNK:
            chunk = joined.pop()[1] + chunk
        joined.append((side, chunk))
    return joined


def work_of_parts(world: RawWorld, sent: Input) -> list[tuple[int, int]]:
    """Give the world bytes in the parts in which a relay does; return the operations and bytes of
    each."""
    parts = []
    for side, data in sent:
        start = 0
        while start < len(data) and (world.reader.reading or not world.is_raw):
            known = world.interceptor
            bound = READ if world.is_raw else INTERCEPTED
            size = part_size(data, start, known.to_boundary(side), bound)
            part = [(side, data[start : start + size])]
            parts.append((operations(lambda part=part: receive(world, part)), size))
            start += size
    return parts


@pytest.mark.parametrize("hold", [*HOLDS, "no call"])
@pytest.mark.parametrize("what", INPUTS)
def test_work_at_once(what: str, hold: str) -> None:
    """What is handled of a large chunk at once takes a bounded number of operations."""
    number, build = INPUTS[what]
    world = RawWorld(HOLDS[hold]) if hold in HOLDS else RawWorld(wanted=lambda path: False)
    size = sum(len(chunk) for _, chunk in build(number))
    parts = work_of_parts(world, as_chunks(build(number * max(1, CHUNK // size))))
    most, largest = max(parts)
    print(f"{most} operations for {largest} bytes, in {len(parts)} parts")
    assert most <= AT_ONCE


class Schedule(NamedTuple):
    """A world in a state that depends on a number, and what is done to it then."""

    number: int
    state: Callable[[int], RawWorld]
    action: Callable[[RawWorld, int], object]


def held(world: RawWorld, stream: int) -> Gathering:
    handler = world.handlers[stream]  # type: ignore[attr-defined]
    assert isinstance(handler, Gathering)
    return handler


class HoldingWorld(RawWorld):
    """A world that holds the calls of some streams; their handlers act when a test calls them."""

    def __init__(self, holds: Callable[[int], bool] = lambda stream: True) -> None:
        self.handlers: dict[int, Gathering] = {}
        self._holds = holds
        super().__init__(self._hold)

    def _hold(self, stream: HeldStream) -> Hold | None:
        if not self._holds(stream.id):
            return None
        self.handlers[stream.id] = Gathering(stream)
        return Hold(self.handlers[stream.id], True, True)


def with_full_window(holds: Callable[[int], bool] = lambda stream: stream == 1) -> HoldingWorld:
    """A world whose client has used up the window: the first call was made longer."""
    world = HoldingWorld(holds)
    world.receive(C, wire.headers(1, FIELDS) + wire.data(1, message(b"m")))
    world.receive(R, wire.window_update(1, 1 << 20))
    world.command(lambda: world.handlers[1].stream.send(C, bytes(70_000)))
    return world


def queued_calls(count: int) -> RawWorld:
    """Calls that are queued behind the window, and their DATA."""
    world = with_full_window()
    world.receive(C, opened(count, end=False))
    world.receive(C, b"".join(wire.data(stream, b"x" * 100) for stream in streams(count)))
    return world


def queued_data(count: int) -> RawWorld:
    """One frame of DATA that is queued behind the window."""
    world = with_full_window()
    world.receive(C, wire.headers(3, FIELDS))
    world.receive(C, CountedBytes(wire.data(3, bytes(min(16_384, 10 * count)))))
    return world


def queued_responses(count: int) -> RawWorld:
    """Responses that are queued behind the client's window, the half of them without an end."""
    world = HoldingWorld(lambda stream: stream == 1)
    world.receive(C, wire.headers(1, FIELDS, end=True) + wire.window_update(1, 1 << 20))
    world.receive(R, wire.headers(1, OK) + wire.data(1, message(b"m")))
    world.command(lambda: world.handlers[1].stream.send(R, bytes(70_000)))
    world.receive(C, opened(count))
    for stream in streams(count):
        ended = stream % 4 == 1
        trailers = wire.headers(stream, STATUS, end=True) if ended else b""
        world.receive(R, wire.headers(stream, OK) + wire.data(stream, b"m") + trailers)
    return world


def stalled_calls(count: int) -> RawWorld:
    """Held responses that were made longer than their streams' windows."""
    world = HoldingWorld()
    world.receive(C, wire.settings((4, 0)))
    world.receive(R, wire.settings(ack=True))
    world.receive(C, opened(count))
    for stream in streams(count):
        world.receive(R, wire.headers(stream, OK) + wire.data(stream, message(b"")))
        world.command(lambda stream=stream: held(world, stream).stream.send(R, b"m" * 10))
    return world


def deferred_trailers(count: int) -> RawWorld:
    """Held responses whose trailers wait, and as many calls that are not held."""
    world = HoldingWorld(lambda stream: stream < 3 + 2 * count)
    world.receive(C, opened(2 * count))
    for stream in streams(count):
        world.receive(R, wire.headers(stream, OK) + wire.headers(stream, STATUS, end=True))
    return world


SCHEDULES = {
    "queued calls are sent": Schedule(
        100, queued_calls, lambda world, n: world.receive(R, wire.window_update(0, 1 << 20))
    ),
    "window updates of queued calls": Schedule(
        100,
        queued_calls,
        lambda world, n: [world.receive(C, wire.window_update(s, 1)) for s in streams(n)],
    ),
    "queued data is sent byte by byte": Schedule(
        200,
        queued_data,
        lambda world, n: [world.receive(R, wire.window_update(0, 1)) for _ in range(n)],
    ),
    "window updates of the connection beside stalled calls": Schedule(
        100,
        stalled_calls,
        lambda world, n: [world.receive(C, wire.window_update(0, 1)) for _ in range(n)],
    ),
    "stalled calls resume": Schedule(
        100,
        stalled_calls,
        lambda world, n: [world.receive(C, wire.window_update(s, 5)) for s in streams(n)],
    ),
    "blocks overtake deferred trailers": Schedule(
        100,
        deferred_trailers,
        lambda world, n: [
            world.receive(R, wire.headers(stream, OK)) for stream in streams(2 * n)[n:]
        ],
    ),
    "deferred trailers are discarded": Schedule(
        100,
        deferred_trailers,
        lambda world, n: [
            world.command(
                lambda stream=stream: held(world, stream).stream.reply(StatusCode.ABORTED, "")
            )
            for stream in streams(n)
        ],
    ),
    "the runtime disconnects": Schedule(100, deferred_trailers, lambda world, n: world.lose(R)),
    "the runtime disconnects with a queue": Schedule(
        100, queued_responses, lambda world, n: world.lose(R)
    ),
    "the client disconnects": Schedule(100, stalled_calls, lambda world, n: world.lose(C)),
    "late frames of denied calls": Schedule(
        100,
        lambda n: RawWorld(HOLDS["denied calls"]),
        lambda world, n: [
            world.receive(C, frames)
            for stream in streams(n)
            for frames in (wire.headers(stream, FIELDS), wire.data(stream, b"late"))
        ],
    ),
}


@pytest.mark.parametrize("what", SCHEDULES)
def test_schedules(what: str) -> None:
    """What happens to many streams takes work in proportion to their number."""
    number, state, action = SCHEDULES[what]

    def count(number: int) -> int:
        world = state(number)
        return operations(lambda: action(world, number))

    assert_linear(count, number)


def test_metadata() -> None:
    """The values of a repeated header are joined with work in proportion to their number."""
    block = b"\x00\x01n\x01v"

    def count(number: int) -> int:
        headers = Decoder(1 << 30, 1 << 30).decode(block * number)
        return operations(lambda: Metadata(headers)["n"])

    assert_linear(count, 500)
    assert Metadata([(b"n", CountedBytes(b"v"))] * 3)["n"] == "v,v,v"

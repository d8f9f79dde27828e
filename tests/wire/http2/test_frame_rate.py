"""The rate limit on frames that carry nothing: the frames that count, and the limit's effect."""

import pytest

from criproxy.wire.http2.frame_rate import DEFAULT_FRAME_RATE, FrameRate
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.captures import NAMES, capture
from tests.support.wire import client, conversation, message, runtime

C, R = Side.CLIENT, Side.RUNTIME


def opened(**limits: int) -> ConnectionReader:
    """A reader of a connection with a call in flight."""
    reader = ConnectionReader(**limits)
    wire.read(reader, conversation(client(wire.request(1))))
    return reader


OVERHEAD = {
    "PING": wire.ping(),
    "PING with ACK": wire.ping(ack=True),
    "SETTINGS": wire.settings(),
    "SETTINGS with ACK": wire.settings(ack=True),
    "PRIORITY": wire.frame(wire.PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE of a stream": wire.window_update(1, 1),
    "WINDOW_UPDATE of the connection": wire.window_update(0, 1),
    "RST_STREAM": wire.reset(1),
    "RST_STREAM of a closed stream": wire.reset(3),
    "empty DATA": wire.data(1),
    "DATA of padding": wire.data(1, padding=9),
    "an unknown frame": wire.frame(0x42, 0, 0, b"?"),
    "headers of an open stream": wire.headers(1, b""),
}


@pytest.mark.parametrize("what", OVERHEAD)
@pytest.mark.parametrize("cut", wire.CUTS)
def test_frames_that_carry_nothing(what: str, cut: wire.Cut) -> None:
    """Each of them counts as one, however its bytes are cut."""
    reader = opened()
    before = reader.overhead
    wire.read(reader, [client(OVERHEAD[what] * 10)], cut)
    assert reader.reading
    assert reader.overhead - before == 10


@pytest.mark.parametrize("cut", wire.CUTS)
def test_continuations_count(cut: wire.Cut) -> None:
    """Each CONTINUATION frame counts, empty or not."""
    reader = opened()
    before = reader.overhead
    block = wire.block(*wire.request_fields())
    wire.read(reader, [client(wire.headers(3, block, fragments=11))], cut)
    assert reader.overhead - before == 10


@pytest.mark.parametrize(
    "frames",
    [
        wire.data(1, b"x"),
        wire.data(1, b"x" * 500, padding=9),
        wire.data(1, end=True),
        wire.request(3),
        wire.request(3, end=True),
    ],
)
@pytest.mark.parametrize("cut", wire.CUTS)
def test_frames_that_carry_something(frames: bytes, cut: wire.Cut) -> None:
    """Calls, data and their ends do not count."""
    reader = opened()
    before = reader.overhead
    wire.read(reader, [client(frames)], cut)
    assert reader.overhead == before


def test_frames_of_the_runtime_do_not_count() -> None:
    """What the runtime sends is not its client's overhead."""
    reader = opened()
    before = reader.overhead
    wire.read(reader, [runtime(*OVERHEAD.values())])
    assert reader.overhead == before


def test_calls_and_data_explain_frames() -> None:
    """An answered call explains eight frames, a KiB of DATA of either side one."""
    reader = opened()
    before = reader.overhead
    wire.read(reader, [runtime(wire.trailers_only(1, 5))])
    assert reader.overhead - before == -8
    wire.read(reader, [client(wire.request(3), wire.data(3, message(bytes(2043))))])
    wire.read(reader, [runtime(wire.response(3), wire.data(3, message(bytes(1019))))])
    assert reader.overhead - before == -8 - 3


def test_calls_that_are_reset_or_denied() -> None:
    """A call that its client resets, or that is denied, explains nothing and counts as one."""
    reader = opened()
    before = reader.overhead
    wire.read(reader, [client(wire.reset(1), wire.request(3))])
    assert reader.overhead - before == 1
    call = reader.call(3)
    assert call is not None
    call.denied = "a rule"
    wire.read(reader, [runtime(wire.trailers_only(3, 7))])
    assert reader.overhead - before == 2


def test_rapid_resets() -> None:
    """A client that opens and resets streams is slowed down, then ended."""
    reader, rate = opened(), FrameRate(100, 0.0)
    for stream in range(3, 3803, 2):
        wire.read(reader, [client(wire.request(stream), wire.reset(stream))])
    assert rate.update(reader.overhead, 0.0) == pytest.approx(9.0, abs=0.5)
    assert not rate.is_exceeded
    wire.read(reader, [client(wire.ping() * 100)])
    rate.update(reader.overhead, 0.0)
    assert rate.is_exceeded


def test_a_rate_below_the_limit() -> None:
    """A connection at the limit is never slowed down, nor one that sends ten seconds' worth at
    once."""
    rate, overhead = FrameRate(100, 1000.0), 0
    for second in range(1000):
        overhead += 100
        assert rate.update(overhead, 1000.0 + second) == 0.0
    rate = FrameRate(100, 0.0)
    assert rate.update(1000, 0.0) == 0.0
    assert rate.update(1100, 0.0) == pytest.approx(1.0)
    assert rate.update(1100, 1.0) == 0.0


def test_a_rate_above_the_limit() -> None:
    """A client that goes on to send as much as it is read sends at the limit, and is ended after a
    minute of that."""
    rate, now, overhead = FrameRate(100, 0.0), 0.0, 0
    while not rate.is_exceeded:
        overhead += 50
        now += rate.update(overhead, now)
    assert 60 < now < 62
    assert overhead / now == pytest.approx(100 * 70 / 60, rel=0.05)  # ten seconds' worth at once


def test_a_rate_above_the_limit_for_a_while() -> None:
    """A client that is slowed down for less than a minute at a time is never ended."""
    rate, now, overhead = FrameRate(100, 0.0), 0.0, 0
    for _ in range(20):
        until = now + 50
        while now < until:
            overhead += 50
            now += rate.update(overhead, now)
            assert not rate.is_exceeded
        now += 1
        overhead += 50
        assert rate.update(overhead, now) == 0.0


def test_explained_frames_are_not_saved() -> None:
    """However much a connection has carried, it may not send more at once afterwards."""
    rate = FrameRate(100, 0.0)
    rate.update(-1_000_000, 0.0)
    assert rate.update(-1_000_000 + 2001, 0.0) > 10.0
    assert rate.is_exceeded


def test_a_clock_that_jumps_back() -> None:
    """Time that goes backwards neither fills nor empties the bucket."""
    rate = FrameRate(100, 50.0)
    rate.update(500, 50.0)
    rate.update(500, 10.0)
    assert rate.level == 500
    rate.update(500, 11.0)
    assert rate.level == 400


STOPPING = {
    "SETTINGS without ACK": wire.settings() * 1001,
    "CONTINUATION": wire.frame(wire.HEADERS, 0, 3) + wire.frame(wire.CONTINUATION, 0, 3) * 129,
    "a large header block": wire.frame(wire.HEADERS, 0, 3, bytes(5000))
    + wire.frame(wire.CONTINUATION, 0, 3, bytes(5000)),
    "a large frame": wire.frame(wire.HEADERS, 0, 3, bytes(9000)),
    "DATA of an idle stream": wire.data(99, b"data"),
    "padded DATA of an idle stream": wire.data(99, b"data", padding=7),
    "padding without end": wire.frame(wire.DATA, wire.PADDED, 1, b"\xff" + bytes(40)),
    "PUSH_PROMISE": wire.frame(wire.PUSH_PROMISE, 4, 1, bytes(4)),
    "CONTINUATION of nothing": wire.frame(wire.CONTINUATION, 4, 1),
    "a header block of no field": wire.frame(wire.HEADERS, 4, 3, b"\x80"),
    "PING of nine bytes": wire.frame(wire.PING, 0, 0, bytes(9)),
}
"""Frames of a client that exceed a limit of the reader, or violate RFC 9113."""


@pytest.mark.parametrize("kind", STOPPING)
@pytest.mark.parametrize("cut", wire.CUTS)
def test_a_connection_that_is_not_read(kind: str, cut: wire.Cut) -> None:
    """Where the reading has stopped the frames count as before, and answered calls explain some."""
    reader = opened(header_block_limit=8192)
    before = reader.overhead
    wire.read(reader, [client(STOPPING[kind] + wire.ping() * 30)], cut)
    assert not reader.reading
    assert reader.overhead - before == 30 + STOPPED_AT.get(kind, 0)
    before = reader.overhead
    for frame in OVERHEAD.values():
        wire.read(reader, [client(frame)], cut)
    assert reader.overhead - before == len(OVERHEAD)
    before = reader.overhead
    wire.read(reader, [client(wire.request(101) + wire.request(103))], cut)
    assert reader.overhead == before
    answers = wire.trailers_only(101, 0) + wire.trailers_only(103, 0)
    wire.read(reader, [runtime(answers)], cut)
    assert before - reader.overhead == 2 * 8


STOPPED_AT = {"SETTINGS without ACK": 1001, "CONTINUATION": 129, "a large header block": 1}
"""How many of these frames count themselves."""


def highest_level(name: str, pace: float = 1.0) -> float:
    """Return the highest level of a recorded connection, replayed ``pace`` times as fast."""
    recorded = capture(name)
    reader, rate, highest = ConnectionReader(), FrameRate(DEFAULT_FRAME_RATE, 0.0), 0.0
    start = recorded[0].now
    for side, data, now in recorded:
        if data:
            reader.receive(side, data, now)
            rate.update(reader.overhead, (now - start) / pace)
            highest = max(highest, rate.level)
    assert reader.reading
    return highest


@pytest.mark.parametrize("name", NAMES)
def test_recorded_connections(name: str) -> None:
    """A kubelet's, crictl's and gRPC clients' connections stay below a hundredth of the burst, also
    when they come all at once."""
    assert highest_level(name) < 100
    assert highest_level(name, pace=1e9) < 100

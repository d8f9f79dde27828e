"""Generated traffic: for every schedule and cut, the reader's events match the model's."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from criproxy.wire.grpc import MessageCounter
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.cutting import cuts, joined
from tests.support.traffic import Stream, Traffic

C, R = Side.CLIENT, Side.RUNTIME

ON_A_STREAM: list[Callable[[Traffic, Stream, int], None]] = [
    lambda traffic, stream, style: traffic.answer(stream, style),
    lambda traffic, stream, style: traffic.write(C, stream, style),
    lambda traffic, stream, style: traffic.write(C, stream, style),
    lambda traffic, stream, style: traffic.write(R, stream, style),
    lambda traffic, stream, style: traffic.write(R, stream, style),
    lambda traffic, stream, style: traffic.finish(stream, style),
    lambda traffic, stream, style: traffic.reset(C, stream, style),
    lambda traffic, stream, style: traffic.reset(R, stream, style),
    lambda traffic, stream, style: traffic.leave_out(stream),
]
ON_THE_CONNECTION: list[Callable[[Traffic, int], None]] = [
    lambda traffic, style: traffic.begin(style),
    lambda traffic, style: traffic.begin(style),
    lambda traffic, style: traffic.send_other_frame(C, style),
    lambda traffic, style: traffic.send_other_frame(R, style),
    lambda traffic, style: traffic.resize(C, style),
    lambda traffic, style: traffic.resize(R, style),
]

Step = tuple[int, int, int]
STEPS = st.lists(
    st.tuples(
        st.integers(0, len(ON_THE_CONNECTION) + len(ON_A_STREAM) - 1),
        st.integers(0, 3),  # which of the newest streams
        st.integers(0, 5000),
    ),
    max_size=60,
)


def made(steps: list[Step]) -> Traffic:
    """Return the traffic of a schedule. Ended streams are picked too: frames cross."""
    traffic = Traffic()
    traffic.begin(0)
    for kind, newest, style in steps:
        if kind < len(ON_THE_CONNECTION):
            ON_THE_CONNECTION[kind](traffic, style)
        else:
            stream = traffic.streams[-1 - newest % len(traffic.streams)]
            ON_A_STREAM[kind - len(ON_THE_CONNECTION)](traffic, stream, style)
    return traffic


def open_streams(traffic: Traffic) -> list[int]:
    return [stream.number for stream in traffic.streams if not stream.over]


@given(STEPS, cuts())
def test_what_is_told_is_what_was_made(steps: list[Step], cut: wire.Cut) -> None:
    """Events, codes, counts and the calls in flight are those of the model, for every cut."""
    traffic = made(steps)
    for conversation in (traffic.sent, joined(traffic.sent)):
        reader = ConnectionReader()
        events = wire.read(reader, conversation, cut)
        assert reader.reading, events[-1]
        assert events == traffic.expected
        assert [call.stream for call in reader.calls] == open_streams(traffic)


@given(STEPS, cuts(), st.sampled_from(Side))
def test_the_end_of_the_connection(steps: list[Step], cut: wire.Cut, side: Side) -> None:
    """Whichever side hangs up, every call ends once and nothing stays."""
    traffic = made(steps)
    traffic.disconnect(side)
    traffic.disconnect(Side(1 - side))
    reader = ConnectionReader()
    assert wire.read(reader, traffic.sent, cut) == traffic.expected
    assert reader.calls == ()


@given(STEPS, cuts(), st.sampled_from(Side), st.integers(0, 60))
def test_a_bad_frame_comes_last(steps: list[Step], cut: wire.Cut, side: Side, after: int) -> None:
    """A bad frame of either side keeps the events before it, and ends all open calls."""
    traffic = made(steps[:after])
    expected = [*traffic.expected, *unread(traffic), wire.Stopped("frame_size_error")]
    bad = wire.Sent(side, wire.frame(wire.PING, 0, 0, b"short"))
    more = made(steps[after:]).sent
    reader = ConnectionReader()
    assert wire.read(reader, [*traffic.sent, bad, *more], cut) == expected
    assert reader.calls == ()
    assert not reader.reading


def unread(traffic: Traffic) -> list[wire.Ended]:
    """How the open calls end, as far as they were counted."""
    return [
        wire.Ended(
            stream.number,
            "unread",
            None,
            request=stream.directions[C].count,
            response=stream.directions[R].count,
        )
        for stream in traffic.streams
        if not stream.over
    ]


@given(st.lists(st.integers(0, 400), max_size=20), st.integers(0, 400), cuts())
def test_messages_are_counted(sizes: list[int], unfinished: int, cut: wire.Cut) -> None:
    """Messages and their bytes are counted exactly for any cut, the unfinished one's bytes too."""
    data = b"".join(wire.message(b"x" * size) for size in sizes)
    data += wire.message(b"y" * 401)[: 5 + unfinished]
    counter = MessageCounter()
    for piece in cut(data):
        counter.feed(b"\xff\xff" + piece + b"\xff", 2, 2 + len(piece))
    assert (counter.messages, counter.bytes) == (len(sizes), sum(sizes) + unfinished)

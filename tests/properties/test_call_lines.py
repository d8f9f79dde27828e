"""Properties of the call log's encoder: its lines are those that msgspec makes of a CallLine."""

import math
from datetime import UTC, datetime

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from criproxy.cri.naming import resolve
from criproxy.observe.logs.call_line import CallLine
from criproxy.observe.logs.call_line_encoder import CallLineEncoder
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call, End

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MICROSECONDS = st.integers(0, 10**13).map(lambda count: count / 1e6)
MIDDLES = st.integers(0, 10**9).map(lambda count: (count + 0.5) / 1e6)
NEIGHBOURS = st.builds(math.nextafter, MIDDLES, st.sampled_from([-math.inf, math.inf]))
SECONDS = st.floats(0.0, 1e13) | st.floats(0.0, 2.0) | MICROSECONDS | MIDDLES | NEIGHBOURS
MOMENTS = SECONDS.map(lambda seconds: seconds % 1e9)
EPOCHS = st.sampled_from([0.0, 1.7e9, 4e9]) | st.floats(0.0, 5e9)
SUBJECT = ("namespace", "pod", "pod_uid", "pod_id", "container", "container_id", "image")


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Calls that have ended, of any lengths and counts."""
    path = draw(
        st.sampled_from([b"/runtime.v1.RuntimeService/Version", b"/x.v2.Thing/Else\xff", b""])
        | st.binary(max_size=300)
    )
    call = Call(1, path, b"", True, draw(MOMENTS))
    call.ended = call.began + draw(MOMENTS)
    call.first_byte = draw(st.none() | st.just(0.0) | MOMENTS.map(lambda s: call.began + s))
    call.code = draw(st.none() | st.sampled_from(StatusCode))
    call.end = draw(st.none() | st.sampled_from(End))
    call.overhead = draw(MOMENTS)
    call.rules = tuple(draw(st.lists(TEXTS, max_size=3)))
    call.held = draw(st.just(0.0) | MOMENTS)
    call.waiting_since = draw(st.none() | MOMENTS)
    for counter in (call.request, call.response):
        counter.messages = draw(st.integers(0, 2**40))
        counter.bytes = draw(st.integers(0, 2**40))
    return call


def line_of(
    connection: Connection,
    call: Call,
    epoch: float,
    level: str,
    message: str,
    slow: bool,
    subject: dict[str, str],
) -> CallLine:
    """The line of a call, field by field."""
    assert call.ended is not None
    name, peer = resolve(call.path), connection.peer
    first_byte = round(call.first_byte - call.began, 6) if call.first_byte else None
    return CallLine(
        timestamp=datetime.fromtimestamp(epoch + call.ended, UTC),
        level=level,
        event="call",
        listener=connection.listener,
        pid=peer.pid,
        uid=peer.uid,
        executable=peer.executable,
        service=name.service,
        method=name.method,
        api_version=name.api_version,
        began=datetime.fromtimestamp(epoch + call.began, UTC),
        code="UNREAD" if call.code is None else call.code.name,
        message=message,
        end=call.end or "",
        duration_s=round(call.ended - call.began, 6),
        first_byte_s=first_byte,
        overhead_s=round(call.overhead, 6),
        request_messages=call.request.messages,
        request_bytes=call.request.bytes,
        response_messages=call.response.messages,
        response_bytes=call.response.bytes,
        slow=slow,
        rules=call.rules,
        held_s=round(call.held_by(call.ended), 6) or None,
        **subject,
    )


@given(
    several=st.lists(calls(), min_size=1, max_size=3),
    peer=st.builds(
        Peer,
        pid=st.integers(0, 2**22),
        uid=st.integers(0, 2**32 - 1),
        gid=st.just(0),
        executable=st.none() | TEXTS,
    ),
    listener=TEXTS,
    epoch=EPOCHS,
    level=st.sampled_from(["debug", "info", "warning", "error"]),
    message=TEXTS,
    slow=st.booleans(),
    subject=st.dictionaries(st.sampled_from(SUBJECT), TEXTS),
)
def test_lines(
    several: list[Call],
    peer: Peer,
    listener: str,
    epoch: float,
    level: str,
    message: str,
    slow: bool,
    subject: dict[str, str],
) -> None:
    """Each line of an encoder is, byte for byte, what msgspec makes of the call's fields."""
    connection = Connection(listener, peer, 0.0)
    encoder = CallLineEncoder(lambda time: epoch + time)
    for call in several:
        expected = line_of(connection, call, epoch, level, message, slow, subject)
        line = encoder.encode(level, connection, call, message, slow, subject)
        assert line == msgspec.json.encode(expected)


@example(0.0)
@example(-0.0)
@example(5e-7)
@example(9.9999995)
@example(0.0000095)
@example(0.000009)
@example(math.nan)
@example(math.inf)
@example(-1.5)
@given(SECONDS | st.floats())
def test_durations(seconds: float) -> None:
    """Any duration is rounded to microseconds as round() does, and written as msgspec does."""
    call = Call(1, b"", b"", True, 0.0)
    call.ended, call.overhead = 0.0, seconds
    connection = Connection("", Peer(0, 0, 0, None), 0.0)
    encoder = CallLineEncoder(lambda time: time)
    line = encoder.encode("info", connection, call, "", False, {})
    assert b'"overhead_s":%s,' % msgspec.json.encode(round(seconds, 6)) in line

"""The capture of a call's messages."""

from collections.abc import Iterator, Sequence
from itertools import cycle, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call, End
from criproxy.wire.reading.connection import (
    CallBegan,
    CallEnded,
    ConnectionReader,
    MessagePassed,
    Side,
)
from criproxy.wire.reading.message_capture import (
    MAX_MESSAGES,
    MESSAGE_COST,
    CaptureBudget,
    CapturedMessages,
    CaptureLimits,
    MessageCapture,
    ReportLimits,
    SelectCapture,
)
from tests.properties.test_holding import PLANS
from tests.support import wire
from tests.support.cutting import cuts, joined
from tests.support.wire import CUTS, Conversation, Cut, client, conversation, message, runtime
from tests.support.worlds import Answer, Called, Messages, Part, Plan, Reply, Script, Sized, World

C, R = Side.CLIENT, Side.RUNTIME
Message = tuple[bytes, bool]

KEPT, OTHER = b"/a.Service/Kept", b"/a.Service/Other"
PLENTY = 1 << 30


def everything(path: bytes) -> CaptureLimits:
    return CaptureLimits(PLENTY, PLENTY)


def direction(call: Call, side: Side) -> CapturedMessages:
    assert call.capture is not None
    kept = call.capture.request if side is C else call.capture.response
    assert kept is not None
    return kept


def calls_in(
    sent: Conversation, select_capture: SelectCapture, cut: Cut, **limits: int
) -> list[Call]:
    """The calls of a conversation, in the order in which they began."""
    reader = ConnectionReader(select_capture=select_capture, **limits)
    return [
        event.call
        for side, data, now in sent
        for piece in cut(data)
        for event in reader.receive(side, piece, now)
        if isinstance(event, CallBegan)
    ]


def only(
    sent: Conversation,
    select_capture: SelectCapture = everything,
    cut: Cut = wire.whole,
    **more: int,
) -> Call:
    (call,) = calls_in(sent, select_capture, cut, **more)
    return call


# What is captured.


def test_a_unary_call() -> None:
    """Both messages of a call are captured, wherever their bytes are cut, also within one chunk."""
    sent = conversation(
        client(wire.request(1), wire.data(1, message(b"question"), end=True)),
        runtime(wire.response(1), wire.data(1, message(b"answer")), wire.trailers(1)),
    )
    for cut in CUTS:
        call = only(sent, cut=cut)
        assert direction(call, C).messages == [(b"question", False)]
        assert direction(call, R).messages == [(b"answer", False)]
        assert not direction(call, C).cut
        assert not direction(call, R).cut


def test_only_selected_calls() -> None:
    """Capture is selected once for each call, by its path; unselected calls are not captured."""
    asked = []

    def select_capture(path: bytes) -> CaptureLimits | None:
        asked.append(path)
        return {KEPT: CaptureLimits(100, 0), b"/a.Service/Answers": CaptureLimits(0, 100)}.get(path)

    paths = [KEPT, OTHER, b"/a.Service/Answers"]
    streams = list(zip((1, 3, 5), paths, strict=True))
    sent = conversation(
        *(client(wire.request(number, path=path)) for number, path in streams),
        *(client(wire.data(number, message(b"q"), end=True)) for number, _ in streams),
        *(runtime(wire.response(n), wire.data(n, message(b"a"))) for n, _ in streams),
        *(runtime(wire.trailers(number)) for number, _ in streams),
    )
    first, second, third = calls_in(sent, select_capture, wire.whole)
    assert asked == paths
    assert first.capture is not None
    assert (direction(first, C).messages, first.capture.response) == ([(b"q", False)], None)
    assert second.capture is None
    assert third.capture is not None
    assert (third.capture.request, direction(third, R).messages) == (None, [(b"a", False)])


def test_a_call_that_is_not_grpc() -> None:
    """A call that is not gRPC has no messages: capture is not selected for it."""
    sent = conversation(client(wire.request(1, content_type=b"text/plain"), wire.data(1, b"text")))
    assert only(sent, select_capture=lambda path: pytest.fail("asked")).capture is None


def test_the_encoding() -> None:
    """Each direction has its own grpc-encoding; the response's comes behind informational ones."""
    fields = [*wire.request_fields(), (b"grpc-encoding", b"gzip")]
    answer = [(b":status", b"200"), (b"grpc-encoding", b"snappy")]
    early = [(b":status", b"103"), (b"grpc-encoding", b"br")]
    sent = conversation(
        client(wire.headers(1, wire.block(*fields)), wire.request(3)),
        client(wire.data(1, message(b"\x1f\x8b", compressed=True))),
        runtime(wire.headers(1, wire.block(*early)), wire.headers(1, wire.block(*answer))),
        runtime(wire.data(1, message(b"", compressed=True)), wire.response(3)),
    )
    for cut in CUTS:
        first, second = calls_in(sent, everything, cut)
        assert (direction(first, C).encoding, direction(first, R).encoding) == (b"gzip", b"snappy")
        assert direction(first, C).messages == [(b"\x1f\x8b", True)]
        assert direction(first, R).messages == [(b"", True)]
        assert (direction(second, C).encoding, direction(second, R).encoding) == (b"", b"")


# The limits.


@pytest.mark.parametrize("side", Side)
def test_a_message_at_the_limit_and_one_over_it(side: Side) -> None:
    """A message of as many bytes as the limit is captured; no part of a larger one is."""
    for size, kept in ((10, [(b"x" * 10, False)]), (11, [])):
        sent = conversation(
            client(wire.request(1)),
            runtime(wire.response(1)),
            wire.Sent(side, wire.data(1, message(b"x" * size))),
        )
        for cut in CUTS:
            got = direction(only(sent, lambda path: CaptureLimits(10, 10), cut), side)
            assert (got.messages, got.cut) == (kept, size > 10)
            assert not got._partial_message


def test_nothing_behind_a_message_that_is_missing() -> None:
    """The beginning of a stream is captured: nothing after the first message that was not."""
    kept = CapturedMessages(10)
    data = message(b"first") + message(b"too large") + message(b"small")
    for number in range(len(data)):
        kept.feed(data, number, number + 1)
    assert (kept.messages, kept.cut) == ([(b"first", False)], True)


def test_messages_without_end() -> None:
    """Empty messages cost memory too: their number is limited."""
    kept = CapturedMessages(10)
    data = message() * (MAX_MESSAGES + 1)
    kept.feed(data, 0, len(data) - 5)
    assert (len(kept.messages), kept.cut) == (MAX_MESSAGES, False)
    kept.feed(data, len(data) - 5, len(data))
    assert (len(kept.messages), kept.cut) == (MAX_MESSAGES, True)


def test_a_huge_length() -> None:
    """A message's length prefix alone allocates no memory."""
    kept = CapturedMessages(PLENTY << 8)
    data = b"\0\xff\xff\xff\xffabc"
    kept.feed(data, 0, len(data))
    assert (kept.messages, bytes(kept._partial_message), kept.cut) == ([], b"abc", False)


def test_a_store_that_is_full() -> None:
    """Calls that share a budget are cut when it is used up, and release it when they end."""
    store = CaptureBudget(1000)

    def stream(number: int, size: int) -> bytes:
        return wire.request(number) + wire.data(number, message(b"x" * size))

    sent = conversation(
        client(stream(1, 400) + stream(3, 300)),  # 100 bytes for each message, and its own
        client(stream(5, 1)),
        client(wire.data(3, message(b"more"))),
        runtime(wire.trailers_only(1, 0)),
        client(stream(7, 300)),
        runtime(wire.trailers_only(3, 0) + wire.trailers_only(5, 0) + wire.trailers_only(7, 0)),
    )
    for cut in CUTS:
        calls = calls_in(sent, lambda path: CaptureLimits(PLENTY, PLENTY, store), cut)
        kept = [direction(call, C) for call in calls]
        sizes = [[len(content) for content, _ in each.messages] for each in kept]
        assert sizes == [[400], [300], [], [300]]
        assert [each.cut for each in kept] == [False, True, True, False]
        assert not any(each._partial_message for each in kept)
        assert store.bytes == 0


def test_a_store_that_becomes_full_within_a_message() -> None:
    """An incomplete message is charged by received bytes, and discarded over the budget."""
    store = CaptureBudget(MESSAGE_COST + 10)
    kept = CapturedMessages(PLENTY, budget=store)
    data = message(b"x" * 10) + message()
    kept.feed(data, 0, 14)
    assert (len(kept._partial_message), store.bytes) == (9, MESSAGE_COST + 9)
    kept.feed(data, 14, 15)
    assert (kept.messages, kept.cut) == ([(b"x" * 10, False)], False)
    kept = CapturedMessages(PLENTY, budget=CaptureBudget(MESSAGE_COST + 9))
    kept.feed(data, 0, 14)
    kept.feed(data, 14, 20)
    assert (kept.messages, bytes(kept._partial_message), kept.cut) == ([], b"", True)


# Messages that are reported.


def reported_in(
    sent: Conversation, limits: CaptureLimits, cut: Cut = wire.whole
) -> list[MessagePassed | CallEnded]:
    reader = ConnectionReader(select_capture=lambda path: limits)
    return [
        event
        for side, data, now in sent
        for piece in cut(data)
        for event in reader.receive(side, piece, now)
        if isinstance(event, MessagePassed | CallEnded)
    ]


def test_each_message_is_reported_once_it_is_whole() -> None:
    """A reported message comes with its side, flag and time before the end. What is kept of the
    call is another matter, with its own limits."""
    budget = CaptureBudget(1000)
    sent = conversation(
        client(wire.request(1), wire.data(1, message(b"ask"), end=True)),
        runtime(wire.response(1), wire.data(1, message(b"one")), wire.data(1, message(b"two"))),
        runtime(wire.data(1, message(b"three")), wire.trailers(1)),
    )
    times = [now for _, _, now in sent]
    for cut in CUTS:
        limits = CaptureLimits(0, 6, reported=ReportLimits(100, budget))
        *passed, ended = reported_in(sent, limits, cut)
        assert [event[1:] for event in passed] == [
            (C, b"ask", False, times[0]),
            (R, b"one", False, times[1]),
            (R, b"two", False, times[1]),
            (R, b"three", False, times[2]),
        ]
        assert isinstance(ended, CallEnded)
        kept = direction(ended.call, R)
        assert (kept.messages, kept.cut) == ([(b"one", False), (b"two", False)], True)
        capture = ended.call.capture
        assert capture is not None
        assert capture.request is None
        assert capture.reported_response is not None
        assert (capture.reported_response.messages, capture.reported_response.cut) == ([], False)
        assert budget.bytes == 0


def test_limits_of_reported_messages() -> None:
    """Reported messages may be more together than the limits; one that is larger ends reporting."""
    small, large = message(b"x" * 60), message(b"y" * 101)
    sent = conversation(
        client(wire.request(1)),
        runtime(wire.response(1)),
        *(runtime(wire.data(1, small)) for _ in range(5)),
        runtime(wire.data(1, large + small), wire.trailers(1)),
    )
    for budget in (CaptureBudget(PLENTY), CaptureBudget(60 + MESSAGE_COST)):
        for cut in CUTS:
            limits = CaptureLimits(0, 0, reported=ReportLimits(100, budget))
            *passed, ended = reported_in(sent, limits, cut)
            assert [len(event.data) for event in passed] == [60] * 5
            assert ended.call.capture is not None
            assert ended.call.capture.reported_response is not None
            assert ended.call.capture.reported_response.cut
            assert ended.call.response.messages == 7


# The end.


def test_a_call_that_ends_within_a_message() -> None:
    """Whole messages stay when a call ends; an incomplete one is discarded and sets ``cut``."""
    for broken in (message(b"second")[:3], message(b"second")[:9]):
        sent = conversation(
            client(wire.request(1), wire.data(1, message(b"first") + broken)),
            client(wire.reset(1)),
            client(wire.data(1, message(b"second")[len(broken) :])),
        )
        for cut in CUTS:
            call = only(sent, cut=cut)
            assert call.end is End.CLIENT_RESET
            kept = direction(call, C)
            assert (kept.messages, kept.cut) == ([(b"first", False)], True)
            assert not kept._partial_message


def test_nothing_after_the_end() -> None:
    """Messages of a call that has ended are not captured."""
    sent = conversation(
        client(wire.request(1), wire.data(1, message(b"first"))),
        runtime(wire.trailers_only(1, 5)),
        client(wire.data(1, message(b"second"), end=True)),
    )
    for cut in CUTS:
        kept = direction(only(sent, cut=cut), C)
        assert (kept.messages, kept.cut) == ([(b"first", False)], False)


@pytest.mark.parametrize("side", Side)
def test_the_message_limit(side: Side) -> None:
    """A call that is ended because of a message keeps those before, and not that one."""
    sent = conversation(
        client(wire.request(1)),
        runtime(wire.response(1)),
        wire.Sent(side, wire.data(1, message(b"fits") + message(b"does not fit"))),
    )
    for cut in CUTS:
        call = only(sent, cut=cut, message_limit=4)
        assert call.end is End.MESSAGE_LIMIT
        assert (direction(call, side).messages, direction(call, side).cut) == (
            [(b"fits", False)],
            True,
        )


def test_reading_that_stops() -> None:
    """A call keeps its captured messages when the reading of its connection stops."""
    sent = conversation(
        client(wire.request(1), wire.data(1, message(b"first") + message(b"second")[:8])),
        client(wire.frame(wire.PING, payload=b"short")),
    )
    for cut in CUTS:
        call = only(sent, cut=cut)
        assert call.end is End.UNREAD
        assert (direction(call, C).messages, direction(call, C).cut) == ([(b"first", False)], True)


# Any messages, any frames, any pieces.

MESSAGES = st.lists(
    st.tuples(
        st.builds(
            lambda size, seed: bytes((seed + at) & 0xFF for at in range(size)),
            st.sampled_from((0, 0, 1, 2, 4, 5, 6, 11, 100, 700)),
            st.integers(0, 255),
        ),
        st.booleans(),
    ),
    max_size=6,
)
FRAMES = st.lists(
    st.tuples(st.sampled_from((0, 1, 3, 5, 6, 50, 16_000)), st.sampled_from((None, None, 0, 7))),
    min_size=1,
    max_size=4,
).filter(lambda frames: any(size for size, _ in frames))
LIMITS = st.sampled_from((1, 2, 5, 11, 105, 811, PLENTY))


def in_frames(
    stream: int, messages: Sequence[Message], sizes: Sequence[tuple[int, int | None]]
) -> Iterator[bytes]:
    """Messages in DATA frames of these sizes and paddings in turn."""
    body = b"".join(message(content, compressed=flag) for content, flag in messages)
    frames = cycle(sizes)
    while body:
        size, padding = next(frames)
        yield wire.data(stream, body[:size], padding=padding)
        body = body[size:]


def fitting(messages: Sequence[Message], limit: int) -> tuple[list[Message], bool]:
    """The first messages that have no more bytes than a limit, and whether there are more."""
    kept: list[Message] = []
    for each in messages:
        limit -= len(each[0])
        if limit < 0:
            return kept, True
        kept.append(each)
    return kept, False


@given(
    st.dictionaries(st.tuples(st.sampled_from(Side), st.sampled_from((1, 3))), MESSAGES),
    FRAMES,
    st.tuples(LIMITS, LIMITS),
    cuts(),
    st.booleans(),
)
def test_sent_messages_are_captured(
    written: dict[tuple[Side, int], list[Message]],
    frames: list[tuple[int, int | None]],
    limits: tuple[int, int],
    cut: Cut,
    in_few_pieces: bool,
) -> None:
    """The longest beginning of the messages within the limits is captured, no byte more."""
    sent = conversation(
        client(wire.request(1, path=KEPT), wire.request(3, path=OTHER)),
        runtime(wire.response(1), wire.response(3)),
    )
    ways = (
        [wire.Sent(side, each) for each in in_frames(stream, messages, frames)]
        for (side, stream), messages in written.items()
    )
    sent += [each for crossing in zip_longest(*ways) for each in crossing if each is not None]
    sent += [runtime(wire.trailers(1), wire.trailers(3))]
    if in_few_pieces:
        sent = joined(sent)
    reader = ConnectionReader(
        select_capture=lambda path: CaptureLimits(*limits) if path == KEPT else None
    )
    calls: list[Call] = []
    ended = 0
    for side, data, now in sent:
        for piece in cut(data):
            for event in reader.receive(side, piece, now):
                if isinstance(event, CallBegan):
                    calls.append(event.call)
                ended += isinstance(event, CallEnded)
            if calls:
                assert_within(calls[0].capture, limits)
    assert ended == 2
    first, second = calls
    for side, limit in zip(Side, limits, strict=True):
        kept = direction(first, side)
        assert (kept.messages, kept.cut) == fitting(written.get((side, 1), []), limit)
    assert second.capture is None


def assert_within(kept: MessageCapture | None, limits: tuple[int, int]) -> None:
    assert kept is not None
    for messages, limit in zip((kept.request, kept.response), limits, strict=True):
        assert messages is not None
        size = sum(len(content) for content, _ in messages.messages)
        assert size + len(messages._partial_message) <= limit


# Held calls.


def kept_of(world: World, called: Called, side: Side) -> CapturedMessages:
    return direction(world.observed[called.stream.number], side)


def made(plan: Plan, cut: Cut) -> tuple[World, Called]:
    """A call that has run to its end; the client has sent it in one piece."""
    world = World(cut=cut, select_capture=everything)
    called = world.call(plan)
    assert called is not None
    world.push_all(C)
    world.settle()
    return world, called


def body(messages: Sequence[Message]) -> bytes:
    return b"".join(message(content, compressed=flag) for content, flag in messages)


@pytest.mark.parametrize("cut", CUTS)
def test_a_call_that_rules_rewrite(cut: Cut) -> None:
    """Of a rewritten call the capture has what the client sent and what the client received."""
    rewritten = Part(held=True, changes=(Sized(300),))
    script = Script(request=rewritten, response=rewritten, delayed=True)
    plan = Plan(Messages((100, 200)), Reply(Messages((50, 60))), script)
    world, called = made(plan, cut)
    assert kept_of(world, called, C).messages == called.messages(C)
    got = kept_of(world, called, R).messages
    assert [len(content) for content, _ in got] == [300, 300]
    assert body(got) == bytes(world.received(called, C).data)
    assert bytes(world.received(called, R).data) != body(called.messages(C))


@pytest.mark.parametrize("cut", CUTS)
def test_a_call_that_rules_deny(cut: Cut) -> None:
    """Of a call that is denied once its request has been seen, there is the request."""
    script = Script(request=Part(held=True), answer=Answer(C, at_end=True), delayed=True)
    world, called = made(Plan(Messages((100,)), script=script), cut)
    assert world.observed[called.stream.number].code is StatusCode.PERMISSION_DENIED
    assert kept_of(world, called, C).messages == called.messages(C)
    assert kept_of(world, called, R).messages == []
    assert not world.received(called, R).data


@given(st.lists(PLANS, min_size=1, max_size=4), cuts())
def test_the_client_s_view(plans: list[Plan], cut: Cut) -> None:
    """Whatever handlers do, the capture has what the client sent and received."""
    store = CaptureBudget(PLENTY)
    world = World(cut=cut, select_capture=lambda path: CaptureLimits(PLENTY, PLENTY, store))
    calls = [called for plan in plans if (called := world.call(plan)) is not None]
    world.push_all(C)
    world.settle()
    for called in calls:
        call = world.observed[called.stream.number]
        sent, got = called.messages(C), kept_of(world, called, R)
        requests = kept_of(world, called, C)
        assert requests.messages == sent[: len(requests.messages)]
        received = bytes(world.received(called, C).data)
        if call.end is End.STATUS:
            assert body(got.messages) == received
            assert requests.cut or not call.half_closed or requests.messages == sent
        else:
            assert received.startswith(body(got.messages))
    assert store.bytes == sum(
        MESSAGE_COST * (len(kept.messages) + bool(kept._missing))
        + sum(len(content) for content, _ in kept.messages)
        + len(kept._partial_message)
        for call in world.reader.calls
        for kept in (direction(call, C), direction(call, R))
    )

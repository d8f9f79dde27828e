"""Holding of streams, one rule at a time; the property tests check the rules in combination."""

from collections.abc import Callable

import pytest

from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import FrameSizeError, ProtocolError
from criproxy.wire.grpc import StatusCode
from criproxy.wire.intercept.held_bytes import (
    HEADER_OVERHEAD,
    MESSAGE_OVERHEAD,
    STREAM_OVERHEAD,
    HeldBytesBudget,
)
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.endpoints import BANDWIDTH_PING, INITIAL_WINDOW_SIZE
from tests.support.worlds import (
    ANSWER_TEXT,
    Called,
    Frame,
    Handler,
    Messages,
    Part,
    Plan,
    Reply,
    Script,
    World,
)

C, R = Side.CLIENT, Side.RUNTIME
HELD = Part(held=True)
REQUEST = Script(request=HELD, delayed=True)
RESPONSE = Script(response=HELD, delayed=True)
BOTH = Script(request=HELD, response=HELD, delayed=True)
THOUSAND = Messages((1000,), joined=False)
SIZE = 1005
"""Bytes of DATA that a message of a thousand bytes takes."""


def connected(**options: object) -> World:
    """Return a world whose ends have exchanged their SETTINGS."""
    world = World(**options)  # type: ignore[arg-type]
    world.carry()
    forget(world)
    return world


def forget(world: World) -> None:
    for side in Side:
        world.written(side)


def made(world: World, plan: Plan, *, whole: bool = True) -> Called:
    """A call whose request, or only its headers, has come to the interceptor."""
    called = world.call(plan)
    assert called is not None
    if whole:
        world.push_all(C)
    world.carry()
    return called


def replied(world: World) -> None:
    """The runtime sends all it has to send, and the interceptor receives it."""
    world.push_all(R)
    world.carry()


def handler(called: Called) -> Handler:
    assert called.handler is not None
    return called.handler


def do(world: World, command: Callable[[], None]) -> None:
    world.command(command)
    world.carry()


def send(world: World, called: Called, side: Side, size: int) -> None:
    do(world, lambda: handler(called).stream.send(side, b"s" * size))


def end(world: World, called: Called, side: Side) -> None:
    do(world, lambda: handler(called).stream.end(side))


def release(world: World, called: Called, side: Side) -> None:
    do(world, lambda: handler(called).stream.release(side))


def answer(world: World, called: Called, code: StatusCode = StatusCode.PERMISSION_DENIED) -> None:
    do(world, lambda: handler(called).stream.reply(code, ANSWER_TEXT))


def kinds(frames: list[Frame], stream: int | None = None) -> list[int]:
    return [frame.kind for frame in frames if stream is None or frame.stream == stream]


def granted(frames: list[Frame], stream: int) -> int:
    """The sum of the WINDOW_UPDATEs for a stream, 0 for the connection."""
    return sum(
        int.from_bytes(frame.payload, "big")
        for frame in frames
        if frame.kind == wire.WINDOW_UPDATE and frame.stream == stream
    )


def data_size(frames: list[Frame], stream: int) -> int:
    return sum(len(f.payload) for f in frames if f.kind == wire.DATA and f.stream == stream)


def status(world: World, called: Called) -> bytes:
    return world.received(called, C).fields[b"grpc-status"]


# Held DATA


def test_held_data_stays_and_its_stream_is_granted_for() -> None:
    """Held DATA never reaches the receiver, and the sender's stream window is whole at once."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    number = called.stream.number
    assert kinds(world.written(R)) == [wire.HEADERS]
    to_client = world.written(C)
    assert granted(to_client, number) == SIZE
    assert granted(to_client, 0) == 0
    assert handler(called).reported[1] == ("message", C, bytes((0,)) * 1000, False)


def test_held_padding_counts() -> None:
    """Held DATA is granted by its flow-controlled length, padding included."""
    world = connected()
    called = world.call(Plan(THOUSAND, script=REQUEST))
    assert called is not None
    world.push(C, called.stream, style=7 | 99 << 3)
    world.carry()
    assert granted(world.written(C), called.stream.number) == SIZE + 100


def test_same_size_costs_no_extra_frames() -> None:
    """A message forwarded at its size needs no connection WINDOW_UPDATE of our own."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    send(world, called, C, 1000)
    world.acknowledge_all(R)
    world.carry()
    frames = world.written(C)
    assert [granted([frame], 0) for frame in frames if granted([frame], 0)] == [SIZE]
    assert granted(frames, called.stream.number) == SIZE


def test_grants_for_added_bytes_are_kept() -> None:
    """The receiver's grants for bytes that a rewrite added are not forwarded to the sender."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    send(world, called, C, 3000)
    world.acknowledge_all(R)
    world.carry()
    frames = world.written(C)
    assert granted(frames, 0) == SIZE
    assert granted(frames, called.stream.number) == SIZE


def test_shorter_is_added_to_the_next_update() -> None:
    """Bytes that a rewrite removed are granted to the sender with the receiver's next update."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    send(world, called, C, 10)
    world.acknowledge_all(R)
    world.carry()
    assert granted(world.written(C), 0) == SIZE


def test_eight_kib_are_refunded() -> None:
    """Bytes owed to a sender are granted in an own frame from 8 KiB on."""
    world = connected()
    called = made(world, Plan(Messages((4000, 4000, 4000)), script=REQUEST))
    forget(world)
    for owed in (0, 0, 3 * 4005):
        do(world, lambda: handler(called).stream.drop(C))
        assert granted(world.written(C), 0) in (owed, 0)
    assert world.ends[C].send_window > 65_535 - 8192


# DATA that is not held


def overdrawn(world: World) -> tuple[Called, Called]:
    """A held request that was made longer has taken the window; another's DATA then queues."""
    held = made(world, Plan(Messages((10,)), script=REQUEST))
    send(world, held, C, 60_000)
    forget(world)
    return held, made(world, Plan(Messages((20_000,))))


def test_raw_data_queues_and_is_split() -> None:
    """DATA over the receiver's window is queued; the part that fits is sent."""
    world = connected()
    _, raw = overdrawn(world)
    frames = world.written(R)
    assert data_size(frames, raw.stream.number) == 65_535 - 60_005
    world.check_windows()
    world.acknowledge_all(R)
    world.carry()
    assert world.received(raw, R) == world.sent(raw, C)


def test_frames_behind_queued_data_are_queued() -> None:
    """Behind DATA that waits, headers, resets and frames of our own wait too."""
    world = connected()
    held, raw = overdrawn(world)
    forget(world)
    other = world.call(Plan())
    assert other is not None
    world.ends[C].reset(raw.stream, 8)
    world.carry()
    end(world, held, C)
    answer(world, held)
    assert not kinds(world.written(R))
    world.acknowledge_all(R)
    world.carry()
    order = [(f.kind, f.stream) for f in world.written(R) if f.kind not in (wire.DATA, wire.PING)]
    assert order[:2] == [(wire.HEADERS, other.stream.number), (wire.RST_STREAM, raw.stream.number)]


def test_unordered_frames_overtake_a_queue() -> None:
    """PING, SETTINGS, PRIORITY and WINDOW_UPDATEs of open streams are not queued."""
    world = connected()
    held, raw = overdrawn(world)
    del held
    forget(world)
    client = world.ends[C]
    client.ping(b"overtake")
    client.settle((INITIAL_WINDOW_SIZE, 70_000))
    client.priority(raw.stream.number)
    client.grant(None, 5)
    client.grant(raw.stream, 6)
    world.carry()
    expected = {wire.PING, wire.SETTINGS, wire.PRIORITY, wire.WINDOW_UPDATE}
    frames = world.written(R)
    assert set(kinds(frames)) == expected
    assert granted(frames, 0) == 5
    assert granted(frames, raw.stream.number) == 6


def test_a_window_update_waits_for_its_stream() -> None:
    """A WINDOW_UPDATE of a stream whose headers wait waits behind them."""
    world = connected()
    overdrawn(world)
    forget(world)
    other = world.call(Plan())
    assert other is not None
    world.ends[C].grant(other.stream, 6)
    world.carry()
    assert not kinds(world.written(R))
    world.acknowledge_all(R)
    world.carry()
    assert kinds(world.written(R), other.stream.number) == [wire.HEADERS, wire.WINDOW_UPDATE]


def test_an_ack_lets_output_go() -> None:
    """A stream window that new SETTINGS open is used as soon as they are acknowledged."""
    world = connected(runtime=((INITIAL_WINDOW_SIZE, 100),))
    called = made(world, Plan(Messages((10,)), script=REQUEST))
    send(world, called, C, 1000)
    assert len(world.received(called, R).data) == 100
    world.ends[R].settle((INITIAL_WINDOW_SIZE, 2000))
    world.carry_in(R)
    world.carry_out(C)
    assert len(world.received(called, R).data) == 100
    world.carry()
    assert len(world.received(called, R).data) == SIZE


def test_settings_count_from_their_ack() -> None:
    """A smaller window applies to own DATA from the sender's ACK on, not from the SETTINGS."""
    world = connected()
    called = made(world, Plan(Messages((10,)), script=REQUEST))
    world.ends[R].settle((INITIAL_WINDOW_SIZE, 0))
    world.carry_in(R)
    world.command(lambda: handler(called).stream.send(C, b"s" * 100))
    world.carry()  # the runtime would tell of a violation
    assert len(world.received(called, R).data) == 105
    send(world, called, C, 100)
    assert len(world.received(called, R).data) == 105
    world.ends[R].settle((INITIAL_WINDOW_SIZE, 1000))
    world.carry()
    assert len(world.received(called, R).data) == 210


# Request headers


@pytest.mark.parametrize("style", [0, 2, 4, 8, 1 << 2 | 2])
def test_request_headers_go_on_without_their_end(style: int) -> None:
    """A call with an empty body is held too: its headers are forwarded at once, its end is not."""
    world = connected()
    called = made(world, Plan(Messages(()), script=REQUEST, style=style))
    got = world.received(called, R)
    assert got.headers == called.stream.sent.headers
    assert not got.ended
    assert handler(called).reported == [("opened",), ("ended", C, [])]
    end(world, called, C)
    assert world.received(called, R).ended


def test_metadata_is_added_without_a_table() -> None:
    """Added headers come last, and the blocks after them mean the same to both ends."""
    world = connected()
    added = ((b"x-added", b"1"), (b"x-long", b"2" * 40_000))
    called = made(world, Plan(script=REQUEST._replace(metadata=added)))
    assert world.received(called, R).headers == [[*called.stream.sent.headers[0], *added]]
    other = made(world, Plan())
    assert world.received(other, R).headers == other.stream.sent.headers


# Re-encoding


def test_trailers_that_are_overtaken() -> None:
    """Trailers that changed the table and are sent late are re-encoded, as are all later blocks."""
    world = connected()
    first = made(world, Plan(script=RESPONSE))
    replied(world)
    forget(world)
    second = made(world, Plan())
    replied(world)
    blocks = [frame.payload for frame in world.written(C) if frame.kind == wire.HEADERS]
    assert blocks[0][:1] == b"\x20"
    while world.act(first):
        world.carry()
    third = made(world, Plan())
    replied(world)
    frames = [frame for frame in world.written(C) if frame.kind == wire.HEADERS]
    assert not any(frame.payload[:1] == b"\x20" for frame in frames)
    for called in (first, second, third):
        assert world.received(called, C) == world.sent(called, R)


def test_trailers_that_nothing_overtook() -> None:
    """Held trailers are forwarded unchanged if no block was sent before them."""
    world = connected()
    called = made(world, Plan(script=RESPONSE))
    replied(world)
    forget(world)
    while world.act(called):
        world.carry()
    (block,) = (frame.payload for frame in world.written(C) if frame.kind == wire.HEADERS)
    assert block[:1] not in (b"\0", b"\x20")
    assert world.received(called, C) == world.sent(called, R)


def test_trailers_that_never_go_on() -> None:
    """Blocks after discarded trailers that changed the table still decode."""
    world = connected()
    first = made(world, Plan(script=RESPONSE))
    replied(world)
    answer(world, first)
    second = made(world, Plan())
    replied(world)
    assert status(world, first) == b"7"
    assert world.received(second, C) == world.sent(second, R)


# Answers in the runtime's place


def test_an_answer_before_the_request() -> None:
    """A denied call is reset to the runtime, which has seen no message, and answered alone."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    answer(world, called)
    to_runtime = world.received(called, R)
    assert (bytes(to_runtime.data), to_runtime.ended, to_runtime.code) == (b"", False, 8)
    got = world.received(called, C)
    assert got.ended
    assert got.code is None
    (fields,) = got.headers
    assert dict(fields)[b":status"] == b"200"
    assert dict(fields)[b"content-type"] == b"application/grpc"
    assert status(world, called) == b"7"
    assert handler(called).gone


def test_an_answer_to_a_client_that_still_sends() -> None:
    """A client that has not ended is reset with NO_ERROR, and its late frames are discarded."""
    world = connected()
    called = made(world, Plan(Messages((1000, 1000)), script=REQUEST), whole=False)
    world.push(C, called.stream, SIZE)
    world.carry()
    world.push(C, called.stream, SIZE)  # on its way when the answer comes
    answer(world, called)
    assert world.received(called, C).ended
    assert world.received(called, C).code == 0
    assert not world.received(called, R).data
    world.acknowledge_all(R)
    for side in Side:
        world.ends[side].grant(None, 1)
    world.carry()
    assert world.ends[C].send_window == world.ends[R].receive_window


def test_an_answer_after_response_headers() -> None:
    """Where the response's headers have passed, the answer is trailers alone."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(early=True)))
    world.push(R, world.ends[R].streams[called.stream.number])
    world.carry()
    answer(world, called)
    got = world.received(called, C)
    assert [b":status" in dict(fields) for fields in got.headers] == [True, False]
    assert got.ended


@pytest.mark.parametrize("script", [REQUEST, RESPONSE, BOTH], ids=["request", "response", "both"])
def test_an_answer_behind_informational_responses(script: Script) -> None:
    """Responses of 1xx are not the response's headers: the answer is Trailers-Only."""
    world = connected()
    called = made(world, Plan(script=script, reply=Reply(early=True, informational=3)))
    for _ in range(3):
        world.push(R, world.ends[R].streams[called.stream.number])
    world.carry()
    answer(world, called)
    got = world.received(called, C)
    assert got.headers[:-1] == world.sent(called, R).headers
    assert [dict(fields)[b":status"] for fields in got.headers] == [b"100", b"101", b"102", b"200"]
    assert dict(got.headers[-1])[b"content-type"] == b"application/grpc"
    assert status(world, called) == b"7"
    assert got.ended


def test_an_answer_behind_informational_responses_and_headers() -> None:
    """Where the response's headers have followed, the answer is trailers alone."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(early=True, informational=1)))
    for _ in range(2):
        world.push(R, world.ends[R].streams[called.stream.number])
    world.carry()
    answer(world, called)
    got = world.received(called, C)
    assert [b":status" in dict(fields) for fields in got.headers] == [True, True, False]
    assert got.ended


def test_informational_responses_are_re_encoded() -> None:
    """Where header blocks are re-encoded, responses of 1xx and the answer behind them are too."""
    world = connected()
    denied = made(world, Plan(script=RESPONSE, reply=Reply(Messages((10,)))))
    world.push(R, world.ends[R].streams[denied.stream.number])
    answer(world, denied)  # its response's headers cross with the reset, and are discarded
    queues = world.interceptor.queues
    assert queues is not None
    assert queues[R].reencoding
    plan = Plan(script=RESPONSE, reply=Reply(Messages((10,)), informational=3))
    passed, called = made(world, plan), made(world, plan)
    replied(world)
    while world.act(passed):
        world.carry()
    assert world.received(passed, C) == world.sent(passed, R)
    answer(world, called)
    sent = world.sent(called, R).headers
    assert world.received(called, C).headers[:4] == sent[:4]
    assert status(world, called) == b"7"


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_an_answer_behind_queued_headers(blocks: int) -> None:
    """Queued headers count as sent for an answer behind them; those of 1xx do not."""
    world = connected()
    held = made(world, Plan(script=RESPONSE, reply=Reply(Messages((10,)))))
    replied(world)
    send(world, held, R, 70_000)  # more than the client's window
    waiting = made(world, Plan(reply=Reply(THOUSAND)))
    replied(world)
    called = made(world, Plan(reply=Reply(informational=1)))
    for _ in range(blocks):
        world.push(R, world.ends[R].streams[called.stream.number])
    world.carry()
    number = called.stream.number
    do(world, lambda: world.interceptor.reply(number, StatusCode.UNAVAILABLE, "", False))
    world.settle()
    assert world.received(waiting, C) == world.sent(waiting, R)
    assert status(world, called) == b"14"


def test_an_answer_when_the_runtime_is_done() -> None:
    """A runtime that has finished is not reset; sent output of its response comes first."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(Messages((10, 20)))))
    replied(world)
    send(world, called, R, 7)
    answer(world, called, StatusCode.DATA_LOSS)
    assert world.received(called, R).code is None
    got = world.received(called, C)
    assert got.data == wire.message(b"s" * 7)
    assert status(world, called) == b"15"


def test_late_frames_of_an_answered_call_are_discarded() -> None:
    """Frames that the runtime sent before it received the reset are discarded, and granted back."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(Messages((30_000,)))))
    answer(world, called)
    world.command(lambda: None)
    other = made(world, Plan())
    world.push_all(R)
    assert world.received(called, C).data == b""
    # the runtime's frames of the call cross with our reset
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(Messages((30_000,)))))
    world.push_all(R)
    world.command(lambda: handler(called).stream.reply(StatusCode.ABORTED, ANSWER_TEXT))
    other = made(world, Plan())
    replied(world)
    assert world.received(called, C).data == b""
    assert status(world, called) == b"10"
    assert world.received(other, C) == world.sent(other, R)
    for side in Side:
        world.acknowledge_all(side)
        world.ends[side].grant(None, 1)
    world.carry()
    assert world.ends[R].send_window == world.ends[C].receive_window


def test_the_percent_encoding_of_an_answer() -> None:
    """The message of a local reply is percent-encoded UTF-8 (gRPC over HTTP/2, "Responses")."""
    world = connected()
    called = made(world, Plan(script=REQUEST))
    answer(world, called)
    text = world.received(called, C).fields[b"grpc-message"]
    assert text == b"not through here: %E2%80%9E%C2%B5%E2%80%9C 100%25"


# The runtime answers, and resets


@pytest.mark.parametrize("trailers_only", [True, False])
def test_the_runtime_answers_before_the_request_is_released(trailers_only: bool) -> None:
    """The runtime's early response is forwarded unchanged, and its stream is reset."""
    world = connected()
    reply = Reply(early=True, trailers_only=trailers_only, code=StatusCode.NOT_FOUND)
    called = made(world, Plan(THOUSAND, script=REQUEST, reply=reply))
    replied(world)
    assert status(world, called) == b"5"
    assert world.received(called, C).data == world.sent(called, R).data
    assert world.received(called, R).code is not None
    assert not world.received(called, R).data
    assert handler(called).gone
    send(world, called, C, 10)
    assert not world.received(called, R).data


def test_a_reset_of_the_client() -> None:
    """A client's reset is forwarded at once; the held part of its call is discarded."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=BOTH))
    world.ends[C].reset(called.stream, 8)
    world.carry()
    assert world.received(called, R).code == 8
    assert handler(called).gone
    send(world, called, C, 10)
    answer(world, called)
    assert not world.received(called, R).data
    assert not world.received(called, C).headers


def test_a_reset_of_the_runtime_before_its_end() -> None:
    """A runtime's reset is forwarded at once if its response is incomplete."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(resets=2)))
    replied(world)
    assert world.received(called, C).code == 2
    assert not world.received(called, C).data
    assert handler(called).gone


def test_a_reset_of_the_runtime_behind_a_held_response() -> None:
    """A runtime's reset behind its complete response waits until that has been delivered."""
    world = connected()
    reply = Reply(Messages((10,)), early=True, resets=0, without_trailers=False)
    called = made(world, Plan(Messages((5, 5)), script=RESPONSE, reply=reply), whole=False)
    runtime = world.ends[R]
    stream = runtime.streams[called.stream.number]
    world.push_all(R)
    del stream
    world.carry()
    assert world.received(called, C).code == 0
    reply = reply._replace(resets=None)
    called = made(world, Plan(Messages((5, 5)), script=RESPONSE, reply=reply), whole=False)
    world.push_all(R)
    runtime.reset(runtime.streams[called.stream.number], 0)
    world.carry()
    assert world.received(called, C).code is None
    assert not handler(called).gone
    while world.act(called):
        world.carry()
    got = world.received(called, C)
    assert got.data == world.sent(called, R).data
    assert got.ended
    assert got.code == 0


# Held responses


def test_a_held_response() -> None:
    """The response's headers pass at once; its DATA is held, its trailers behind it."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(THOUSAND)))
    replied(world)
    got, sent = world.received(called, C), world.sent(called, R)
    assert got.headers == sent.headers[:1]
    assert not got.data
    assert granted(world.written(R), called.stream.number) == SIZE
    events = handler(called).reported
    assert events[-2:] == [("message", R, bytes((64,)) * 1000, True), ("ended", R, sent.headers[1])]
    send(world, called, R, 70_000)
    end(world, called, R)
    assert not world.received(called, C).ended
    world.acknowledge_all(C)
    world.carry()
    got = world.received(called, C)
    assert got.data == wire.message(b"s" * 70_000)
    assert got.headers == sent.headers
    assert handler(called).gone


def test_held_trailers_alone() -> None:
    """A Trailers-Only response is held too, and forwarded unchanged."""
    world = connected()
    called = made(world, Plan(script=RESPONSE, reply=Reply(trailers_only=True)))
    replied(world)
    assert not world.received(called, C).headers
    assert handler(called).reported[-1] == ("ended", R, world.sent(called, R).headers[0])
    end(world, called, R)
    assert world.received(called, C) == world.sent(called, R)


# Messages


def test_messages_in_pieces() -> None:
    """A handler is given whole messages with their flags, wherever frames end."""
    world = connected()
    plan = Plan(Messages((0, 3, 0, 500, 1)), script=REQUEST)
    called = world.call(plan)
    assert called is not None
    while called.stream.outgoing:
        world.push(C, called.stream, 3)
    world.carry()
    messages = [("message", C, *message) for message in called.messages(C)]
    assert handler(called).reported == [("opened",), *messages, ("ended", C, [])]


def test_a_release_within_a_message() -> None:
    """A direction released within a message is forwarded from that message's beginning."""
    world = connected()
    plan = Plan(Messages((10, 3000, 50)), script=REQUEST)
    called = world.call(plan)
    assert called is not None
    world.push(C, called.stream, 1000)
    world.carry()
    assert [event[0] for event in handler(called).reported] == ["opened", "message"]
    send(world, called, C, 10)
    release(world, called, C)
    world.push_all(C)
    world.carry()
    body = called.expected(C)[15:]
    assert world.received(called, R).data == wire.message(b"s" * 10) + body
    assert world.received(called, R).ended


# PING


def test_a_ping_after_own_data() -> None:
    """A client's PING at DATA that is ours, and not the runtime's latest, is answered here."""
    world = connected(pings=True)
    called = made(world, Plan(script=RESPONSE, reply=Reply(Messages((10, 10)))))
    replied(world)
    world.carry()
    forget(world)
    for _ in range(2):
        assert world.act(called)
        world.carry()
    assert len(world.received(called, C).data) == 30
    acks = [f.payload for f in world.written(C) if f.kind == wire.PING and f.flags & wire.ACK]
    assert acks == [BANDWIDTH_PING] * 2
    assert world.ends[R].strikes == 0


def test_a_ping_after_data_of_the_runtime() -> None:
    """Any other PING is forwarded to the runtime."""
    world = connected(pings=True)
    held = made(world, Plan(script=REQUEST))
    forget(world)
    made(world, Plan())
    replied(world)
    pings = [f for f in world.written(R) if f.kind == wire.PING and not f.flags & wire.ACK]
    assert [ping.payload for ping in pings] == [BANDWIDTH_PING]
    assert not handler(held).gone


# Frames of our own among the others


@pytest.mark.parametrize("style", [0, 3 << 2 | 2])
def test_our_frames_go_between_frames(style: int) -> None:
    """However far the other side's frame has come, nothing of ours goes into it."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=BOTH))
    other = made(world, Plan(reply=Reply(Messages((100,)))))
    world.style = style
    world.push_all(R)
    size = len(world.ends[R].out)
    for _ in range(size):
        world.carry_in(R, 1)
        send(world, called, C, 10)
    answer(world, called)
    assert world.received(other, C) == world.sent(other, R)
    assert status(world, called) == b"7"


def test_the_client_s_frames_are_not_cut() -> None:
    """Frames of our own to the runtime are not inserted within a frame of the client's either."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    other = world.call(Plan(THOUSAND))
    assert other is not None
    world.push_all(C)
    for _ in range(len(world.ends[C].out)):
        world.carry_in(C, 1)
        send(world, called, C, 10)
    assert world.received(other, R) == world.sent(other, C)


def test_nothing_of_ours_comes_before_the_first_settings() -> None:
    """A client that does not wait for the runtime's SETTINGS gets nothing of ours before them."""
    world = World()
    called = world.call(Plan(THOUSAND, script=REQUEST))
    assert called is not None
    world.push_all(C)
    world.carry_in(C)
    world.command(lambda: handler(called).stream.reply(StatusCode.ABORTED, ""))
    assert not world.pipes[C]
    world.carry()
    assert status(world, called) == b"10"


def test_a_ping_for_data_that_waited() -> None:
    """A PING at DATA that waited here is answered here: the runtime has sent nothing since."""
    world = connected(pings=True)
    reply = Reply(Messages((0,)))
    held = made(world, Plan(reply=reply, script=RESPONSE))
    raw = made(world, Plan(reply=Reply(Messages((1000,)))))
    replied(world)
    assert world.received(raw, C) == world.sent(raw, R)
    send(world, held, R, 70_000)
    raw = made(world, Plan(reply=Reply(Messages((1000,)))))
    replied(world)
    assert not world.received(raw, C).data
    while world.acknowledge_all(C, 400):
        world.carry()
    assert world.received(raw, C) == world.sent(raw, R)
    assert world.ends[R].strikes == 0


@pytest.mark.parametrize("early", [True, False])
def test_a_smaller_header_table(early: bool) -> None:
    """If a client has asked for a smaller table, an own block that comes first reduces the size."""
    first = ((wire.HEADER_TABLE_SIZE, 0),) if early else ()
    world = connected(client=first)
    before = made(world, Plan()) if not early else None
    called = made(world, Plan(script=REQUEST))
    if before:
        replied(world)
        world.ends[C].settle((wire.HEADER_TABLE_SIZE, 100))
        world.carry()
    answer(world, called)
    assert status(world, called) == b"7"
    last = made(world, Plan())
    replied(world)
    assert world.received(last, C) == world.sent(last, R)


# A runtime that is going


@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("begun", [0, 1, 10])
def test_a_call_that_a_goaway_leaves_out(begun: int, in_time: bool) -> None:
    """A call that crosses with the GOAWAY that leaves it out is not held, or not any longer."""
    world = connected()
    served = made(world, Plan(THOUSAND))
    world.ends[R].go_away(served.stream.number)
    world.carry_in(R, begun)
    called = world.call(Plan(THOUSAND, script=REQUEST))
    assert called is not None
    if in_time:
        world.carry_in(C)
    world.carry_in(R)
    world.push_all(C)
    world.carry_in(C)
    assert not world.interceptor.held
    if called.handler is not None:
        assert called.handler.gone
    replied(world)
    assert world.received(served, C) == world.sent(served, R)


def test_late_frames_after_a_reset_of_the_runtime() -> None:
    """Frames of a client before it receives the runtime's reset are discarded and granted back."""
    world = connected()
    called = made(world, Plan(Messages((1000, 1000)), script=REQUEST), whole=False)
    world.push(C, called.stream, SIZE + 500)
    world.carry()
    world.ends[R].reset(world.ends[R].streams[called.stream.number], 8)
    world.carry_in(R)
    world.push_all(C)
    world.carry()
    assert world.received(called, C).code == 8
    assert not world.received(called, R).data
    for side in Side:
        world.ends[side].grant(None, 1)
    world.carry()
    assert world.ends[C].send_window == world.ends[R].receive_window


# The runtime's end


def test_a_runtime_disconnects_with_a_held_response() -> None:
    """Complete responses are delivered; other calls end with UNAVAILABLE, GOAWAY is sent."""
    world = connected()
    complete = made(world, Plan(script=RESPONSE, reply=Reply(THOUSAND)))
    replied(world)
    direction = made(world, Plan(script=RESPONSE, reply=Reply(THOUSAND)))
    world.push(R, world.ends[R].streams[direction.stream.number])
    world.carry()
    waiting = made(world, Plan(script=REQUEST))
    early = made(world, Plan(reply=Reply(informational=1)))
    held_early = made(world, Plan(script=RESPONSE, reply=Reply(informational=1)))
    for called in (early, held_early):
        world.push(R, world.ends[R].streams[called.stream.number])
    world.carry()
    raw = made(world, Plan())
    forget(world)
    world.lose(R)
    assert world.interceptor.undelivered
    world.carry_out(C)
    assert world.ends[C].going == raw.stream.number
    for called in (direction, waiting, early, held_early, raw):
        assert status(world, called) == b"14"
    assert handler(direction).gone
    assert handler(waiting).gone
    assert not handler(complete).gone
    while world.act(complete):
        world.carry_out(C)
    assert not world.interceptor.undelivered
    assert world.received(complete, C) == world.sent(complete, R)
    assert handler(complete).gone


def test_a_runtime_disconnects_with_no_held_response() -> None:
    """If no complete response is held, everything is discarded and the handlers are notified."""
    world = connected()
    called = made(world, Plan(script=REQUEST))
    forget(world)
    world.lose(R)
    assert not world.interceptor.undelivered
    assert handler(called).gone
    assert not world.written(C)
    assert (world.budget.streams, world.budget.bytes) == (0, 0)


def test_a_runtime_disconnects_with_a_queued_response() -> None:
    """Queued ends of other calls are delivered too, once: those are not ended a second time."""
    world = connected()
    held = made(world, Plan(script=RESPONSE, reply=Reply(Messages((10,)))))
    replied(world)
    send(world, held, R, 70_000)
    raw = made(world, Plan(reply=Reply(THOUSAND)))
    reset = made(world, Plan(reply=Reply(THOUSAND, resets=2)))
    replied(world)
    early = made(world, Plan(reply=Reply(informational=1)))
    world.push(R, world.ends[R].streams[early.stream.number])
    world.carry()
    world.lose(R)
    assert world.interceptor.undelivered
    for _ in range(10):
        world.carry_out(C)
        world.acknowledge_all(C)
        world.carry_in(C)
        world.act(held)
    assert world.received(raw, C) == world.sent(raw, R)
    assert world.received(reset, C) == world.sent(reset, R)
    assert world.received(held, C).ended
    assert status(world, early) == b"14"
    assert not world.interceptor.undelivered


def test_a_runtime_disconnects_with_a_local_reply_pending() -> None:
    """An answer in the runtime's place that waits for the client's windows is delivered too."""
    world = connected(client=((INITIAL_WINDOW_SIZE, 10),))
    called = made(world, Plan(script=RESPONSE, reply=Reply(Messages((1, 1)))))
    world.push(R, world.ends[R].streams[called.stream.number])
    world.push(R, world.ends[R].streams[called.stream.number], 6)
    world.carry()
    send(world, called, R, 100)
    answer(world, called)
    world.lose(R)
    for _ in range(20):
        world.carry_out(C)
        world.acknowledge_all(C)
        world.carry_in(C)
    assert world.received(called, C).data == wire.message(b"s" * 100)
    assert status(world, called) == b"7"
    assert not world.interceptor.undelivered


def test_a_client_disconnects() -> None:
    """When the client disconnects every handler is notified, and the budget is released."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    assert world.budget.streams == 1
    assert world.budget.bytes == SIZE + MESSAGE_OVERHEAD + _stream_size(called)
    world.lose(C)
    assert handler(called).gone
    assert (world.budget.streams, world.budget.bytes) == (0, 0)


# Limits


def _stream_size(called: Called) -> int:
    """Return the bytes that a held stream counts for beside its messages."""
    headers = called.stream.sent.headers[0]
    return STREAM_OVERHEAD + sum(len(a) + len(b) + HEADER_OVERHEAD for a, b in headers)


def test_a_message_over_the_limit() -> None:
    """A message that does not fit is answered with RESOURCE_EXHAUSTED as soon as its size is known,
    unless its handler decides otherwise."""
    world = connected(budget=HeldBytesBudget(stream_limit=1500))
    called = world.call(Plan(Messages((900, 900)), script=REQUEST))
    assert called is not None
    world.push(C, called.stream, 905 + 5)
    world.carry()
    assert handler(called).reported[1][0] == "message"
    assert handler(called).reported[2] == ("limit exceeded", C, "held_limit")
    assert status(world, called) == b"8"
    assert world.received(called, R).code == 8
    assert world.budget.bytes == 0


def test_the_limit_of_all_streams() -> None:
    """The streams of all connections share one limit."""
    budget = HeldBytesBudget()
    one, other = connected(budget=budget), connected(budget=budget)
    first = made(one, Plan(THOUSAND, script=REQUEST))
    budget.total_limit = 2 * _stream_size(first) + SIZE + MESSAGE_OVERHEAD + 500
    second = made(other, Plan(THOUSAND, script=REQUEST))
    assert handler(first).reported[-1] == ("ended", C, [])
    assert ("limit exceeded", C, "held_limit") in handler(second).reported
    assert status(other, second) == b"8"
    send(one, first, C, 10)
    assert budget.bytes == _stream_size(first)
    third = made(other, Plan(THOUSAND, script=REQUEST))
    assert handler(third).reported[-1] == ("ended", C, [])


def test_the_share_of_a_connection() -> None:
    """The streams of a connection share its part; others are not affected."""
    budget = HeldBytesBudget(connection_limit=10_000)
    one, other = connected(budget=budget), connected(budget=budget)
    calls = [made(one, Plan(THOUSAND, script=REQUEST)) for _ in range(4)]
    reported = [("limit exceeded", C, "held_limit") in handler(each).reported for each in calls]
    assert reported == sorted(reported)
    assert (reported[0], reported[-1]) == (False, True)
    assert handler(made(other, Plan(THOUSAND, script=REQUEST))).reported[-1] == ("ended", C, [])


def test_streams_without_a_byte() -> None:
    """A held stream counts with its headers, though it has no message."""
    world = connected(budget=HeldBytesBudget(connection_limit=7000))
    first, second, third = (made(world, Plan(THOUSAND, script=BOTH), whole=False) for _ in range(3))
    assert handler(second).reported == [("opened",)]
    assert handler(third).reported[:2] == [("opened",), ("limit exceeded", C, "held_limit")]
    assert status(world, third) == b"8"
    world.lose(C)
    assert handler(first).gone
    assert world.budget.bytes == 0


def test_a_message_that_does_not_end() -> None:
    """A message that takes longer than its time is answered, unless the handler decides."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST), whole=False)
    assert called.stream is not None
    world.push(C, called.stream, 500)
    world.carry()
    world.budget.tick(world.now + 59.0)
    assert handler(called).reported == [("opened",)]
    world.budget.tick(world.now + 61.0)
    world.carry()
    assert handler(called).reported[1] == ("limit exceeded", C, "held_time")
    assert status(world, called) == b"8"
    assert world.received(called, R).code == 8
    assert world.budget.bytes == 0


def test_messages_that_end() -> None:
    """The time is that of one message: one that ends and a handler that waits are not limited."""
    world = connected()
    whole = made(world, Plan(THOUSAND, script=REQUEST))
    several = made(world, Plan(Messages((900, 900, 900)), script=REQUEST), whole=False)
    assert several.stream is not None
    for part in (905, 100, 805):
        world.push(C, several.stream, part)
        world.carry()
        world.now += 40.0
        world.budget.tick(world.now)
    world.budget.tick(world.now + 3600.0)
    for called in (whole, several):
        assert all(each[0] in ("opened", "message", "ended") for each in handler(called).reported)


def test_a_handler_releases_a_message_over_the_limit() -> None:
    """A handler may release the direction instead, and then all of it is forwarded."""

    class PassingOn(Handler):
        def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
            self.stream.release(side)
            self.finished.add(side)

    world = connected(budget=HeldBytesBudget(stream_limit=500), handlers=PassingOn)
    called = made(world, Plan(THOUSAND, script=REQUEST))
    assert world.received(called, R) == world.sent(called, C)
    replied(world)
    assert world.received(called, C) == world.sent(called, R)
    assert world.budget.bytes == 0


def test_a_call_that_is_cut() -> None:
    """A call that is reset on both sides is closed for its handler."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=REQUEST))
    raw = made(world, Plan())
    for number in (called.stream.number, raw.stream.number):
        do(
            world,
            lambda number=number: world.interceptor.reset(number, ErrorCode.ENHANCE_YOUR_CALM),
        )
    for each in (called, raw):
        assert world.received(each, C).code == ErrorCode.ENHANCE_YOUR_CALM
        assert world.received(each, R).code == ErrorCode.CANCEL
    assert handler(called).gone


def test_trailers_from_before_a_smaller_header_table() -> None:
    """Trailers from before a table size reduction contain it when they are sent after."""
    world = connected()
    called = made(world, Plan(script=RESPONSE))
    replied(world)
    world.ends[C].settle((wire.HEADER_TABLE_SIZE, 0))
    world.carry()
    while world.act(called):
        world.carry()
    assert world.received(called, C) == world.sent(called, R)
    last = made(world, Plan())
    replied(world)
    assert world.received(last, C) == world.sent(last, R)


@pytest.mark.parametrize("begun", [0, 3])
def test_a_smaller_header_table_that_the_runtime_tells_of(begun: int) -> None:
    """After the runtime's own block has reduced the table, blocks are forwarded unchanged."""
    world = connected(client=((wire.HEADER_TABLE_SIZE, 100),))
    raw = made(world, Plan())
    world.push_all(R)
    world.carry_in(R, begun)
    held = made(world, Plan(script=REQUEST))
    world.carry()
    answer(world, held)
    forget(world)
    last = made(world, Plan())
    replied(world)
    assert world.received(raw, C) == world.sent(raw, R)
    assert world.received(last, C) == world.sent(last, R)
    queues = world.interceptor.queues
    assert queues is not None
    assert not queues[R].reencoding


# The start of interception, and errors


def test_frames_that_are_under_way() -> None:
    """A held call may begin at any point of the runtime's frames."""
    count = 0
    while True:
        world = connected()
        raw = made(world, Plan(reply=Reply(Messages((20,)))))
        runtime = world.ends[R]
        runtime.settle((INITIAL_WINDOW_SIZE, 50), (wire.MAX_FRAME_SIZE, 20_000))
        runtime.grant(None, 77)
        runtime.grant(runtime.streams[raw.stream.number], 7)
        runtime.ping(b"under wy")
        world.style = 4 | 2
        world.push_all(R)
        if count > len(runtime.out):
            break
        world.carry_in(R, count)
        held = world.call(Plan(Messages((10,)), script=REQUEST))
        assert held is not None
        world.push_all(C)
        world.carry_in(C)
        world.carry()
        world.check_windows()
        send(world, held, C, 100)
        assert len(world.received(held, R).data) == 50
        assert world.received(raw, C) == world.sent(raw, R)
        world.check_windows()
        count += 1


@pytest.mark.parametrize(
    "bad",
    [
        wire.frame(wire.RST_STREAM, 0, 1, b"\0\0\0"),
        wire.frame(wire.WINDOW_UPDATE, 0, 0, b"\0\0\1"),
        wire.frame(wire.WINDOW_UPDATE, 0, 1, b"\0\0\0\0\1"),
        wire.frame(wire.SETTINGS, 0, 0, b"\0\0\0\0\0"),
        wire.frame(wire.GOAWAY, 0, 0, b"\0\0\0\0"),
        wire.frame(wire.DATA, wire.PADDED, 1, b""),
        wire.frame(wire.DATA, 0, 1, bytes(16_385)),
    ],
)
@pytest.mark.parametrize("side", Side)
def test_frames_of_a_wrong_size(bad: bytes, side: Side) -> None:
    """A frame whose size is wrong ends the reading of a connection on which something is held."""
    world = connected()
    made(world, Plan(THOUSAND, script=REQUEST))
    with pytest.raises(FrameSizeError):
        world.interceptor.receive(side, bad, 0.0)


@pytest.mark.parametrize(
    "bad",
    [
        wire.frame(wire.DATA, wire.PADDED, 1, b"\5abcd"),
        wire.frame(wire.CONTINUATION, wire.END_HEADERS, 1, b""),
        wire.frame(wire.HEADERS, 0, 1, b"\x82") + wire.ping(),
        wire.frame(wire.HEADERS, 0, 1, b"\x82") + wire.frame(wire.HEADERS, 4, 1, b"\x82"),
        wire.frame(wire.HEADERS, 0, 1, b"\x82") + wire.frame(wire.CONTINUATION, 4, 3, b"\x82"),
    ],
)
@pytest.mark.parametrize("side", Side)
def test_frames_where_they_may_not_be(bad: bytes, side: Side) -> None:
    """Too much padding and a header block that is interrupted end the reading."""
    world = connected()
    made(world, Plan(THOUSAND, script=REQUEST))
    with pytest.raises(ProtocolError):
        world.interceptor.receive(side, bad, 0.0)


@pytest.mark.parametrize("size", [300, 40])
def test_released_data_waits_for_pending_output(size: int) -> None:
    """DATA of a released direction is sent behind output that waits for the windows."""
    world = connected(runtime=((INITIAL_WINDOW_SIZE, 100),))
    called = world.call(Plan(Messages((10, 500, 20)), script=REQUEST))
    assert called is not None
    world.push(C, called.stream, 15)
    world.carry()
    send(world, called, C, size)
    release(world, called, C)
    for style in (0, 7 | 30 << 3, 0, 7 | 200 << 3, 0):
        world.push(C, called.stream, 45, style)
        world.carry()
        world.check_windows()
    world.push_all(C)
    world.carry()
    while world.acknowledge_all(R):
        world.carry()
        world.push_all(C)
        world.carry()
        world.check_windows()
    got = world.received(called, R)
    assert got.data == wire.message(b"s" * size) + called.expected(C)[15:]
    assert got.ended
    for side in Side:
        world.ends[side].grant(None, 1)
    world.carry()
    assert world.ends[C].send_window == world.ends[R].receive_window


@pytest.mark.parametrize("spoke", [True, False])
def test_a_ping_after_both(spoke: bool) -> None:
    """A PING after own DATA is forwarded if the runtime has sent DATA since."""
    world = connected()
    held = made(world, Plan(script=RESPONSE))
    raw = made(world, Plan())
    replied(world)
    late = made(world, Plan(reply=Reply(Messages((10, 10)))))
    stream = world.ends[R].streams[late.stream.number]
    for _ in range(2):
        world.push(R, stream, 15)
    world.carry()
    world.ends[C].ping(b"before..")
    world.carry()
    send(world, held, R, 10)
    forget(world)
    if spoke:
        world.push(R, stream, 15)
    world.carry()
    world.ends[C].ping(b"behind..")
    world.carry()
    pings = [f.payload for f in world.written(R) if f.kind == wire.PING]
    assert pings == ([b"behind.."] if spoke else [])
    world.ends[C].ping(b"another.")
    world.carry()
    assert [f.payload for f in world.written(R) if f.kind == wire.PING] == [b"another."]
    assert world.received(raw, C) == world.sent(raw, R)


def test_padding_is_forwarded() -> None:
    """DATA of a call that is not held is forwarded unchanged, with padding, while another is."""
    world = connected()
    made(world, Plan(THOUSAND, script=REQUEST))
    raw = world.call(Plan(THOUSAND))
    assert raw is not None
    world.carry()
    forget(world)
    world.push(C, raw.stream, 500, 7 | 99 << 3)
    sent = bytes(world.ends[C].out)
    world.carry()
    assert bytes(world.passed[R]).endswith(sent)


def test_queued_data_loses_its_padding() -> None:
    """Queued DATA is sent without its padding, which is granted back."""
    world = connected()
    held = made(world, Plan(Messages((10,)), script=REQUEST))
    send(world, held, C, 60_000)
    raw = world.call(Plan(Messages((20_000,))))
    assert raw is not None
    while world.push(C, raw.stream, 3000, 7 | 99 << 3):
        world.carry()
        world.check_windows()
    world.acknowledge_all(R)
    world.carry()
    assert world.received(raw, R) == world.sent(raw, C)
    for side in Side:
        world.acknowledge_all(side)
        world.ends[side].grant(None, 1)
    world.carry()
    assert world.ends[C].send_window == world.ends[R].receive_window


def test_an_early_response_behind_queued_frames() -> None:
    """Trailers received before the request is released do not overtake queued frames."""
    world = connected()
    plan = Plan(Messages((5, 5)), script=BOTH, reply=Reply(Messages((10,)), early=True))
    called = made(world, plan, whole=False)
    stream = world.ends[R].streams[called.stream.number]
    for _ in range(2):
        world.push(R, stream)
    world.carry()
    send(world, called, R, 100_000)
    replied(world)
    end(world, called, R)
    while world.acknowledge_all(C):
        world.carry()
    assert world.received(called, C).data == wire.message(b"s" * 100_000)
    assert world.received(called, C).headers == world.sent(called, R).headers
    assert world.received(called, R).code == 8
    assert handler(called).gone


def test_released_data_waits_for_the_connection_window() -> None:
    """DATA that is passed on does not overtake its stream's where only the connection is full."""
    world = connected(runtime=((INITIAL_WINDOW_SIZE, 200_000),))
    called = world.call(Plan(Messages((10, 500)), script=REQUEST))
    assert called is not None
    world.push(C, called.stream, 15)
    world.carry()
    send(world, called, C, 100_000)
    release(world, called, C)
    world.push_all(C)
    world.carry()
    while world.acknowledge_all(R):
        world.carry()
    body = wire.message(b"s" * 100_000) + called.expected(C)[15:]
    assert world.received(called, R).data == body
    assert world.received(called, R).ended


def test_a_runtime_disconnects_with_only_raw_data_queued() -> None:
    """Queued frames of other calls are delivered before the client's connection ends."""
    world = connected(client=((INITIAL_WINDOW_SIZE, 200_000),))
    held = made(world, Plan(script=RESPONSE))
    replied(world)
    send(world, held, R, 60_000)
    end(world, held, R)
    assert handler(held).gone
    raw = made(world, Plan(reply=Reply(Messages((20_000,)))))
    replied(world)
    assert not world.received(raw, C).ended
    world.lose(R)
    assert world.interceptor.undelivered
    while world.acknowledge_all(C):
        world.carry()
    assert world.received(raw, C) == world.sent(raw, R)
    assert not world.interceptor.undelivered


# Detaching from a stream, and passing through while only window bytes are owed


LEAVING = Script(request=HELD, leaves=True, delayed=True)


def longer_and_left(world: World) -> Called:
    """A call whose request was sent longer than received, and whose handler has detached."""
    called = made(world, Plan(THOUSAND, script=LEAVING))
    send(world, called, C, 3000)
    end(world, called, C)
    do(world, handler(called).stream.detach)
    handler(called).left = handler(called).gone = True
    return called


def test_left_stream_is_raw_at_once() -> None:
    """Where no window update is owed, the connection of a call that was left is raw."""
    world = connected()
    called = made(world, Plan(THOUSAND, script=LEAVING))
    while world.command(handler(called).act):
        world.carry()
    assert handler(called).left
    assert world.is_raw
    replied(world)
    assert status(world, called) == b"0"


def test_owed_bytes_are_kept_from_the_sender_between_other_calls() -> None:
    """Unwanted calls pass through while window bytes are owed; their grant is kept."""
    world = connected()
    called = longer_and_left(world)
    assert world.interceptor.queues is not None
    owed = world.interceptor.queues[C].window.ledger
    assert owed == 2000
    replied(world)
    others = [made(world, Plan(THOUSAND)) for _ in range(3)]
    replied(world)
    assert world.interceptor.queues[C].window.ledger == owed
    world.check_windows()
    for each in (called, *others):
        assert status(world, each) == b"0"
    world.written(C)
    world.acknowledge_all(R)
    world.carry()
    assert granted(world.written(C), 0) == 4 * SIZE
    assert world.is_raw
    world.check_windows()


def test_header_tables_are_in_step_after_pass_through() -> None:
    """Blocks that passed through are in the tables with which the next held call is read."""
    world = connected()
    longer_and_left(world)
    for number in range(3):
        made(world, Plan(style=number))
        replied(world)
    called = made(world, Plan(THOUSAND, script=BOTH))
    send(world, called, C, 7)
    end(world, called, C)
    replied(world)
    send(world, called, R, 9)
    end(world, called, R)
    assert status(world, called) == b"0"
    assert handler(called).gone
    world.check_windows()


def test_a_runtime_disconnects_after_pass_through() -> None:
    """The GOAWAY after a runtime's end does not exclude a call that passed through."""
    world = connected()
    first = longer_and_left(world)
    held = made(world, Plan(THOUSAND, script=RESPONSE))
    replied(world)
    do(world, lambda: None)
    assert first.stream.number < held.stream.number
    later = made(world, Plan(THOUSAND))
    world.written(C)
    world.lose(R)
    world.carry()
    (goaway,) = [frame for frame in world.written(C) if frame.kind == wire.GOAWAY]
    assert int.from_bytes(goaway.payload[:4], "big") >= later.stream.number

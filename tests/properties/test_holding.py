"""Held streams among others: for every schedule, each call gets its script's action.

Strict ends check flow control and the order of frames while the schedule runs;
when it has ended and every window is open again, all calls have to be complete.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from criproxy.wire.grpc import StatusCode, parse_message
from criproxy.wire.hpack.decoder import Decoder
from criproxy.wire.intercept.path_scanner import path_of
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.cutting import cuts
from tests.support.endpoints import INITIAL_WINDOW_SIZE, Direction
from tests.support.worlds import (
    ANSWER_TEXT,
    DROPPED,
    SAME,
    Answer,
    Called,
    Change,
    Messages,
    Part,
    Plan,
    Reply,
    Script,
    Sized,
    World,
)

C, R = Side.CLIENT, Side.RUNTIME

SIZES = st.sampled_from((0, 1, 5, 7, 100, 1000, 8_192, 16_380, 30_000, 66_000, 200 << 10))
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.just(SAME), st.just(DROPPED), st.builds(Sized, SIZES)
)
PARTS = st.builds(
    Part,
    st.booleans(),
    st.lists(CHANGES, min_size=1, max_size=3).map(tuple),
    st.sampled_from((None, None, 0, 1, 2)),
)
ANSWERS = st.builds(
    Answer,
    st.sampled_from(Side),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from((StatusCode.PERMISSION_DENIED, StatusCode.OK)),
)
METADATA = st.sampled_from(((), ((b"x-added", b"a" * 10),), ((b"x-1", b"b"), (b"x-2", b"c" * 300))))
SCRIPTS = st.builds(
    Script,
    PARTS,
    PARTS,
    st.one_of(st.none(), st.none(), ANSWERS),
    METADATA,
    st.booleans(),
    st.sampled_from((False, False, False, True)),
    st.booleans(),
).filter(lambda script: script.request.held or script.response.held)
MESSAGES = st.builds(Messages, st.lists(SIZES, max_size=3).map(tuple), st.booleans())
REPLIES = st.builds(
    Reply,
    MESSAGES,
    st.sampled_from((False, False, True)),
    st.sampled_from((False, False, True)),
    st.sampled_from((False, False, False, True)),
    st.sampled_from((None, None, None, 0, 8, 2)),
    st.sampled_from((StatusCode.OK, StatusCode.NOT_FOUND)),
    st.sampled_from((0, 0, 1, 3)),
)
PLANS = st.builds(
    Plan, MESSAGES, REPLIES, st.one_of(st.none(), SCRIPTS, SCRIPTS), st.integers(0, 255)
)


class Step:
    """An action on a world, shown in a falsifying example."""

    def __init__(self, build: Callable[..., Callable[[World], object]], *arguments: object) -> None:
        self._build = build
        self._arguments = arguments

    @property
    def name(self) -> str:
        return self._build.__name__

    def __call__(self, world: World) -> None:
        self._build(*self._arguments)(world)

    def __repr__(self) -> str:
        return f"Step({self._build.__name__}, {', '.join(map(repr, self._arguments))})"


Doing = Callable[[World], object]
AMOUNTS = st.sampled_from((1, 9, 50, 1000, 10_000, 100_000, 1 << 30))
NUMBERS = st.integers(0, 5)  # which of the newest calls
WINDOWS = st.sampled_from((0, 1, 100, 5_000, 65_535, 200_000))


def on_a_stream(world: World, side: Side, number: int) -> Called | None:
    """One of the newest calls that ``side`` knows of."""
    known = [called for called in world.calls if called.stream.number in world.ends[side].streams]
    return known[-1 - number % len(known)] if known else None


def call(plan: Plan) -> Doing:
    return lambda world: world.call(plan)


def push(side: Side, number: int, most: int, style: int) -> Doing:
    def step(world: World) -> None:
        if called := on_a_stream(world, side, number):
            world.push(side, world.ends[side].streams[called.stream.number], most, style)

    return step


def push_all(side: Side) -> Doing:
    return lambda world: world.push_all(side)


def carry_in(side: Side, most: int) -> Doing:
    return lambda world: world.carry_in(side, most)


def carry_out(side: Side, most: int) -> Doing:
    return lambda world: world.carry_out(side, most)


def carry() -> Doing:
    return lambda world: world.carry()


def acknowledge(side: Side, number: int, most: int) -> Doing:
    def step(world: World) -> None:
        called = on_a_stream(world, side, number) if number else None
        end = world.ends[side]
        end.acknowledge(end.streams[called.stream.number] if called else None, most)

    return step


def acknowledge_all(side: Side) -> Doing:
    return lambda world: world.acknowledge_all(side)


def act(number: int) -> Doing:
    def step(world: World) -> None:
        if world.calls:
            world.act(world.calls[-1 - number % len(world.calls)])

    return step


def reset(side: Side, number: int, code: int) -> Doing:
    def step(world: World) -> None:
        if called := on_a_stream(world, side, number):
            world.ends[side].reset(world.ends[side].streams[called.stream.number], code)

    return step


def empty(side: Side, number: int) -> Doing:
    def step(world: World) -> None:
        if called := on_a_stream(world, side, number):
            world.ends[side].nothing(world.ends[side].streams[called.stream.number])

    return step


def resize(side: Side, key: int, value: int) -> Doing:
    return lambda world: world.ends[side].settle((key, value))


def other_frame(side: Side, number: int) -> Doing:
    def step(world: World) -> None:
        if number % 2:
            world.ends[side].ping(b"%08d" % number)
        else:
            world.ends[side].priority(2 * number + 1)

    return step


def go_away(number: int) -> Doing:
    def step(world: World) -> None:
        if called := on_a_stream(world, R, number):
            world.ends[R].go_away(called.stream.number)

    return step


def wait(seconds: float) -> Doing:
    def step(world: World) -> None:
        world.carry()  # bytes in transit do not take as long
        world.now += seconds

    return step


def intercept() -> Doing:
    return lambda world: world.intercept()


def rule(there: bool) -> Doing:
    def step(world: World) -> None:
        world.rules = there

    return step


def shown(build: Callable[..., Doing], *strategies: st.SearchStrategy[Any]) -> Any:
    return st.builds(Step, st.just(build), *strategies)


SIDES = st.sampled_from(Side)
Field = tuple[bytes, bytes, bool]
FIELDS = st.tuples(
    st.sampled_from((b":path", b"x-a", b"x-b", b"a" * 70)),
    st.sampled_from((b"", b"/", b"/s/1", b"/s/2", b"v" * 50, b"w" * 3000)),
    st.booleans(),
)
USUAL = st.one_of(
    shown(call, PLANS),
    shown(call, PLANS),
    shown(push, SIDES, NUMBERS, AMOUNTS, st.integers(0, 2047)),
    shown(push_all, SIDES),
    shown(push_all, SIDES),
    shown(carry_in, SIDES, AMOUNTS),
    shown(carry_out, SIDES, AMOUNTS),
    shown(carry),
    shown(carry),
    shown(act, NUMBERS),
    shown(acknowledge, SIDES, NUMBERS, AMOUNTS),
    shown(acknowledge_all, SIDES),
)
UNUSUAL = st.one_of(
    shown(reset, SIDES, NUMBERS, st.sampled_from((0, 8, 7))),
    shown(empty, SIDES, NUMBERS),
    shown(resize, SIDES, st.just(INITIAL_WINDOW_SIZE), WINDOWS),
    shown(resize, SIDES, st.just(wire.HEADER_TABLE_SIZE), st.sampled_from((0, 100, 4096, 9000))),
    shown(resize, SIDES, st.just(wire.MAX_FRAME_SIZE), st.sampled_from((16_384, 70_000))),
    shown(other_frame, SIDES, NUMBERS),
    shown(rule, st.booleans()),
    shown(wait, st.just(40.0)),
    shown(intercept),
)
SOME_STEPS = st.lists(st.one_of(USUAL, USUAL, USUAL, UNUSUAL), max_size=12)
STEPS = st.lists(SOME_STEPS, min_size=1, max_size=8).map(lambda parts: list(chain(*parts)))
FIRST = st.one_of(
    st.just(()),
    st.tuples(st.tuples(st.just(INITIAL_WINDOW_SIZE), WINDOWS)),
    st.just(((5, 40_000),)),
)
RARELY = st.sampled_from((False, False, False, True))
WORLDS = st.builds(World, pings=st.booleans(), cut=cuts(), client=FIRST, runtime=FIRST, late=RARELY)


def complete(world: World) -> None:
    """Open all windows, let every handler finish, and reset the calls of those that hang."""
    world.intercept()
    for side in Side:
        world.ends[side].settle((INITIAL_WINDOW_SIZE, 65_535))
    world.settle()
    for called in world.calls:
        if not called.stream.closed:
            assert called.handler is not None, f"stream {called.stream.number} never ended"
            assert called.handler.script.hangs, f"stream {called.stream.number} never ended"
            world.ends[C].reset(called.stream, 8)
    world.settle()


def delivered(world: World) -> None:
    """Deliver the complete responses of a runtime that has disconnected."""
    for _ in range(5000):
        if not (world.act_all() | world.carry_out(C) | world.acknowledge_all(C)):
            return
        world.carry_in(C)
    raise AssertionError("nothing ends")


def at_rest(world: World) -> None:
    """Check that the interceptor holds nothing, and that both ends see the same windows."""
    for side in Side:
        world.ends[side].grant(
            None, 1
        )  # bytes owed and too few for an own frame are granted with it
    world.settle()
    for side in Side:
        end, peer = world.ends[side], world.ends[Side(1 - side)]
        assert peer.send_window == end.receive_window, f"the window of {side.name}'s connection"
        assert end.quiescent
        for stream in end.streams.values():
            assert stream.closed, f"stream {stream.number} is open for {side.name}"
    world.now += 100.0  # late frames are not expected any more
    for side in Side:
        world.ends[side].ping(b"at rest?")
    world.settle()
    assert not world.interceptor.held
    assert not world.interceptor.undelivered
    queues = world.interceptor.queues
    assert queues is None or any(queue.reencoding for queue in queues), "not raw again"
    assert (world.budget.streams, world.budget.bytes) == (0, 0)


def check(world: World) -> None:
    for called in world.calls:
        if called.handler is None:
            assert world.received(called, R) == world.sent(called, C)
            assert world.received(called, C) == world.sent(called, R)
        else:
            check_request(world, called)
            check_response(world, called)


def check_request(world: World, called: Called) -> None:
    """Check what the runtime received of a held stream against its script."""
    handler, got, sent = called.handler, world.received(called, R), world.sent(called, C)
    assert handler is not None
    assert got.headers == [[*sent.headers[0], *handler.script.metadata]]
    body = called.expected(C)
    assert body.startswith(got.data), f"the body of request {called.stream.number}"
    if got.ended:
        assert got.data == body
        assert sent.ended
    if got.code is None and world.sent(called, R).code is None and not called.stream.refused:
        assert got.ended


def answered_here(got: Direction, called: Called) -> bool:
    assert called.handler is not None
    answer = called.handler.script.answer
    if not got.ended or not called.handler.answered or answer is None:
        return False
    trailers = dict(got.headers[-1])
    return (
        trailers.get(b"grpc-status") == b"%d" % answer.code
        and parse_message(trailers.get(b"grpc-message", b"")) == ANSWER_TEXT
    )


def check_response(world: World, called: Called) -> None:
    """Check what the client received of a held stream against its script, or why it did not."""
    handler, got, sent = called.handler, world.received(called, C), world.sent(called, R)
    assert handler is not None
    assert handler.gone, "the handler was not notified of the end"
    body = called.expected(R)
    assert body.startswith(got.data), f"the body of response {called.stream.number}"
    if answered_here(got, called):
        request = world.received(called, R)
        assert request.code == 8 or (request.ended and sent.over) or sent.code is not None
        if handler.script.response.held and R not in handler.finished:
            assert got.data == handler.sent[R]
        return
    assert got.headers == sent.headers[: len(got.headers)]
    if got.ended:
        assert got.data == body
        assert got.headers == sent.headers
        assert sent.ended
    elif got.code is not None:
        assert got.code == sent.code
    else:
        assert called.stream.sent.code is not None or called.stream.refused
    if handler.in_time and not got.ended:
        assert called.stream.reset or called.stream.refused
    elif handler.in_time and handler.script.response.held:
        assert R in handler.finished, "an answer that the client never got"


def run(world: World, steps: list[Step]) -> None:
    for step in steps:
        step(world)
        world.check_windows()
    complete(world)
    at_rest(world)
    check(world)
    if world.ends[C].going is None:
        assert not world.ends[R].strikes, "pings that a runtime takes for too many"


@settings(max_examples=4 * settings().max_examples)
@given(WORLDS, STEPS)
def test_every_call_gets_its_action(world: World, steps: list[Step]) -> None:
    """For every schedule, held calls get their action and the others what was sent."""
    run(world, steps)


@given(WORLDS, STEPS, NUMBERS, STEPS)
def test_a_runtime_that_is_going(
    world: World, before: list[Step], number: int, after: list[Step]
) -> None:
    """A GOAWAY in the midst ends the calls that it leaves out, and no other."""
    run(world, [*before, Step(go_away, number), *after])


@given(st.lists(PLANS, min_size=1, max_size=8), cuts())
def test_calls_side_by_side(plans: list[Plan], cut: wire.Cut) -> None:
    """Calls that are all made at once are complete, however their bytes are cut."""
    world = World(pings=True, cut=cut)
    run(world, [Step(call, plan) for plan in plans])


@given(WORLDS, STEPS, SIDES)
def test_a_connection_that_ends(world: World, steps: list[Step], side: Side) -> None:
    """When a side disconnects nothing stays held but complete responses."""
    for step in [*steps, Step(intercept)]:
        step(world)
    world.intercept()
    finished = [called for called in world.calls if world.sent(called, R).ended]
    world.carry_in(R)
    if not world.is_intercepted:  # in the midst of a frame's head
        return
    world.lose(side)
    if side is R and world.interceptor.undelivered:
        delivered(world)
        for called in world.calls:
            if called.handler is None or not called.handler.script.hangs:
                assert called.stream.closed or called.stream.received.over
        if not world.interceptor.held:
            assert not world.interceptor.undelivered
    world.carry_out(C)
    for called in finished if side is R else []:
        if called.handler is None:
            assert world.received(called, C) == world.sent(called, R)
        elif not called.handler.script.hangs:
            check_response(world, called)
    world.lose(C)
    assert all(called.handler.gone for called in world.calls if called.handler is not None)
    assert (world.budget.streams, world.budget.bytes) == (0, 0)


@given(WORLDS, STEPS)
def test_nothing_wanted_is_nothing_changed(world: World, steps: list[Step]) -> None:
    """Where no rule speaks of a call the bytes are the same, and at once but for headers' ends."""
    unruled = [step for step in steps if step.name != "rule"]
    world.rules = False
    for step in unruled:
        step(world)
        requests, responses = world.given[C], world.given[R]
        assert responses.startswith(world.passed[C])
        assert requests.startswith(world.passed[R])
        rest = requests[len(world.passed[R]) :]
        whole = len(rest) >= 9 and len(rest) >= 9 + int.from_bytes(rest[:3], "big")
        assert not whole or rest[3] in (wire.HEADERS, wire.CONTINUATION)
        if world.is_raw:
            assert responses == world.passed[C]
    world.carry()
    assert world.given[C] == world.passed[R]
    assert world.given[R] == world.passed[C]


@given(st.lists(st.lists(FIELDS, min_size=1, max_size=12), max_size=8), st.data())
def test_the_path_of_blocks_ahead(blocks: list[list[Field]], data: st.DataObject) -> None:
    """The path that is found before decoding is the decoded one."""
    encoder, decoder = hpack.Encoder(), Decoder()
    ahead: list[bytes] = []
    inserted: list[wire.Header] = []
    for fields in blocks:
        block = encoder.encode(fields, huffman=data.draw(st.booleans()))
        path = decoder.find_path(block, inserted)
        assert path == path_of([(name, value) for name, value, _ in fields])
        ahead.append(block)
        if data.draw(st.booleans()):
            for each in ahead:
                decoder.decode(each)
            ahead, inserted = [], []

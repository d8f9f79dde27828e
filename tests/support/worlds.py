"""Two strict ends with a ConnectionInterceptor between them, and handlers that follow a script.

A :class:`World` moves only on command: an end's bytes stay in a pipe until they are carried
on. So a test decides how bytes are cut, what crosses what, and when a handler gets to act.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import hpack

from criproxy.wire.grpc import StatusCode
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.intercept.interceptor import ConnectionInterceptor
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallBegan, ConnectionReader, Side
from criproxy.wire.reading.message_capture import SelectCapture
from tests.support import wire
from tests.support.endpoints import Block, Direction, End, Endpoint, Outgoing, Stream
from tests.support.wire import Cut, Header, whole

C, R = Side.CLIENT, Side.RUNTIME
Settings = tuple[tuple[int, int], ...]
ANSWER_TEXT = "not through here: „µ“ 100%"
_CUT = 2_000  # bytes that are cut into chunks of what is carried at once; the rest is one chunk
_MOST_ROUNDS = 5_000  # until something is wrong
T = TypeVar("T")


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(data: bytes) -> Iterator[Frame]:
    """Yield the frames of ``data``; fails if the last is incomplete."""
    position = 0
    while position < len(data):
        end = position + 9 + int.from_bytes(data[position : position + 3], "big")
        assert end <= len(data), "an unfinished frame"
        stream = int.from_bytes(data[position + 5 : position + 9], "big")
        yield Frame(data[position + 3], data[position + 4], stream, data[position + 9 : end])
        position = end


class Same(NamedTuple):
    """A message is forwarded unchanged."""


class Dropped(NamedTuple):
    """A message is dropped."""


class Sized(NamedTuple):
    """A message is replaced by one of ``size`` bytes."""

    size: int


Change = Same | Dropped | Sized
SAME, DROPPED = Same(), Dropped()


class Part(NamedTuple):
    """A handler's actions on one direction: ``changes`` apply to its messages in rotation."""

    held: bool = False
    changes: tuple[Change, ...] = (SAME,)
    passes_after: int | None = None
    """The direction is released after so many messages."""

    def changed(self, number: int, payload: bytes, compressed: bool) -> tuple[bytes, bool] | None:
        """Return the message sent in place of one; None if it is dropped."""
        if not self.held or (self.passes_after is not None and number >= self.passes_after):
            return payload, compressed
        change = self.changes[number % len(self.changes)]
        if isinstance(change, Dropped):
            return None
        if isinstance(change, Sized):
            return bytes((number & 0xFF | 1,)) * change.size, False
        return payload, compressed


class Answer(NamedTuple):
    """The time of a handler's answer: after a number of messages of a side, or at their end."""

    side: Side
    after: int = 0
    at_end: bool = False
    code: StatusCode = StatusCode.PERMISSION_DENIED


class Script(NamedTuple):
    """A handler's actions. ``delayed``: on :meth:`World.act` only. ``hangs``: it never acts.

    ``leaves``: it detaches from the stream when it has released all that was held.
    """

    request: Part = Part()
    response: Part = Part()
    answer: Answer | None = None
    metadata: tuple[Header, ...] = ()
    delayed: bool = False
    hangs: bool = False
    leaves: bool = False

    def part(self, side: Side) -> Part:
        return self.request if side is C else self.response


class Handler:
    """Acts on a held stream as its script says, and records its events and what it sent."""

    def __init__(self, script: Script, stream: HeldStream) -> None:
        self.script = script
        self.stream = stream
        self.reported: list[tuple[object, ...]] = []
        self.sent = {side: bytearray() for side in Side}
        self.answered = self.in_time = self.gone = self.left = False
        self.finished: set[Side] = set()
        self._open = False
        self._given: dict[Side, deque[tuple[bytes, bool]]] = {side: deque() for side in Side}
        self._done = dict.fromkeys(Side, 0)
        self._ended: set[Side] = set()

    def hold(self) -> Hold:
        script = self.script
        return Hold(self, script.request.held, script.response.held, list(script.metadata))

    # Events.

    def opened(self) -> None:
        assert not self._open, "opened twice"
        self._open = True
        self._record("opened")

    def message(self, side: Side, payload: bytes, compressed: bool) -> None:
        assert self.script.part(side).held, "a message of a direction that is not held"
        assert side not in self._ended, "a message behind the end"
        assert side not in self.finished, "a message of a direction that was passed on"
        assert type(payload) is bytes
        self._given[side].append((payload, compressed))
        self._record("message", side, payload, compressed)

    def ended(self, side: Side, trailers: list[Header]) -> None:
        assert self.script.part(side).held, "the end of a direction that is not held"
        assert side not in self._ended, "ended twice"
        assert side not in self.finished, "the end of a direction that was passed on"
        self._ended.add(side)
        self._record("ended", side, trailers)

    def limit_exceeded(self, side: Side, reason: str, detail: str) -> None:
        self._record("limit exceeded", side, reason)

    def closed(self) -> None:
        assert not self.left, "closed after it has detached"
        assert not self.gone, "closed twice"
        self.gone = True
        self.reported.append(("closed",))

    def _record(self, *event: object) -> None:
        assert self._open, f"{event} before opened"
        assert not self.gone, f"{event} after closed"
        self.reported.append(event)
        if not self.script.delayed and not self.script.hangs:
            while self.act():
                pass

    # Actions.

    def act(self) -> bool:
        """Do the next action, also after the stream is closed; return False if there is none."""
        if not self._open or self.answered or self.script.hangs:
            return False
        answer = self.script.answer
        if answer is not None and self._is_due(answer):
            self.answered = True
            self.in_time = not self.gone
            self.stream.reply(answer.code, ANSWER_TEXT)
            return True
        return any(self._act_on(side) for side in Side) or self._leave()

    def _leave(self) -> bool:
        held = {side for side in Side if self.script.part(side).held}
        if not self.script.leaves or self.gone or not held <= self.finished:
            return False
        self.left = self.gone = True
        self.stream.detach()
        return True

    def _is_due(self, answer: Answer) -> bool:
        if answer.at_end:
            return answer.side in self._ended
        return self._done[answer.side] >= answer.after

    def _act_on(self, side: Side) -> bool:
        part = self.script.part(side)
        if not part.held or side in self.finished:
            return False
        given = self._given[side]
        if part.passes_after is not None and self._done[side] >= part.passes_after:
            while given:
                self._handle(side)
            self.finished.add(side)
            self.stream.release(side)
        elif given:
            self._handle(side)
        elif side in self._ended:
            self.finished.add(side)
            self.stream.end(side)
        else:
            return False
        return True

    def _handle(self, side: Side) -> None:
        payload, compressed = self._given[side].popleft()
        changed = self.script.part(side).changed(self._done[side], payload, compressed)
        self._done[side] += 1
        if changed is None:
            self.stream.drop(side)
            return
        payload, compressed = changed
        if not self.gone:
            self.sent[side] += wire.message(payload, compressed=compressed)
        self.stream.send(side, payload, compressed)


class Messages(NamedTuple):
    """The messages that one side of a call sends. ``joined``: its last DATA carries END_STREAM."""

    sizes: tuple[int, ...] = (1,)
    joined: bool = True

    def payloads(self, seed: int) -> list[tuple[bytes, bool]]:
        return [
            (bytes(((seed + number) & 0x7F,)) * size, (seed + number) % 5 == 4)
            for number, size in enumerate(self.sizes)
        ]


class Reply(NamedTuple):
    """The runtime's answer: at the request's end or its headers; with trailers or a reset.

    ``informational``: responses of status 1xx that come first.
    """

    messages: Messages = Messages()
    early: bool = False
    trailers_only: bool = False
    without_trailers: bool = False
    resets: int | None = None
    code: StatusCode = StatusCode.OK
    informational: int = 0


class Plan(NamedTuple):
    """The plan of a call."""

    request: Messages = Messages()
    reply: Reply = Reply()
    script: Script | None = None
    style: int = 0


class Called:
    """A call that was made."""

    def __init__(self, index: int, plan: Plan) -> None:
        self.index = index
        self.plan = plan
        self.handler: Handler | None = None
        self.stream: Stream
        """The client's."""
        self.replied = False

    def messages(self, side: Side) -> list[tuple[bytes, bool]]:
        """Return the messages that a side sends if the call is not ended before."""
        if side is C:
            return self.plan.request.payloads(self.index)
        if self.plan.reply.trailers_only:
            return []
        return self.plan.reply.messages.payloads(self.index + 64)

    def expected(self, side: Side) -> bytes:
        """Return the body that the other side receives of what a side sends."""
        part = Part() if self.handler is None else self.handler.script.part(side)
        changed = [part.changed(at, *each) for at, each in enumerate(self.messages(side))]
        return b"".join(wire.message(each[0], compressed=each[1]) for each in changed if each)


class World:
    """Both ends, the interceptor and the four pipes in between."""

    def __init__(
        self,
        *,
        pings: bool = False,
        cut: Cut = whole,
        budget: HeldBytesBudget | None = None,
        client: Settings = (),
        runtime: Settings = (),
        late: bool = False,
        handlers: type[Handler] = Handler,
        select_capture: SelectCapture | None = None,
    ) -> None:
        """``client`` and ``runtime`` are their first SETTINGS.

        ``late``: all passes as it is until :meth:`intercept` is called.
        """
        self.budget = budget or HeldBytesBudget()
        self.reader = ConnectionReader(select_capture=select_capture)
        self.observed: dict[int, Call] = {}
        """The calls that the reader has reported, by stream."""
        self.intercepted = not late
        self._interceptor: ConnectionInterceptor | None = None
        self.ends = {C: Endpoint(C, pings=pings), R: Endpoint(R)}
        self.pipes = {side: bytearray() for side in Side}
        """Bytes that the interceptor has written to each side, not carried to it yet."""
        self.given = {side: bytearray() for side in Side}
        """All bytes of a side that the interceptor has received."""
        self.passed = {side: bytearray() for side in Side}
        """All bytes that were written to a side."""
        self.calls: list[Called] = []
        self.rules = True
        self.now = 0.0
        self.style = 0
        self._cut = cut
        self._may_stop_reading = False
        self._handlers = handlers
        self._written = {side: bytearray() for side in Side}
        self._output_ready = False
        self._gone: set[Side] = set()
        self._by_stream: dict[int, Called] = {}
        self.ends[R].on_headers = self._request_began
        self.ends[R].on_end = self._request_ended
        self.ends[C].settle(*client)
        self.ends[R].settle(*runtime)
        self.intercept(self.intercepted)

    # The interceptor.

    def _called(self, path: bytes) -> Called:
        return self.calls[int(path.rpartition(b"/")[2])]

    def _wanted(self, path: bytes) -> bool:
        return self.rules and self._called(path).plan.script is not None

    def _decide(self, stream: HeldStream) -> Hold | None:
        called = self._called(stream.path)
        assert stream.headers == called.stream.sent.headers[0]
        assert stream.id == called.stream.number
        assert called.handler is None
        script = called.plan.script
        if script is None or not self.rules:
            return None
        called.handler = self._handlers(script, stream)
        return called.handler.hold()

    def _signal_output(self) -> None:
        self._output_ready = True

    @property
    def interceptor(self) -> ConnectionInterceptor:
        assert self._interceptor is not None
        return self._interceptor

    @property
    def is_intercepted(self) -> bool:
        return self._interceptor is not None

    @property
    def is_raw(self) -> bool:
        return self._interceptor is None or self._interceptor.raw

    def intercept(self, now: bool = True) -> None:
        """Install the interceptor as soon as the client's bytes are at a frame boundary."""
        self.intercepted = self.intercepted or now
        known = self.reader.not_started or self.reader.to_boundary(C) is not None
        if self.intercepted and self._interceptor is None and known:
            self._interceptor = ConnectionInterceptor(
                self.reader, self._wanted, self._decide, self._signal_output, self.budget
            )

    def receive(self, side: Side, data: bytes) -> None:
        """Give the interceptor bytes of an end, as the relay does."""
        self.given[side] += data
        self.intercept(False)
        if self.is_raw:
            passed, data = data, b""
            if side is C and self._interceptor is not None:
                passed, data = self._interceptor.scan(passed)
            self._observe(side, passed)
            self._write(Side(1 - side), passed)
            if not data:
                return
            self.interceptor.start()
        elif self.interceptor.try_pass_through(side, data):
            self._observe(side, data)
            self._write(Side(1 - side), data)
            return
        if side is C:
            self._observe(C, data)
        self.interceptor.receive(side, data, self.now)
        self._take()

    def _observe(self, side: Side, data: bytes) -> None:
        for event in self.reader.receive(side, data, self.now):
            if isinstance(event, CallBegan):
                self.observed[event.call.stream] = event.call

    def lose(self, side: Side) -> None:
        """End a side's connection; bytes already written to the other side are still carried."""
        self._gone.add(side)
        calls = self.reader.calls
        unanswered = [(call.stream, bool(call.http_status)) for call in calls]
        self.interceptor.end(side, unanswered, self.now)
        self._take()

    def _take(self) -> bool:
        if self._interceptor is None:
            return False
        to_client, to_runtime = self.interceptor.take(C), self.interceptor.take(R)
        self._observe(R, to_client)
        assert self.reader.reading or self._may_stop_reading
        self._write(C, to_client)
        self._write(R, to_runtime)
        return bool(to_client or to_runtime)

    def _write(self, side: Side, data: bytes) -> None:
        self.pipes[side] += data
        self.passed[side] += data
        self._written[side] += data

    def written(self, side: Side) -> list[Frame]:
        """Return the frames written to a side since the last call."""
        data = bytes(self._written[side]).removeprefix(wire.PREFACE)
        self._written[side].clear()
        return list(frames(data))

    def carry_in(self, side: Side, most: int = 1 << 30) -> bool:
        """Carry what an end has sent, or the first ``most`` bytes, to the interceptor."""
        out = self.ends[side].out
        data = b"" if side in self._gone else bytes(out[:most])
        del out[:most]
        rest = [data[_CUT:]] if len(data) > _CUT else []
        for piece in (*self._cut(data[:_CUT]), *rest):
            self.receive(side, piece)
        return bool(data)

    def carry_out(self, side: Side, most: int = 1 << 30) -> bool:
        """Carry what the interceptor has written, or the first ``most`` bytes, to an end."""
        pipe = self.pipes[side]
        data = bytes(pipe[:most])
        del pipe[:most]
        self.ends[side].receive(data)
        return bool(data)

    def carry(self) -> bool:
        """Carry bytes until none are left; return whether there were any."""
        for count in range(_MOST_ROUNDS):
            ins = [self.carry_in(side) for side in Side]
            outs = [self.carry_out(side) for side in Side]
            if not any(ins + outs):
                return count > 0
        raise AssertionError("the two never stop talking")

    def command(self, do: Callable[[], T]) -> T:
        """Execute a command on held streams; check that its output is announced."""
        self._output_ready = False
        done = do()
        written = self._take()
        assert self._output_ready or not written, "output that was not announced"
        return done

    def act(self, called: Called) -> bool:
        """Have a handler do its next action."""
        return called.handler is not None and self.command(called.handler.act)

    def act_all(self) -> bool:
        """Have the first handler that has an action do it."""
        return any(self.act(called) for called in self.calls)

    def check_windows(self) -> None:
        """Check the interceptor's windows against those of the ends."""
        queues = None if self._interceptor is None else self._interceptor.queues
        for side, queue in zip(Side, queues or (), strict=False):
            window, end = queue.window, self.ends[side]
            assert window.window >= 0
            seen = window.window + window.ledger - queue.queued
            if not end.out and not self.pipes[side]:
                assert end.send_window == seen, f"what {side.name} may send"
            receiver = self.ends[Side(1 - side)]
            if not receiver.out and not self.pipes[1 - side]:
                assert receiver.receive_window == window.window, f"what {side.name}'s peer takes"

    # The ends.

    def call(self, plan: Plan) -> Called | None:
        """Make a call, unless the runtime has sent GOAWAY."""
        client = self.ends[C]
        if client.going is not None:
            return None
        called = Called(len(self.calls), plan)
        self.calls.append(called)
        fields = wire.request_fields(b"/s/%d" % called.index, b"%dS" % (called.index % 7 + 100))
        fields.append((b"x-%d" % (called.index % 3), b"v" * (called.index % 5) * 300))
        empty = not plan.request.sizes and plan.request.joined
        called.stream = stream = client.open(fields, end=empty, style=plan.style)
        if not empty:
            stream.outgoing += outgoing(called.messages(C), [End(plan.request.joined)])
        self._by_stream[stream.number] = called
        return called

    def _request_began(self, stream: Stream) -> None:
        called = self._by_stream[stream.number]
        if called.plan.reply.early:
            self._reply(stream, called)

    def _request_ended(self, stream: Stream) -> None:
        called = self._by_stream[stream.number]
        if not called.replied and not stream.refused and not stream.reset:
            self._reply(stream, called)

    def _reply(self, stream: Stream, called: Called) -> None:
        called.replied = True
        reply = called.plan.reply
        code = [(b"grpc-status", b"%d" % reply.code), (b"x-%d" % (called.index % 2), b"t")]
        first = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        first.append((b"x-%d" % (called.index % 3), b"r" * (called.index % 4) * 100))
        for number in range(reply.informational):
            early = [(b":status", b"%d" % (100 + number)), (b"grpc-status", b"13")]
            early.append((b"x-%d" % (called.index % 2), b"e" * (number % 3)))
            stream.outgoing.append(Block(early))
        if reply.trailers_only:
            stream.outgoing += [Block(first + code, True)]
            return
        last: Outgoing = Block(code, True)
        if reply.without_trailers:
            last = End(reply.messages.joined)
        rest = [] if reply.resets is not None else [last]
        stream.outgoing += [Block(first), *outgoing(called.messages(R), rest)]

    def push(self, side: Side, stream: Stream, most: int = 1 << 30, style: int = 0) -> bool:
        """Have an end send the next frame of a stream; the runtime's reset follows its last."""
        end = self.ends[side]
        pushed = end.push(stream, most, style)
        if side is R and not stream.outgoing and not stream.closed:
            called = self._by_stream[stream.number]
            if called.replied and called.plan.reply.resets is not None:
                end.reset(stream, called.plan.reply.resets)
                return True
        return pushed

    def push_all(self, side: Side) -> bool:
        """Have an end send all that it may."""
        pushed = False
        for stream in self.ends[side].streams.values():
            while self.push(side, stream, style=self.style):
                pushed = True
        return pushed

    def acknowledge_all(self, side: Side, most: int = 1 << 30) -> bool:
        """Have an end send WINDOW_UPDATEs for all that it received."""
        end = self.ends[side]
        given = end.acknowledge(None, most)
        for stream in end.streams.values():
            given |= end.acknowledge(stream, most)
        return given

    def settle(self) -> None:
        """Move everything until nothing is left to do."""
        for _ in range(_MOST_ROUNDS):
            if not (
                self.carry()
                or self.act_all()
                or any(self.push_all(side) for side in Side)
                or any(self.acknowledge_all(side) for side in Side)
            ):
                return
        raise AssertionError("the two never come to rest")

    def received(self, called: Called, side: Side) -> Direction:
        """Return what a side received of a call."""
        stream = self.ends[side].streams.get(called.stream.number)
        return stream.received if stream is not None else Direction()

    def sent(self, called: Called, side: Side) -> Direction:
        """Return what a side has sent of a call."""
        stream = self.ends[side].streams.get(called.stream.number)
        return stream.sent if stream is not None else Direction()


def outgoing(messages: list[tuple[bytes, bool]], rest: list[Outgoing]) -> list[Outgoing]:
    """Return messages as one body, and what follows them."""
    body = b"".join(wire.message(payload, compressed=flag) for payload, flag in messages)
    return [bytearray(body), *rest] if body else rest


class RawWorld(World):
    """A world whose ends' bytes are written by hand; both sides' first SETTINGS have passed."""

    def __init__(
        self,
        decide: Callable[[HeldStream], Hold | None] = lambda stream: None,
        wanted: Callable[[bytes], bool] = lambda path: True,
    ) -> None:
        """``decide`` returns what to hold of a call, ``wanted`` whether it is asked."""
        self._policy = decide
        self._policy_wants = wanted
        super().__init__()
        self.receive(C, wire.PREFACE + wire.settings())
        self.receive(R, wire.settings() + wire.settings(ack=True))
        self.receive(C, wire.settings(ack=True))
        for side in Side:
            self.written(side)

    def _wanted(self, path: bytes) -> bool:
        return self._policy_wants(path)

    def _decide(self, stream: HeldStream) -> Hold | None:
        return self._policy(stream)

    def blocks(self, side: Side, decoder: hpack.Decoder) -> dict[int, list[list[Header]]]:
        """Return the header lists written to a side since the last call, by stream."""
        lists: dict[int, list[list[Header]]] = {}
        block = b""
        for frame in self.written(side):
            if frame.kind not in (wire.HEADERS, wire.CONTINUATION):
                continue
            block += frame.payload
            if frame.flags & wire.END_HEADERS:
                fields, block = decoder.decode(block, raw=True), b""
                lists.setdefault(frame.stream, []).append([(bytes(n), bytes(v)) for n, v in fields])
        return lists

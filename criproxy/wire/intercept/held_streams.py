"""The held streams of a connection: what their handlers receive, and what they command.

Each direction of a held stream
(:class:`criproxy.wire.intercept.send_queue.HeldDirection`) is in one of three states::

    holding     messages are given to the handler; only what the handler sends is forwarded
    passing     bytes are forwarded behind what has been sent, as far as the windows allow
    finished    its end has been forwarded, or nothing more may be: late frames are discarded

A stream that was answered in the runtime's place is reset towards the runtime; late frames of
either side are discarded.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from criproxy.wire.constants import ErrorCode
from criproxy.wire.grpc import PREFIX_SIZE, StatusCode
from criproxy.wire.http2 import frame_builder as building
from criproxy.wire.http2.windows import HeldBytesBudget
from criproxy.wire.intercept.send_queue import HeaderBlock, HeldDirection, SendQueue
from criproxy.wire.intercept.stream_handler import HeldStream, Hold, StreamHandler
from criproxy.wire.reading.connection import Side

_MOST_REMEMBERED: Final = 1024
"""Streams of a connection that were answered and whose late frames are swallowed."""

_REMEMBERED_FOR: Final = 30.0
"""Seconds after which nothing comes any more for a stream that was reset. RFC 9113 section 5.1
speaks of a short time; this is very many round trips of a local socket."""

_length: Final = Struct(">xI").unpack_from

_RUNTIME_GONE: Final = "the runtime closed the connection"


class HeldStreamState:
    """What is known of a held stream."""

    __slots__ = (
        "answered",
        "begun",
        "handler",
        "is_over",
        "request",
        "reset",
        "response",
        "unheard",
    )

    def __init__(self, stream: int, hold: Hold) -> None:
        self.handler: StreamHandler = hold.handler
        self.request = HeldDirection(stream, hold.request)
        self.response = HeldDirection(stream, hold.response)
        self.begun = False  # the response's headers have gone to the client
        self.answered = False  # in the runtime's place
        self.is_over = False  # and the handler was told
        self.reset = b""  # the runtime's, behind its response that is held
        self.unheard = hold.unheard  # the runtime has been sent a blank one, and its reset

    def half(self, side: Side) -> HeldDirection:
        """Return the direction of what a side sends."""
        return self.request if side is Side.CLIENT else self.response

    def swallows(self, side: Side) -> bool:
        """Tell whether what comes from a side goes nowhere."""
        return self.half(side).finished or (self.unheard and side is Side.RUNTIME)

    @property
    def is_answered(self) -> bool:
        """Whether its response is complete here: the runtime's, or one in its place."""
        return self.response.ended or self.answered

    @property
    def runtime_is_done(self) -> bool:
        """Whether the runtime has had all of the request and given all of its answer."""
        return self.request.finished and self.response.ended


class HeldStreams:
    """The held streams of one connection. What goes out goes to ``lanes``, by whose it is."""

    def __init__(
        self,
        lanes: tuple[SendQueue, SendQueue],
        commanded: Callable[[], None],
        budget: HeldBytesBudget,
    ) -> None:
        """``commanded`` is called after each command of a handler's."""
        self.lanes = lanes
        self.held: dict[int, HeldStreamState] = {}
        self.swallowed: dict[int, float | None] = {}
        """Streams of which what still comes goes nowhere, and since when; None: the last tick."""
        self._commanded = commanded
        self._budget = budget

    @property
    def at_rest(self) -> bool:
        """Whether nothing is held, nothing remains of what was, and nobody is owed anything."""
        if self.held or self.lanes[Side.RUNTIME].made_data:
            return False
        return not self.swallowed and all(lane.at_rest for lane in self.lanes)

    def tick(self, now: float) -> None:
        """Take notice of the time, in seconds: when frames come, and when a peer goes."""
        for stream, since in tuple(self.swallowed.items()):
            if since is None:
                self.swallowed[stream] = now
            elif now - since > _REMEMBERED_FOR:
                del self.swallowed[stream]

    @property
    def undelivered(self) -> bool:
        """Whether something of the runtime's that is complete has not gone to the client yet."""
        complete = (each.response for each in self.held.values() if each.is_answered)
        return self.lanes[Side.RUNTIME].is_queuing or any(not half.finished for half in complete)

    def hold(self, stream: int, hold: Hold) -> HeldStreamState:
        """Hold a stream from now on."""
        held = self.held[stream] = HeldStreamState(stream, hold)
        self._budget.streams += 1
        return held

    def take_content(
        self, side: Side, held: HeldStreamState, half: HeldDirection, content: bytes, ended: bool
    ) -> None:
        """Take DATA of a direction that is held, without padding, and give what is whole of it."""
        half.partial += content
        half.size += len(content)
        self._budget.bytes += len(content)
        self._give_messages(side, held, half)
        if ended and half.holding and not held.is_over:
            held.handler.ended(side, [])

    def _give_messages(self, side: Side, held: HeldStreamState, half: HeldDirection) -> None:
        """Give the handler the messages that are whole, as long as it holds the direction."""
        partial = half.partial
        while half.holding and len(partial) >= PREFIX_SIZE:
            (length,) = _length(partial)
            size = PREFIX_SIZE + length
            if len(partial) < size:
                self._check_size(side, held, half, size - len(partial))
                return
            self._check_size(side, held, half, 0)
            if not half.holding:
                return
            payload = bytes(partial[PREFIX_SIZE:size])
            compressed = bool(partial[0])
            del partial[:size]
            half.given.append(size)
            held.handler.message(side, payload, compressed)

    def _check_size(
        self, side: Side, held: HeldStreamState, half: HeldDirection, more: int
    ) -> None:
        limit = self._budget.exceeded_by(half.size, more)
        if not limit:
            return
        held.handler.too_large(side, limit)
        if half.holding and not held.is_over:
            message = f"a message does not fit into the {limit} bytes that may be held"
            self._answer(half.stream, held, StatusCode.RESOURCE_EXHAUSTED, message)

    # What handlers command: see HeldStream.

    def send(self, stream: HeldStream, side: Side, message: bytes) -> None:
        """See HeldStream; ``message`` is with its prefix."""
        held = self.held.get(stream.id)
        if held is not None and held.half(side).holding:
            half = held.half(side)
            self._give_back(half)
            self.queue_output(half, message, granted=True)
            self.lanes[side].send(half)
            self._after_command(side)

    def drop(self, stream: HeldStream, side: Side) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None:
            self._give_back(held.half(side))

    def end(self, stream: HeldStream, side: Side) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None and held.half(side).ended:
            self.pass_on(stream, side)

    def pass_on(self, stream: HeldStream, side: Side) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is None or not held.half(side).holding:
            return
        half = held.half(side)
        half.holding = False
        if half.partial:
            half.output.append((bytes(half.partial), True))
            half.partial.clear()
        half.finishing = half.ended
        if half.output or half.finishing:
            self.lanes[side].send(half)
        self._after_command(side)

    def answer(self, stream: HeldStream, code: StatusCode, message: str) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None and not (held.answered or held.response.finished):
            self._answer(stream.id, held, code, message)
            self._commanded()

    def leave(self, stream: HeldStream) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None and not (held.request.holding or held.response.holding):
            held.is_over = True  # as far as the handler is concerned
            self.after_end(stream.id, held)
            self._commanded()

    def _after_command(self, side: Side) -> None:
        self.pump(side)
        self._commanded()

    def _give_back(self, half: HeldDirection) -> None:
        """Count the oldest message that the handler was given no more."""
        if half.given:
            self._count(half, -half.given.popleft())

    def queue_output(self, half: HeldDirection, data: bytes, granted: bool) -> None:
        """Have data go on in a direction, behind what waits; ``granted``: the sender was for it."""
        if data:
            half.output.append((data, granted))
            self._count(half, len(data))

    def _count(self, half: HeldDirection, size: int) -> None:
        half.size += size
        self._budget.bytes += size

    def _answer(self, stream: int, held: HeldStreamState, code: StatusCode, message: str) -> None:
        requests, responses = self.lanes
        done = held.runtime_is_done
        held.answered = True
        requests.take_back(held.request)
        held.request.finished = True
        if not done:
            self.remember(stream)
            if not held.unheard:
                requests.put(building.reset(stream, ErrorCode.CANCEL))
        response = held.response
        while response.given:
            self._give_back(response)
        self._count(response, -len(response.partial))
        response.partial.clear()
        if isinstance(response.trailers, HeaderBlock):
            responses.forget(response.trailers)
        response.trailers = building.trailers(code, message, held.begun)
        response.holding = False
        self.finish(Side.RUNTIME, response)

    # How streams end.

    def finish(self, side: Side, half: HeldDirection) -> None:
        """Let a direction end behind what has been sent of it."""
        if not half.finishing:
            half.finishing = True
            self.lanes[side].send(half)
            self.pump(side)

    def pump(self, side: Side) -> None:
        """Send what the windows take by now of what goes on from a side."""
        for half in self.lanes[side].pump():
            held = self.held.get(half.stream)
            if held is not None:
                self.after_end(half.stream, held)

    def after_end(self, stream: int, held: HeldStreamState) -> None:
        """See to what follows when the end of a direction has gone on."""
        request, response = held.request, held.response
        if held.is_over and request.finished and response.is_untouched:
            self.let_go(stream, held)
        elif response.finished:
            self._tell_over(held)
            if held.reset:
                self.remember(stream)
                self.lanes[Side.RUNTIME].put(held.reset)
            elif held.answered or not request.finished:
                self._stop_request(stream, held)
            if request.finished:
                self.let_go(stream, held)

    def _stop_request(self, stream: int, held: HeldStreamState) -> None:
        """Stop a client that still sends the request of a call that has its answer."""
        request = held.request
        passing = not (request.holding or self.lanes[Side.CLIENT].is_waiting(stream))
        if not held.answered and passing and not request.finished:
            return  # as without us: the two will see to it
        if not held.answered:
            self.remember(stream)
            self.lanes[Side.CLIENT].put(building.reset(stream, ErrorCode.CANCEL))
        if not request.ended:
            self.lanes[Side.RUNTIME].put(building.reset(stream, ErrorCode.NO_ERROR))
        request.finished = True

    def let_go(self, stream: int, held: HeldStreamState) -> None:
        """Hold a stream no longer, and nothing of it."""
        del self.held[stream]
        self._budget.streams -= 1
        self.lanes[Side.CLIENT].take_back(held.request)
        self.lanes[Side.RUNTIME].take_back(held.response)
        self._tell_over(held)

    def _tell_over(self, held: HeldStreamState) -> None:
        if not held.is_over:
            held.is_over = True
            held.handler.over()

    def remember(self, stream: int) -> None:
        """Swallow what still comes for a stream, which was reset."""
        self.swallowed[stream] = None  # the last time that is known may be long ago
        if len(self.swallowed) > _MOST_REMEMBERED:
            del self.swallowed[next(iter(self.swallowed))]

    def refund(self) -> None:
        """Grant the senders what they are owed, if it is much or nothing is held."""
        requests, responses = self.lanes
        at_rest = not self.held
        if owed := requests.window.refund(at_rest):
            responses.urgent(building.window_update(0, owed))
        if owed := responses.window.refund(at_rest):
            requests.urgent(building.window_update(0, owed))

    def lose_runtime(self, last: int, unanswered: Iterable[tuple[int, bool]]) -> None:
        """Answer what the runtime, which is gone, has not answered in full.

        ``last`` is the highest stream that the client has opened, ``unanswered`` are the open ones
        and whether their response's headers have passed.
        """
        lane = self.lanes[Side.RUNTIME]
        lane.put(building.goaway(last, ErrorCode.NO_ERROR))
        for stream, begun in unanswered:
            held = self.held.get(stream)
            if lane.is_ending(stream) or (held is not None and held.is_answered):
                continue
            if held is not None:
                self.let_go(stream, held)
            fields = building.trailers(
                StatusCode.UNAVAILABLE, _RUNTIME_GONE, begun or lane.is_opening(stream)
            )
            lane.put_fields(stream, fields)

    def lose_all(self) -> None:
        """Let go of every stream."""
        for stream, held in tuple(self.held.items()):
            self.let_go(stream, held)

    def cut(self, stream: int, code: ErrorCode) -> None:
        """End a stream to both sides: to the client with a reset of ``code``."""
        held = self.held.get(stream)
        if held is not None:
            self.remember(stream)
            self.let_go(stream, held)
        if held is None or not held.unheard:
            self.lanes[Side.CLIENT].put(building.reset(stream, ErrorCode.CANCEL))
        self.lanes[Side.RUNTIME].put(building.reset(stream, code))

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
from criproxy.wire.http2 import frame_builder
from criproxy.wire.http2.windows import HeldBytesBudget
from criproxy.wire.intercept.send_queue import HeaderBlock, HeldDirection, SendQueue
from criproxy.wire.intercept.stream_handler import HeldStream, Hold, StreamHandler
from criproxy.wire.reading.connection import Side

_MAX_DISCARDED: Final = 1024
"""Streams of a connection that were answered and whose late frames are discarded."""

_DISCARD_SECONDS: Final = 30.0
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
        "hidden",
        "is_closed",
        "request",
        "reset",
        "response",
    )

    def __init__(self, stream: int, hold: Hold) -> None:
        self.handler: StreamHandler = hold.handler
        self.request = HeldDirection(stream, hold.request)
        self.response = HeldDirection(stream, hold.response)
        self.begun = False  # the response's headers have gone to the client
        self.answered = False  # in the runtime's place
        self.is_closed = False  # and the handler was told
        self.reset = b""  # the runtime's, behind its response that is held
        self.hidden = hold.hidden  # the runtime has been sent a blank one, and its reset

    def direction(self, side: Side) -> HeldDirection:
        """Return the direction of what a side sends."""
        return self.request if side is Side.CLIENT else self.response

    def discards(self, side: Side) -> bool:
        """Tell whether what comes from a side goes nowhere."""
        return self.direction(side).finished or (self.hidden and side is Side.RUNTIME)

    @property
    def is_answered(self) -> bool:
        """Whether its response is complete here: the runtime's, or one in its place."""
        return self.response.ended or self.answered

    @property
    def runtime_is_done(self) -> bool:
        """Whether the runtime has had all of the request and given all of its answer."""
        return self.request.finished and self.response.ended


class HeldStreams:
    """The held streams of one connection. What goes out goes to ``queues``, by whose it is."""

    def __init__(
        self,
        queues: tuple[SendQueue, SendQueue],
        commanded: Callable[[], None],
        budget: HeldBytesBudget,
    ) -> None:
        """``commanded`` is called after each command of a handler's."""
        self.queues = queues
        self.held: dict[int, HeldStreamState] = {}
        self.discarded: dict[int, float | None] = {}
        """Streams of which what still comes goes nowhere, and since when; None: the last tick."""
        self._commanded = commanded
        self._budget = budget

    @property
    def at_rest(self) -> bool:
        """Whether nothing is held, nothing remains of what was, and nobody is owed anything."""
        if self.held or self.queues[Side.RUNTIME].sent_own_data:
            return False
        return not self.discarded and all(queue.at_rest for queue in self.queues)

    def tick(self, now: float) -> None:
        """Take notice of the time, in seconds: when frames come, and when a peer goes."""
        for stream, since in tuple(self.discarded.items()):
            if since is None:
                self.discarded[stream] = now
            elif now - since > _DISCARD_SECONDS:
                del self.discarded[stream]

    @property
    def undelivered(self) -> bool:
        """Whether something of the runtime's that is complete has not gone to the client yet."""
        complete = (each.response for each in self.held.values() if each.is_answered)
        return self.queues[Side.RUNTIME].has_queued_frames or any(
            not direction.finished for direction in complete
        )

    def hold(self, stream: int, hold: Hold) -> HeldStreamState:
        """Hold a stream from now on."""
        held = self.held[stream] = HeldStreamState(stream, hold)
        self._budget.streams += 1
        return held

    def take_content(
        self,
        side: Side,
        held: HeldStreamState,
        direction: HeldDirection,
        content: bytes,
        ended: bool,
    ) -> None:
        """Take DATA of a direction that is held, without padding, and give what is whole of it."""
        direction.partial += content
        direction.size += len(content)
        self._budget.bytes += len(content)
        self._give_messages(side, held, direction)
        if ended and direction.holding and not held.is_closed:
            held.handler.ended(side, [])

    def _give_messages(self, side: Side, held: HeldStreamState, direction: HeldDirection) -> None:
        """Give the handler the messages that are whole, as long as it holds the direction."""
        partial = direction.partial
        while direction.holding and len(partial) >= PREFIX_SIZE:
            (length,) = _length(partial)
            size = PREFIX_SIZE + length
            if len(partial) < size:
                self._check_size(side, held, direction, size - len(partial))
                return
            self._check_size(side, held, direction, 0)
            if not direction.holding:
                return
            payload = bytes(partial[PREFIX_SIZE:size])
            compressed = bool(partial[0])
            del partial[:size]
            direction.given.append(size)
            held.handler.message(side, payload, compressed)

    def _check_size(
        self, side: Side, held: HeldStreamState, direction: HeldDirection, more: int
    ) -> None:
        limit = self._budget.exceeded_by(direction.size, more)
        if not limit:
            return
        held.handler.too_large(side, limit)
        if direction.holding and not held.is_closed:
            message = f"a message does not fit into the {limit} bytes that may be held"
            self._answer(direction.stream, held, StatusCode.RESOURCE_EXHAUSTED, message)

    # What handlers command: see HeldStream.

    def send(self, stream: HeldStream, side: Side, message: bytes) -> None:
        """See HeldStream; ``message`` is with its prefix."""
        held = self.held.get(stream.id)
        if held is not None and held.direction(side).holding:
            direction = held.direction(side)
            self._give_back(direction)
            self.queue_output(direction, message, granted=True)
            self.queues[side].send(direction)
            self._after_command(side)

    def drop(self, stream: HeldStream, side: Side) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None:
            self._give_back(held.direction(side))

    def end(self, stream: HeldStream, side: Side) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None and held.direction(side).ended:
            self.release(stream, side)

    def release(self, stream: HeldStream, side: Side) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is None or not held.direction(side).holding:
            return
        direction = held.direction(side)
        direction.holding = False
        if direction.partial:
            direction.output.append((bytes(direction.partial), True))
            direction.partial.clear()
        direction.finishing = direction.ended
        if direction.output or direction.finishing:
            self.queues[side].send(direction)
        self._after_command(side)

    def reply(self, stream: HeldStream, code: StatusCode, message: str) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None and not (held.answered or held.response.finished):
            self._answer(stream.id, held, code, message)
            self._commanded()

    def detach(self, stream: HeldStream) -> None:
        """See HeldStream."""
        held = self.held.get(stream.id)
        if held is not None and not (held.request.holding or held.response.holding):
            held.is_closed = True  # as far as the handler is concerned
            self.after_end(stream.id, held)
            self._commanded()

    def _after_command(self, side: Side) -> None:
        self.pump(side)
        self._commanded()

    def _give_back(self, direction: HeldDirection) -> None:
        """Count the oldest message that the handler was given no more."""
        if direction.given:
            self._count(direction, -direction.given.popleft())

    def queue_output(self, direction: HeldDirection, data: bytes, granted: bool) -> None:
        """Have data go on in a direction, behind what waits; ``granted``: the sender was for it."""
        if data:
            direction.output.append((data, granted))
            self._count(direction, len(data))

    def _count(self, direction: HeldDirection, size: int) -> None:
        direction.size += size
        self._budget.bytes += size

    def _answer(self, stream: int, held: HeldStreamState, code: StatusCode, message: str) -> None:
        requests, responses = self.queues
        done = held.runtime_is_done
        held.answered = True
        requests.cancel(held.request)
        held.request.finished = True
        if not done:
            self.discard_late_frames(stream)
            if not held.hidden:
                requests.enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        response = held.response
        while response.given:
            self._give_back(response)
        self._count(response, -len(response.partial))
        response.partial.clear()
        if isinstance(response.trailers, HeaderBlock):
            responses.discard_block(response.trailers)
        response.trailers = frame_builder.trailers(code, message, held.begun)
        response.holding = False
        self.finish(Side.RUNTIME, response)

    # How streams end.

    def finish(self, side: Side, direction: HeldDirection) -> None:
        """Let a direction end behind what has been sent of it."""
        if not direction.finishing:
            direction.finishing = True
            self.queues[side].send(direction)
            self.pump(side)

    def pump(self, side: Side) -> None:
        """Send what the windows take by now of what goes on from a side."""
        for direction in self.queues[side].pump():
            held = self.held.get(direction.stream)
            if held is not None:
                self.after_end(direction.stream, held)

    def after_end(self, stream: int, held: HeldStreamState) -> None:
        """See to what follows when the end of a direction has gone on."""
        request, response = held.request, held.response
        if held.is_closed and request.finished and response.is_passed_through:
            self.remove(stream, held)
        elif response.finished:
            self._report_closed(held)
            if held.reset:
                self.discard_late_frames(stream)
                self.queues[Side.RUNTIME].enqueue(held.reset)
            elif held.answered or not request.finished:
                self._stop_request(stream, held)
            if request.finished:
                self.remove(stream, held)

    def _stop_request(self, stream: int, held: HeldStreamState) -> None:
        """Stop a client that still sends the request of a call that has its answer."""
        request = held.request
        passing = not (request.holding or self.queues[Side.CLIENT].is_waiting(stream))
        if not held.answered and passing and not request.finished:
            return  # as without us: the two will see to it
        if not held.answered:
            self.discard_late_frames(stream)
            self.queues[Side.CLIENT].enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        if not request.ended:
            self.queues[Side.RUNTIME].enqueue(frame_builder.reset(stream, ErrorCode.NO_ERROR))
        request.finished = True

    def remove(self, stream: int, held: HeldStreamState) -> None:
        """Hold a stream no longer, and nothing of it."""
        del self.held[stream]
        self._budget.streams -= 1
        self.queues[Side.CLIENT].cancel(held.request)
        self.queues[Side.RUNTIME].cancel(held.response)
        self._report_closed(held)

    def _report_closed(self, held: HeldStreamState) -> None:
        if not held.is_closed:
            held.is_closed = True
            held.handler.closed()

    def discard_late_frames(self, stream: int) -> None:
        """Swallow what still comes for a stream, which was reset."""
        self.discarded[stream] = None  # the last time that is known may be long ago
        if len(self.discarded) > _MAX_DISCARDED:
            del self.discarded[next(iter(self.discarded))]

    def refund(self) -> None:
        """Grant the senders what they are owed, if it is much or nothing is held."""
        requests, responses = self.queues
        at_rest = not self.held
        if owed := requests.window.refund(at_rest):
            responses.send_unordered(frame_builder.window_update(0, owed))
        if owed := responses.window.refund(at_rest):
            requests.send_unordered(frame_builder.window_update(0, owed))

    def lose_runtime(self, last: int, unanswered: Iterable[tuple[int, bool]]) -> None:
        """Answer what the runtime, which is gone, has not answered in full.

        ``last`` is the highest stream that the client has opened, ``unanswered`` are the open ones
        and whether their response's headers have passed.
        """
        queue = self.queues[Side.RUNTIME]
        queue.enqueue(frame_builder.goaway(last, ErrorCode.NO_ERROR))
        for stream, begun in unanswered:
            held = self.held.get(stream)
            if queue.is_ending(stream) or (held is not None and held.is_answered):
                continue
            if held is not None:
                self.remove(stream, held)
            fields = frame_builder.trailers(
                StatusCode.UNAVAILABLE, _RUNTIME_GONE, begun or queue.is_opening(stream)
            )
            queue.enqueue_trailers(stream, fields)

    def lose_all(self) -> None:
        """Let go of every stream."""
        for stream, held in tuple(self.held.items()):
            self.remove(stream, held)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream to both sides: to the client with a reset of ``code``."""
        held = self.held.get(stream)
        if held is not None:
            self.discard_late_frames(stream)
            self.remove(stream, held)
        if held is None or not held.hidden:
            self.queues[Side.CLIENT].enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        self.queues[Side.RUNTIME].enqueue(frame_builder.reset(stream, code))

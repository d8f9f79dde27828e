"""The held streams of a connection: gives messages to their handlers and executes their commands.

Each direction of a held stream
(:class:`criproxy.wire.intercept.send_queue.HeldDirection`) is in one of three states::

    holding     messages are given to the handler; only what the handler sends is forwarded
    passing     bytes are forwarded behind what has been sent, as far as the windows allow
    finished    its end has been forwarded, or nothing more may be: late frames are discarded

A stream that was answered in the runtime's place is reset towards the runtime; late frames of
either side are discarded.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from struct import Struct
from typing import Final

from criproxy.wire.constants import ErrorCode
from criproxy.wire.grpc import PREFIX_SIZE, StatusCode
from criproxy.wire.http2 import frame_builder
from criproxy.wire.intercept.held_bytes import (
    HEADER_OVERHEAD,
    HELD_LIMIT,
    HELD_TIME,
    MESSAGE_OVERHEAD,
    STREAM_OVERHEAD,
    ConnectionBudget,
)
from criproxy.wire.intercept.send_queue import HeaderBlock, HeldDirection, SendQueue
from criproxy.wire.intercept.stream_handler import HeldStream, Hold, StreamHandler
from criproxy.wire.reading.connection import Side

_MAX_DISCARDED: Final = 1024
"""Maximum reset streams of a connection whose late frames are discarded."""

_DISCARD_SECONDS: Final = 30.0
"""Seconds for which late frames of a reset stream are discarded (RFC 9113 section 5.1); very many
round trips on a local socket."""

_length: Final = Struct(">xI").unpack_from

_RUNTIME_GONE: Final = "the runtime closed the connection"


class HeldStreamState:
    """The state of a held stream."""

    __slots__ = (
        "answered",
        "handler",
        "headers_sent",
        "hidden",
        "is_closed",
        "request",
        "reset",
        "response",
        "size",
        "whole_request",
    )

    def __init__(self, stream: int, hold: Hold, size: int) -> None:
        """``size``: bytes that the stream charges to the budget beside its directions."""
        self.handler: StreamHandler = hold.handler
        self.request = HeldDirection(stream, hold.request)
        self.response = HeldDirection(stream, hold.response)
        self.headers_sent = False  # the response's, to the client
        self.answered = False  # by a local reply
        self.is_closed = False  # and the handler was notified
        self.reset = b""  # the runtime's RST_STREAM, queued behind its held response
        self.hidden = hold.hidden  # the runtime was sent a placeholder request and its reset
        self.whole_request = hold.whole_request
        self.size = size

    def direction(self, side: Side) -> HeldDirection:
        """Return the direction in which a side sends."""
        return self.request if side is Side.CLIENT else self.response

    def discards(self, side: Side) -> bool:
        """Return whether frames of a side are discarded."""
        return self.direction(side).finished or (self.hidden and side is Side.RUNTIME)

    @property
    def is_answered(self) -> bool:
        """Whether its response, the runtime's or a local reply, has been received in full."""
        return self.response.ended or self.answered

    @property
    def runtime_is_done(self) -> bool:
        """Whether the runtime was sent the whole request and has sent its whole response."""
        return self.request.finished and self.response.ended


class HeldStreams:
    """The held streams of one connection. Output goes to ``queues``, indexed by the sender."""

    def __init__(
        self,
        queues: tuple[SendQueue, SendQueue],
        commanded: Callable[[], None],
        budget: ConnectionBudget,
    ) -> None:
        """``commanded`` is called after each command of a handler."""
        self.queues = queues
        self.held: dict[int, HeldStreamState] = {}
        self.discarded: OrderedDict[int, float] = OrderedDict()
        """Streams whose frames are discarded, and since when; the oldest is the first."""
        self._undated: list[int] = []  # those since the last tick
        self._commanded = commanded
        self._budget = budget
        self._now = 0.0

    @property
    def at_rest(self) -> bool:
        """Whether nothing is held, queued, remembered or owed."""
        if self.held or self.queues[Side.RUNTIME].sent_own_data:
            return False
        return not self.discarded and all(queue.at_rest for queue in self.queues)

    def tick(self, now: float) -> None:
        """Set the time, in seconds; called when frames arrive and when a peer disconnects."""
        self._now = now
        for stream in self._undated:
            if stream in self.discarded:
                self.discarded[stream] = now
        self._undated.clear()
        while self.discarded and now - next(iter(self.discarded.values())) > _DISCARD_SECONDS:
            self.discarded.popitem(last=False)

    @property
    def undelivered(self) -> bool:
        """Whether a complete response has not been sent to the client in full yet."""
        complete = (each.response for each in self.held.values() if each.is_answered)
        return self.queues[Side.RUNTIME].has_queued_frames or any(
            not direction.finished for direction in complete
        )

    def hold(self, stream: HeldStream, hold: Hold) -> HeldStreamState:
        """Start to hold a stream."""
        headers = sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in stream.headers)
        size = STREAM_OVERHEAD + headers
        held = self.held[stream.id] = HeldStreamState(stream.id, hold, size)
        self._budget.total.streams += 1
        self._budget.add(size)
        return held

    def opened(self, held: HeldStreamState) -> None:
        """Notify the handler of a held stream that its headers have been sent."""
        held.handler.opened()
        self._await_rest(Side.CLIENT, held, held.request)
        if self._budget.exceeded_by(0, 0):
            for side in Side:
                direction = held.direction(side)
                if direction.holding and not held.is_closed:
                    self._check_size(side, held, direction, 0)

    def take_content(
        self,
        side: Side,
        held: HeldStreamState,
        direction: HeldDirection,
        content: bytes,
        ended: bool,
    ) -> None:
        """Buffer DATA of a held direction, without padding; give the handler whole messages."""
        direction.partial += content
        self._count(direction, len(content))
        given = self._give_messages(side, held, direction)
        self._await_rest(side, held, direction, restart=given)
        if ended and direction.holding and not held.is_closed:
            held.handler.ended(side, [])

    def _give_messages(self, side: Side, held: HeldStreamState, direction: HeldDirection) -> bool:
        """Give the handler the complete messages, as long as it holds the direction.

        Returns whether there was one.
        """
        buffer = direction.partial
        given = False
        while direction.holding and len(buffer) >= PREFIX_SIZE:
            (length,) = _length(buffer)
            size = PREFIX_SIZE + length
            if len(buffer) < size:
                self._check_size(side, held, direction, size - len(buffer))
                break
            if not self._check_size(side, held, direction, 0):
                break
            payload = bytes(buffer[PREFIX_SIZE:size])
            compressed = bool(buffer[0])
            del buffer[:size]
            given = True
            direction.given.append(size + MESSAGE_OVERHEAD)
            self._count(direction, MESSAGE_OVERHEAD)
            held.handler.message(side, payload, compressed)
        return given

    def _await_rest(
        self, side: Side, held: HeldStreamState, direction: HeldDirection, restart: bool = False
    ) -> None:
        """Limit the time until what a direction waits for has arrived: the rest of a message, or
        the end of a request of one message. ``restart``: it waits for another one now."""
        total = self._budget.total
        whole = held.whole_request and side is Side.CLIENT
        if direction.ended or not direction.holding or not (whole or direction.partial):
            total.rest_arrived(direction)
        elif (restart and not whole) or not total.is_awaited(direction):
            expired = partial(self._rest_missing, side, held, direction)
            total.await_rest(direction, self._now, expired)

    def _rest_missing(
        self, side: Side, held: HeldStreamState, direction: HeldDirection, now: float
    ) -> None:
        self._now = now
        limit = self._budget.total.time_limit
        self._give_up(side, held, direction, HELD_TIME, f"no complete message in {limit:g} s")
        self._commanded()

    def _check_size(
        self, side: Side, held: HeldStreamState, direction: HeldDirection, more: int
    ) -> bool:
        """Give up above the limits; return whether the direction is still held."""
        limit = self._budget.exceeded_by(direction.size, more)
        if limit:
            detail = f"more than {limit} bytes would be held"
            self._give_up(side, held, direction, HELD_LIMIT, detail)
        return direction.holding

    def _give_up(
        self, side: Side, held: HeldStreamState, direction: HeldDirection, reason: str, detail: str
    ) -> None:
        """Have the handler decide on a direction that may not be held any longer."""
        held.handler.limit_exceeded(side, reason, detail)
        if direction.holding and not held.is_closed:
            self._answer(
                direction.stream, held, StatusCode.RESOURCE_EXHAUSTED, f"criproxy: {detail}"
            )

    # Commands of handlers: see HeldStream.

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
        self._budget.total.rest_arrived(direction)
        if direction.partial:
            direction.output.append((bytes(direction.partial), True))
            self._count(direction, MESSAGE_OVERHEAD)
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

    def reply_to(self, stream: int, code: StatusCode, message: str, headers_sent: bool) -> None:
        """End a stream that need not be held; does nothing if it has been ended here before.

        ``headers_sent``: the response's have been written to the client, not only queued.
        """
        held = self.held.get(stream)
        if held is not None:
            if not (held.answered or held.response.finished):
                self._answer(stream, held, code, message)
        elif stream not in self.discarded and not self.queues[Side.RUNTIME].is_ending(stream):
            responses = self.queues[Side.RUNTIME]
            begun = headers_sent or responses.is_opening(stream)
            responses.enqueue_trailers(stream, frame_builder.trailers(code, message, begun))
            self.queues[Side.CLIENT].enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
            self.discard_late_frames(stream)

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
        """Release the budget of the oldest message that the handler was given."""
        if direction.given:
            self._count(direction, -direction.given.popleft())

    def queue_output(self, direction: HeldDirection, data: bytes, granted: bool) -> None:
        """Append output of a direction; ``granted``: the sender was granted its bytes again."""
        if data:
            direction.output.append((data, granted))
            self._count(direction, len(data) + MESSAGE_OVERHEAD)

    def _count(self, direction: HeldDirection, size: int) -> None:
        direction.size += size
        self._budget.add(size)

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
        self._budget.total.rest_arrived(response)
        if isinstance(response.trailers, HeaderBlock):
            responses.discard_block(response.trailers)
        response.trailers = frame_builder.trailers(code, message, held.headers_sent)
        response.holding = False
        self.finish(Side.RUNTIME, response)

    # The ends of streams.

    def finish(self, side: Side, direction: HeldDirection) -> None:
        """End a direction behind its output."""
        if not direction.finishing:
            direction.finishing = True
            self.queues[side].send(direction)
            self.pump(side)

    def pump(self, side: Side) -> None:
        """Send the output of a side as far as the windows allow."""
        for direction in self.queues[side].pump():
            held = self.held.get(direction.stream)
            if held is not None:
                self.after_end(direction.stream, held)

    def after_end(self, stream: int, held: HeldStreamState) -> None:
        """Continue after the end of a direction has been sent."""
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
        """Reset a stream whose client still sends the request after the response has ended."""
        request = held.request
        passing = not (request.holding or self.queues[Side.CLIENT].is_waiting(stream))
        if not held.answered and passing and not request.finished:
            return  # as without interception: left to the two peers
        if not held.answered:
            self.discard_late_frames(stream)
            self.queues[Side.CLIENT].enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        if not request.ended:
            self.queues[Side.RUNTIME].enqueue(frame_builder.reset(stream, ErrorCode.NO_ERROR))
        request.finished = True

    def remove(self, stream: int, held: HeldStreamState) -> None:
        """Stop holding a stream and discard what is held of it."""
        del self.held[stream]
        self._budget.total.streams -= 1
        self._budget.add(-held.size)
        self.queues[Side.CLIENT].cancel(held.request)
        self.queues[Side.RUNTIME].cancel(held.response)
        self._report_closed(held)

    def _report_closed(self, held: HeldStreamState) -> None:
        if not held.is_closed:
            held.is_closed = True
            held.handler.closed()

    def discard_late_frames(self, stream: int) -> None:
        """Discard the frames that still arrive for a stream that was reset."""
        self.discarded.pop(stream, None)
        self.discarded[stream] = inf  # the time of the last tick may be long past
        self._undated.append(stream)
        if len(self.discarded) > _MAX_DISCARDED:
            self.discarded.popitem(last=False)

    def refund(self) -> None:
        """Grant the senders what they are owed, see :meth:`ConnectionWindow.refund`."""
        requests, responses = self.queues
        at_rest = not self.held
        if owed := requests.window.refund(at_rest):
            responses.send_unordered(frame_builder.window_update(0, owed))
        if owed := responses.window.refund(at_rest):
            requests.send_unordered(frame_builder.window_update(0, owed))

    def lose_runtime(self, last: int, unanswered: Iterable[tuple[int, bool]]) -> None:
        """Send GOAWAY and end the calls that a runtime has not answered before it disconnected.

        ``last`` is the highest stream that the client has opened; ``unanswered`` are the open
        streams and whether their response headers were sent.
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
        """Remove every stream."""
        for stream, held in tuple(self.held.items()):
            self.remove(stream, held)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Reset a stream on both sides: with ``code`` towards the client."""
        held = self.held.get(stream)
        if held is not None:
            self.discard_late_frames(stream)
            self.remove(stream, held)
        if held is None or not held.hidden:
            self.queues[Side.CLIENT].enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        self.queues[Side.RUNTIME].enqueue(frame_builder.reset(stream, code))

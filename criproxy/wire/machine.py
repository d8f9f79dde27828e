"""The streams of a connection that is made into whole frames: some held, the others passed on.

Theory. A held stream's request headers go on at once, without END_STREAM, so that streams are
opened in order and both header tables stay in step; its messages are given to its handler, which
says what goes on instead. Each direction of it is a :class:`criproxy.wire.lanes.Half`::

    holding     what comes is given to the handler, and what goes on is what the handler sends
    passing     what comes goes on, behind what has been sent, as far as the windows take it
    finished    its end has gone on, or nothing more may: what still comes is swallowed

The sender is granted again what it sends of a stream that is held, and the receiver's grants for
what we send are kept from it: see :mod:`criproxy.wire.flow`.

A stream that was answered in the runtime's place is reset to the runtime; what still comes for it
from either side is swallowed. What a response of the runtime's answers that did not wait for the
request goes on as it is.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from criproxy.wire import building, http2
from criproxy.wire.admission import path_of
from criproxy.wire.connection import Side
from criproxy.wire.errors import FrameSizeError
from criproxy.wire.flow import Budget
from criproxy.wire.gathering import STREAM_ID, Frame, Gatherer
from criproxy.wire.grpc import PREFIX_SIZE, StatusCode
from criproxy.wire.holding import HeldStream, Hold, StreamHandler
from criproxy.wire.hpack import LARGEST_TABLE, Decoder
from criproxy.wire.http2 import ErrorCode
from criproxy.wire.lanes import Block, Half, Lane

_MOST_REMEMBERED: Final = 1024
"""Streams of a connection that were answered and whose late frames are swallowed."""

_REMEMBERED_FOR: Final = 30.0
"""Seconds after which nothing comes any more for a stream that was reset. RFC 9113 section 5.1
speaks of a short time; this is very many round trips of a local socket."""

_header: Final = Struct(">HBBBI").unpack_from
_u32: Final = Struct(">I").unpack_from
_two_u32: Final = Struct(">II").unpack_from
_settings: Final = Struct(">HI").iter_unpack
_length: Final = Struct(">xI").unpack_from

_RUNTIME_GONE: Final = "the runtime closed the connection"

Decide = Callable[[HeldStream], Hold | None]
"""What is to be held of a stream that is being opened; None: nothing."""


class _Held:
    """What is known of a held stream."""

    __slots__ = ("answered", "begun", "handler", "is_over", "request", "reset", "response")

    def __init__(self, stream: int, hold: Hold) -> None:
        self.handler: StreamHandler = hold.handler
        self.request = Half(stream, hold.request)
        self.response = Half(stream, hold.response)
        self.begun = False  # the response's headers have gone to the client
        self.answered = False  # in the runtime's place
        self.is_over = False  # and the handler was told
        self.reset = b""  # the runtime's, behind its response that is held

    def half(self, side: Side) -> Half:
        return self.request if side is Side.CLIENT else self.response

    @property
    def is_answered(self) -> bool:
        """Whether its response is complete here: the runtime's, or one in its place."""
        return self.response.ended or self.answered

    @property
    def runtime_is_done(self) -> bool:
        return self.request.finished and self.response.ended


class Machine:
    """Takes whole frames and the handlers' commands; what goes out goes to the lanes."""

    def __init__(
        self,
        lanes: tuple[Lane, Lane],
        gatherers: tuple[Gatherer, Gatherer],
        decoders: list[Decoder],
        last: int,
        served: int,
        decide: Decide,
        commanded: Callable[[], None],
        budget: Budget,
    ) -> None:
        """``lanes``, ``gatherers`` and ``decoders`` are by the side that sends.

        ``last`` is the highest stream that the client has opened, ``served`` the highest that the
        runtime will serve. ``commanded`` is called after each command of a handler's.
        """
        self.lanes = lanes
        self.held: dict[int, _Held] = {}
        self._gatherers = gatherers
        self._decoders = decoders
        self._last = last
        self._served = served
        self._decide = decide
        self._commanded = commanded
        self._budget = budget
        self._swallowed: dict[int, float | None] = {}  # since when; None: since the last tick
        self._runtime_spoke = False  # since the client's last PING that went on

    @property
    def at_rest(self) -> bool:
        """Whether nothing is held, nothing remains of what was, and nobody is owed anything."""
        if self.held or self.lanes[Side.RUNTIME].made_data:
            return False
        return not self._swallowed and all(lane.at_rest for lane in self.lanes)

    def tick(self, now: float) -> None:
        """Take notice of the time, in seconds: when frames come, and when a peer goes."""
        for stream, since in tuple(self._swallowed.items()):
            if since is None:
                self._swallowed[stream] = now
            elif now - since > _REMEMBERED_FOR:
                del self._swallowed[stream]

    def sums_of(self, side: Side, data: bytes) -> tuple[int, int] | None:
        """Add up what bytes that may go on as they are take of the connection's windows, and grant.

        None if they may not: while something is held or waits, and if they are not whole frames
        of the common kinds that the windows take. New calls are for the caller to look for.
        """
        lane, other = self.lanes[side], self.lanes[1 - side]
        clear = lane.is_clear and other.is_clear and not self.lanes[Side.RUNTIME].made_data
        if self.held or self._swallowed or not clear:
            return None
        position, size, flow, granted = 0, len(data), 0, 0
        while position < size:
            start = position + http2.FRAME_HEADER_SIZE
            if start > size:
                return None
            high, low, kind, flags, stream = _header(data, position)
            length = high << 8 | low
            position = start + length
            if kind == http2.DATA:
                flow += length
            elif kind == http2.WINDOW_UPDATE and length == 4:
                if not stream & STREAM_ID and position <= size:
                    granted += _u32(data, start)[0] & STREAM_ID
            elif kind == http2.HEADERS:
                if not flags & http2.FLAG_END_HEADERS:
                    return None
            elif kind != http2.PING:
                return None
        whole = position == size and flow <= lane.window.window
        return (flow, granted) if whole and not (granted and other.window.ledger) else None

    def pass_sums(self, side: Side, flow: int, granted: int) -> None:
        """Take notice that bytes of a side went on, which :meth:`sums_of` has added up."""
        self.lanes[side].window.passed(flow)
        self.lanes[1 - side].window.window += granted

    def follow(self, side: Side, decoder: Decoder, last: int) -> None:
        """Go on from the reader's ``decoder`` and ``last`` stream: blocks have gone by unseen."""
        self._decoders[side] = decoder.copy()
        self._decoders[side].allow(LARGEST_TABLE)
        self._last = max(self._last, last)

    @property
    def undelivered(self) -> bool:
        """Whether something of the runtime's that is complete has not gone to the client yet."""
        complete = (each.response for each in self.held.values() if each.is_answered)
        return self.lanes[Side.RUNTIME].is_queuing or any(not half.finished for half in complete)

    def take(self, side: Side, frame: Frame) -> None:
        """Take a frame of a side's. Raises a WireError for what cannot be read."""
        lane = self.lanes[side]
        kind = frame.kind
        if frame.begun:
            self._finish_frame(side, frame)
        elif kind == http2.DATA:
            self._take_data(side, frame)
        elif kind == http2.HEADERS:
            self._take_headers(side, frame)
        elif kind == http2.WINDOW_UPDATE:
            self._take_window_update(side, frame)
        elif kind == http2.RST_STREAM:
            self._take_reset(side, frame)
        elif kind == http2.PING:
            self._take_ping(side, frame)
        elif kind == http2.SETTINGS:
            self._take_settings(side, frame)
        elif kind == http2.PRIORITY:
            lane.urgent(frame.raw)
        else:
            if kind == http2.GOAWAY:
                self._take_goaway(side, frame)
            lane.put(frame.raw)

    def _finish_frame(self, side: Side, frame: Frame) -> None:
        """Send on the rest of a frame that was under way when frames began to be made."""
        length = len(frame.payload) if frame.kind == http2.DATA else 0
        self.lanes[side].finish_frame(frame.raw, length)
        if frame.kind == http2.HEADERS:
            if self._decode(side, frame).shrinks:
                self.lanes[side].is_to_shrink = False
        elif frame.kind == http2.SETTINGS:
            self._read_settings(side, frame)
        elif frame.kind == http2.GOAWAY:
            self._take_goaway(side, frame)
        elif frame.kind == http2.WINDOW_UPDATE and not frame.stream:
            self.lanes[1 - side].window.window += _increment(frame)

    def _take_data(self, side: Side, frame: Frame) -> None:
        lane = self.lanes[side]
        if side is Side.RUNTIME:
            self._runtime_spoke = True
        held = self.held.get(frame.stream)
        length = len(frame.payload)
        if frame.stream in self._swallowed or (held is not None and held.half(side).finished):
            lane.window.held(length)
        elif held is None:
            self._pass_data(side, frame)
        else:
            half = held.half(side)
            half.ended = frame.ended
            if half.holding:
                self._hold_data(side, held, half, frame)
            elif lane.is_waiting(frame.stream) or length > lane.initial + half.offset:
                lane.window.held(length)
                self._grant(side, frame, length - len(frame.content))
                self._queue_output(half, frame.content, granted=False)
                half.finishing = frame.ended
                lane.send(half)
                self.pump(side)
            else:
                half.offset -= length
                self._pass_data(side, frame)
                if frame.ended:
                    half.finished = True
                    self._after_end(frame.stream, held)

    def _pass_data(self, side: Side, frame: Frame) -> None:
        """Send DATA on; one with padding that does not fit goes without, so that it can be cut."""
        lane = self.lanes[side]
        padded = len(frame.payload) - len(frame.content)
        if padded and not lane.takes(len(frame.payload)):
            lane.window.held(padded)
            self._grant(side, frame, padded)
            lane.put_data(building.data(frame.stream, frame.content, frame.ended))
        else:
            lane.put_data(frame.raw)

    def _hold_data(self, side: Side, held: _Held, half: Half, frame: Frame) -> None:
        self.lanes[side].window.held(len(frame.payload))
        self._grant(side, frame, len(frame.payload))
        content = frame.content
        half.partial += content
        half.size += len(content)
        self._budget.bytes += len(content)
        self._give_messages(side, held, half)
        if frame.ended and not held.is_over:
            if half.holding:
                held.handler.ended(side, [])
            else:
                self._finish(side, half)

    def _grant(self, side: Side, frame: Frame, size: int) -> None:
        """Let a stream's sender send as much again."""
        if size and not frame.ended:
            self.lanes[1 - side].urgent(building.window_update(frame.stream, size))

    def _give_messages(self, side: Side, held: _Held, half: Half) -> None:
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

    def _check_size(self, side: Side, held: _Held, half: Half, more: int) -> None:
        limit = self._budget.exceeded_by(half.size, more)
        if not limit:
            return
        held.handler.too_large(side, limit)
        if half.holding and not held.is_over:
            message = f"a message does not fit into the {limit} bytes that may be held"
            self._answer(half.stream, held, StatusCode.RESOURCE_EXHAUSTED, message)

    def _take_headers(self, side: Side, frame: Frame) -> None:
        lane = self.lanes[side]
        block = self._decode(side, frame)
        held = self.held.get(frame.stream)
        if side is Side.RUNTIME:
            self._runtime_spoke = True
        if side is Side.CLIENT and frame.stream > self._last:
            self._last = frame.stream
            self._open(block)
        elif frame.stream in self._swallowed or (held is not None and held.half(side).finished):
            lane.forget(block)
        elif held is None:
            lane.put_block(block, frame.ended)
        elif not frame.ended:
            held.begun = held.begun or side is Side.RUNTIME
            lane.put_block(block, False)
        elif side is Side.RUNTIME and held.request.holding and self._has_gone(held.response):
            self._answered_early(block, held)
        else:
            self._take_trailers(side, held, block)

    def _has_gone(self, response: Half) -> bool:
        """Tell whether all that came of a response has gone on."""
        waits = self.lanes[Side.RUNTIME].is_waiting(response.stream)
        return not (response.given or response.partial or waits)

    def _take_trailers(self, side: Side, held: _Held, block: Block) -> None:
        half = held.half(side)
        half.ended = True
        half.trailers = block
        self.lanes[side].defer(block)
        if half.holding:
            held.handler.ended(side, block.fields)
        else:
            self._finish(side, half)

    def _open(self, block: Block) -> None:
        """Take a new stream: hold of it what is to be held."""
        lane, frame = self.lanes[Side.CLIENT], block.frame
        stream = HeldStream(self, frame.stream, path_of(block.fields), block.fields)
        hold = self._decide(stream) if frame.stream <= self._served else None
        if hold is None:
            lane.put_block(block, frame.ended)
            return
        held = self.held[frame.stream] = _Held(frame.stream, hold)
        self._budget.streams += 1
        request = held.request
        request.ended = frame.ended
        request.finished = frame.ended and not request.holding
        lane.put_block(block, request.finished, hold.metadata)
        held.handler.opened()
        if frame.ended and request.holding and not held.is_over:
            held.handler.ended(Side.CLIENT, [])

    def _answered_early(self, block: Block, held: _Held) -> None:
        """Pass on the answer of a runtime that did not wait for the request."""
        stream = block.frame.stream
        ended = held.request.ended
        self.lanes[Side.RUNTIME].put_block(block, True)
        self.lanes[Side.CLIENT].put(building.reset(stream, ErrorCode.CANCEL))
        if not ended:
            self.lanes[Side.RUNTIME].put(building.reset(stream, ErrorCode.NO_ERROR))
        self._remember(stream)
        self._let_go(stream, held)

    def _take_window_update(self, side: Side, frame: Frame) -> None:
        """Take what ``side`` grants to what goes to it."""
        size = _increment(frame)
        to = self.lanes[1 - side]  # the lane that it speaks of
        if not frame.stream:
            told = to.window.granted(size)
        else:
            held = self.held.get(frame.stream)
            if held is not None:
                told = held.half(Side(1 - side)).granted(size)
                told = 0 if held.answered else told
            else:
                told = 0 if frame.stream in self._swallowed else size
        back = self.lanes[side]
        if told:
            update = building.window_update(frame.stream, told)
            if back.is_opening(frame.stream):
                back.put(update)
            else:
                back.urgent(update)
        self.pump(Side(1 - side))

    def _take_reset(self, side: Side, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise FrameSizeError(f"an RST_STREAM frame has {len(frame.payload)} bytes")
        held = self.held.get(frame.stream)
        if frame.stream in self._swallowed:
            if held is not None and side is Side.CLIENT:
                self._let_go(frame.stream, held)
        elif held is None:
            self.lanes[side].put(frame.raw)
        elif side is Side.RUNTIME and held.response.ended and not held.response.finished:
            held.reset = frame.raw
            self.lanes[Side.CLIENT].take_back(held.request)
            held.request.finished = True
        else:
            self.lanes[side].put(frame.raw)
            self._remember(frame.stream)  # what the other has sent before it knows
            self._let_go(frame.stream, held)

    def _take_ping(self, side: Side, frame: Frame) -> None:
        """Pass a PING on, but answer a client's that only what we made can have brought about.

        A grpc-go server counts the PINGs that come without its having sent anything in between,
        and closes the connection after a few (its ``too_many_pings``); a client sends one
        when DATA comes, to estimate the bandwidth.
        """
        if side is Side.RUNTIME or frame.flags & http2.FLAG_ACK:
            self.lanes[side].urgent(frame.raw)
            return
        made, back = self.lanes[Side.RUNTIME].made_data, self.lanes[Side.RUNTIME]
        back.made_data = False
        if made and not self._runtime_spoke:
            back.urgent(building.ping_ack(frame.payload))
        else:
            self.lanes[side].urgent(frame.raw)
            self._runtime_spoke = False

    def _take_settings(self, side: Side, frame: Frame) -> None:
        lane = self.lanes[side]
        if frame.flags & http2.FLAG_ACK:
            lane.put(frame.raw, acknowledges=True)
            self.pump(side)
            return
        self._read_settings(side, frame)
        if lane.blocked:  # the first one: nothing can stand before it
            lane.finish_frame(frame.raw, 0)
        else:
            lane.urgent(frame.raw)

    def _read_settings(self, side: Side, frame: Frame) -> None:
        if frame.flags & http2.FLAG_ACK:
            self.lanes[side].acknowledge()
            return
        if len(frame.payload) % 6:
            raise FrameSizeError(f"a SETTINGS frame has {len(frame.payload)} bytes")
        initial: int | None = None
        other = self._gatherers[1 - side]
        for identifier, value in _settings(frame.payload):
            if identifier == http2.SETTINGS_INITIAL_WINDOW_SIZE:
                initial = value
            elif identifier == http2.SETTINGS_MAX_FRAME_SIZE:
                value = min(value, http2.LARGEST_MAX_FRAME_SIZE)
                other.max_frame_size = max(other.max_frame_size, value)
            elif identifier == http2.SETTINGS_HEADER_TABLE_SIZE and side is Side.CLIENT:
                self._decoders[Side.RUNTIME].allow(value)
                if self._decoders[Side.RUNTIME].is_to_shrink:
                    self.lanes[Side.RUNTIME].is_to_shrink = True
        self.lanes[1 - side].unacknowledged.append(initial)

    def _take_goaway(self, side: Side, frame: Frame) -> None:
        """Let go of what a runtime will not serve any more; the client tries it elsewhere."""
        if len(frame.payload) < 8:
            raise FrameSizeError(f"a GOAWAY frame has {len(frame.payload)} bytes")
        last = _two_u32(frame.payload)[0] & STREAM_ID
        if side is Side.RUNTIME:
            self._served = last
            for stream, held in [each for each in self.held.items() if each[0] > last]:
                self._remember(stream)
                self._let_go(stream, held)

    # What handlers command: see HeldStream.

    def send(self, stream: HeldStream, side: Side, message: bytes) -> None:
        """See HeldStream; ``message`` is with its prefix."""
        held = self.held.get(stream.id)
        if held is not None and held.half(side).holding:
            half = held.half(side)
            self._give_back(half)
            self._queue_output(half, message, granted=True)
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
            self._after_end(stream.id, held)
            self._commanded()

    def _after_command(self, side: Side) -> None:
        self.pump(side)
        self._commanded()

    def _give_back(self, half: Half) -> None:
        """Count the oldest message that the handler was given no more."""
        if half.given:
            self._count(half, -half.given.popleft())

    def _queue_output(self, half: Half, data: bytes, granted: bool) -> None:
        if data:
            half.output.append((data, granted))
            self._count(half, len(data))

    def _count(self, half: Half, size: int) -> None:
        half.size += size
        self._budget.bytes += size

    def _answer(self, stream: int, held: _Held, code: StatusCode, message: str) -> None:
        requests, responses = self.lanes
        done = held.runtime_is_done
        held.answered = True
        requests.take_back(held.request)
        held.request.finished = True
        if not done:
            self._remember(stream)
            requests.put(building.reset(stream, ErrorCode.CANCEL))
        response = held.response
        while response.given:
            self._give_back(response)
        self._count(response, -len(response.partial))
        response.partial.clear()
        if isinstance(response.trailers, Block):
            responses.forget(response.trailers)
        response.trailers = building.trailers(code, message, held.begun)
        response.holding = False
        self._finish(Side.RUNTIME, response)

    # How streams end.

    def _finish(self, side: Side, half: Half) -> None:
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
                self._after_end(half.stream, held)

    def _after_end(self, stream: int, held: _Held) -> None:
        """See to what follows when the end of a direction has gone on."""
        request, response = held.request, held.response
        if held.is_over and request.finished and response.is_untouched:
            self._let_go(stream, held)
        elif response.finished:
            self._tell_over(held)
            if held.reset:
                self._remember(stream)
                self.lanes[Side.RUNTIME].put(held.reset)
            elif held.answered or not request.finished:
                self._stop_request(stream, held)
            if request.finished:
                self._let_go(stream, held)

    def _stop_request(self, stream: int, held: _Held) -> None:
        """Stop a client that still sends the request of a call that has its answer."""
        request = held.request
        passing = not (request.holding or self.lanes[Side.CLIENT].is_waiting(stream))
        if not held.answered and passing and not request.finished:
            return  # as without us: the two will see to it
        if not held.answered:
            self._remember(stream)
            self.lanes[Side.CLIENT].put(building.reset(stream, ErrorCode.CANCEL))
        if not request.ended:
            self.lanes[Side.RUNTIME].put(building.reset(stream, ErrorCode.NO_ERROR))
        request.finished = True

    def _let_go(self, stream: int, held: _Held) -> None:
        """Hold a stream no longer, and nothing of it."""
        del self.held[stream]
        self._budget.streams -= 1
        self.lanes[Side.CLIENT].take_back(held.request)
        self.lanes[Side.RUNTIME].take_back(held.response)
        self._tell_over(held)

    def _tell_over(self, held: _Held) -> None:
        if not held.is_over:
            held.is_over = True
            held.handler.over()

    def _remember(self, stream: int) -> None:
        self._swallowed[stream] = None  # the last time that is known may be long ago
        if len(self._swallowed) > _MOST_REMEMBERED:
            del self._swallowed[next(iter(self._swallowed))]

    def refund(self) -> None:
        """Grant the senders what they are owed, if it is much or nothing is held."""
        requests, responses = self.lanes
        at_rest = not self.held
        if owed := requests.window.refund(at_rest):
            responses.urgent(building.window_update(0, owed))
        if owed := responses.window.refund(at_rest):
            requests.urgent(building.window_update(0, owed))

    def lose_runtime(self, unanswered: Iterable[tuple[int, bool]]) -> None:
        """Answer what the runtime, which is gone, has not answered in full.

        ``unanswered``: the open streams, and whether their response's headers have passed.
        """
        lane = self.lanes[Side.RUNTIME]
        lane.put(building.goaway(self._last, ErrorCode.NO_ERROR))
        self._served = self._last
        for stream, begun in unanswered:
            held = self.held.get(stream)
            if lane.is_ending(stream) or (held is not None and held.is_answered):
                continue
            if held is not None:
                self._let_go(stream, held)
            fields = building.trailers(
                StatusCode.UNAVAILABLE, _RUNTIME_GONE, begun or lane.is_opening(stream)
            )
            lane.put_fields(stream, fields)

    def lose_all(self) -> None:
        """Let go of every stream."""
        for stream, held in tuple(self.held.items()):
            self._let_go(stream, held)

    def cut(self, stream: int, code: ErrorCode) -> None:
        """End a stream to both sides: to the client with a reset of ``code``."""
        held = self.held.get(stream)
        if held is not None:
            self._remember(stream)
            self._let_go(stream, held)
        self.lanes[Side.CLIENT].put(building.reset(stream, ErrorCode.CANCEL))
        self.lanes[Side.RUNTIME].put(building.reset(stream, code))

    def _decode(self, side: Side, frame: Frame) -> Block:
        decoder = self._decoders[side]
        before, to_shrink = decoder.changes, decoder.is_to_shrink
        fields = decoder.decode(frame.payload)
        shrinks = to_shrink and not decoder.is_to_shrink
        return Block(frame, fields, decoder.changes != before, shrinks)


def _increment(frame: Frame) -> int:
    """Return what a WINDOW_UPDATE grants (RFC 9113 section 6.9)."""
    if len(frame.payload) != 4:
        raise FrameSizeError(f"a WINDOW_UPDATE frame has {len(frame.payload)} bytes")
    increment: int = _u32(frame.payload)[0] & STREAM_ID
    return increment

"""Handles the frames of an intercepted connection.

Frames of streams that are not held are forwarded in order. The request headers of a held stream are
forwarded at once, without END_STREAM, so that streams are opened in order and the HPACK tables of
both sides stay in step; the headers of a call that the runtime must not see are replaced by blank
ones. Messages of a held stream are given to its handler, which decides what is forwarded instead
(see :mod:`criproxy.wire.intercept.held_streams`). The sender is granted again what it sends on a
held stream, and WINDOW_UPDATE frames for bytes of our own are not forwarded
(see :mod:`criproxy.wire.http2.windows`).

A response to a request whose hold has not ended is forwarded unchanged.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from criproxy.wire import constants
from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import FrameSizeError
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import LARGEST_TABLE, Decoder
from criproxy.wire.http2 import frame_builder
from criproxy.wire.http2.frame_buffer import STREAM_ID, Frame, FrameBuffer
from criproxy.wire.http2.frames import unpack_header, unpack_u32
from criproxy.wire.intercept.held_streams import HeldStreams, HeldStreamState
from criproxy.wire.intercept.path_scanner import IsWanted, path_of
from criproxy.wire.intercept.send_queue import HeaderBlock, HeldDirection
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import Side

_two_u32: Final = Struct(">II").unpack_from
_settings: Final = Struct(">HI").iter_unpack

_LIST_TOO_LARGE: Final = (
    "criproxy: the request's header list exceeds limits.header_list or limits.header_fields"
)

DecideHold = Callable[[HeldStream], Hold | None]
"""Returns what to hold of a stream that is being opened; None: nothing."""


class FrameDispatcher:
    """Handles whole frames of both sides; its output goes to the send queues of ``streams``."""

    def __init__(
        self,
        streams: HeldStreams,
        buffers: tuple[FrameBuffer, FrameBuffer],
        decoders: list[Decoder],
        last: int,
        served: int,
        wanted: IsWanted,
        decide: DecideHold,
    ) -> None:
        """``buffers`` and ``decoders`` are indexed by the sending side.

        ``last`` is the highest stream that the client has opened, ``served`` the last stream of the
        runtime's GOAWAY.
        """
        self.streams = streams
        self.queues = streams.queues
        self._buffers = buffers
        self._decoders = decoders
        self._last = last
        self._served = served
        self._wanted = wanted
        self._decide = decide
        self._runtime_sent = False  # since the client's last forwarded PING

    def count_windows(self, side: Side, data: bytes) -> tuple[int, int] | None:
        """Sum the DATA and connection WINDOW_UPDATEs of bytes that may be forwarded unchanged.

        None if they may not: while something is held or queued, and if they are not whole frames
        of the common kinds that fit the windows. The caller has to scan for new calls.
        """
        queue, other = self.queues[side], self.queues[1 - side]
        clear = queue.is_clear and other.is_clear and not self.queues[Side.RUNTIME].sent_own_data
        if self.streams.held or self.streams.discarded or not clear:
            return None
        position, size, flow, granted = 0, len(data), 0, 0
        while position < size:
            start = position + constants.FRAME_HEADER_SIZE
            if start > size:
                return None
            high, low, kind, flags, stream = unpack_header(data, position)
            length = high << 8 | low
            position = start + length
            if kind == constants.DATA:
                flow += length
            elif kind == constants.WINDOW_UPDATE and length == 4:
                if not stream & STREAM_ID and position <= size:
                    granted += unpack_u32(data, start)[0] & STREAM_ID
            elif kind == constants.HEADERS:
                if not flags & constants.FLAG_END_HEADERS:
                    return None
            elif kind != constants.PING:
                return None
        whole = position == size and flow <= queue.window.window
        return (flow, granted) if whole and not (granted and other.window.ledger) else None

    def apply_windows(self, side: Side, flow: int, granted: int) -> None:
        """Apply the sums of :meth:`count_windows` after the bytes were forwarded."""
        self.queues[side].window.record_forwarded(flow)
        self.queues[1 - side].window.window += granted

    def resume(self, side: Side, decoder: Decoder, last: int) -> None:
        """Adopt the reader's ``decoder`` and ``last`` stream after blocks were passed through."""
        self._decoders[side] = self.queues[side].decoder = decoder.copy()
        self._decoders[side].allow(LARGEST_TABLE)
        self._last = max(self._last, last)

    def take(self, side: Side, frame: Frame) -> None:
        """Handle a frame of a side. Raises a WireError for one that cannot be read."""
        queue = self.queues[side]
        kind = frame.kind
        if frame.partly_forwarded:
            self._finish_frame(side, frame)
        elif kind == constants.DATA:
            self._take_data(side, frame)
        elif kind == constants.HEADERS:
            self._take_headers(side, frame)
        elif kind == constants.WINDOW_UPDATE:
            self._take_window_update(side, frame)
        elif kind == constants.RST_STREAM:
            self._take_reset(side, frame)
        elif kind == constants.PING:
            self._take_ping(side, frame)
        elif kind == constants.SETTINGS:
            self._take_settings(side, frame)
        elif kind == constants.PRIORITY:
            queue.send_unordered(frame.raw)
        else:
            if kind == constants.GOAWAY:
                self._take_goaway(side, frame)
            queue.enqueue(frame.raw)

    def _finish_frame(self, side: Side, frame: Frame) -> None:
        """Forward the rest of a frame that was incomplete when interception started."""
        length = len(frame.payload) if frame.kind == constants.DATA else 0
        self.queues[side].finish_frame(frame.raw, length)
        if frame.kind == constants.HEADERS:
            if self._decode(side, frame).shrinks:
                self.queues[side].must_shrink = False
        elif frame.kind == constants.SETTINGS:
            self._read_settings(side, frame)
        elif frame.kind == constants.GOAWAY:
            self._take_goaway(side, frame)
        elif frame.kind == constants.WINDOW_UPDATE and not frame.stream:
            self.queues[1 - side].window.window += _increment(frame)

    def _take_data(self, side: Side, frame: Frame) -> None:
        queue = self.queues[side]
        if side is Side.RUNTIME:
            self._runtime_sent = True
        held = self.streams.held.get(frame.stream)
        length = len(frame.payload)
        if frame.stream in self.streams.discarded or (held is not None and held.discards(side)):
            queue.window.record_held(length)
        elif held is None:
            self._pass_data(side, frame)
        else:
            direction = held.direction(side)
            direction.ended = frame.ended
            if direction.holding:
                queue.window.record_held(length)
                self._grant(side, frame, length)
                self.streams.take_content(side, held, direction, frame.content, frame.ended)
            elif queue.is_waiting(frame.stream) or length > queue.initial + direction.offset:
                queue.window.record_held(length)
                self._grant(side, frame, length - len(frame.content))
                self.streams.queue_output(direction, frame.content, granted=False)
                direction.finishing = frame.ended
                queue.send(direction)
                self.streams.pump(side)
            else:
                direction.offset -= length
                self._pass_data(side, frame)
                if frame.ended:
                    direction.finished = True
                    self.streams.after_end(frame.stream, held)

    def _pass_data(self, side: Side, frame: Frame) -> None:
        """Forward DATA; without its padding if it exceeds the window, so that it can be split."""
        queue = self.queues[side]
        padded = len(frame.payload) - len(frame.content)
        if padded and not queue.takes(len(frame.payload)):
            queue.window.record_held(padded)
            self._grant(side, frame, padded)
            queue.enqueue_data(frame_builder.data(frame.stream, frame.content, frame.ended))
        else:
            queue.enqueue_data(frame.raw)

    def _grant(self, side: Side, frame: Frame, size: int) -> None:
        """Grant bytes of a stream to its sender again."""
        if size and not frame.ended:
            self.queues[1 - side].send_unordered(frame_builder.window_update(frame.stream, size))

    def _take_headers(self, side: Side, frame: Frame) -> None:
        queue = self.queues[side]
        block = self._decode(side, frame)
        held = self.streams.held.get(frame.stream)
        if side is Side.RUNTIME:
            self._runtime_sent = True
        if side is Side.CLIENT and frame.stream > self._last:
            self._last = frame.stream
            self._open(block)
        elif frame.stream in self.streams.discarded or (held is not None and held.discards(side)):
            queue.discard_block(block)
        elif block.is_truncated and (held is not None or queue.must_reencode):
            queue.discard_block(block)
            self.streams.reset(frame.stream, ErrorCode.ENHANCE_YOUR_CALM)
        elif held is None:
            queue.enqueue_block(block, frame.ended)
        elif not frame.ended:
            if side is Side.RUNTIME and not block.is_informational:
                held.headers_sent = True
            queue.enqueue_block(block, False)
        elif side is Side.RUNTIME and held.request.holding and self._is_forwarded(held.response):
            self._answered_early(block, held)
        else:
            self._take_trailers(side, held, block)

    def _is_forwarded(self, response: HeldDirection) -> bool:
        """Return whether all that was received of a response has been forwarded."""
        waits = self.queues[Side.RUNTIME].is_waiting(response.stream)
        return not (response.given or response.partial or waits)

    def _take_trailers(self, side: Side, held: HeldStreamState, block: HeaderBlock) -> None:
        direction = held.direction(side)
        direction.ended = True
        direction.trailers = block
        self.queues[side].defer_block(block)
        if direction.holding:
            held.handler.ended(side, block.fields)
        else:
            self.streams.finish(side, direction)

    def _open(self, block: HeaderBlock) -> None:
        """Handle the request headers of a new stream, and hold it if so decided."""
        queue, frame = self.queues[Side.CLIENT], block.frame
        path = path_of(block.fields)
        if block.is_truncated and (not path or self._wanted(path) or queue.must_reencode):
            self._refuse(block)
            return
        stream = HeldStream(self.streams, frame.stream, path, block.fields)
        decides = frame.stream <= self._served and not block.is_truncated
        hold = self._decide(stream) if decides else None
        if hold is None:
            queue.enqueue_block(block, frame.ended)
            return
        held = self.streams.hold(stream, hold)
        request = held.request
        request.ended = frame.ended
        request.finished = frame.ended and not request.holding
        if hold.hidden:
            queue.enqueue_placeholder(block)
            queue.enqueue(frame_builder.reset(frame.stream, ErrorCode.CANCEL))
        else:
            queue.enqueue_block(block, request.finished, hold.metadata)
        self.streams.opened(held)
        if frame.ended and request.holding and not held.is_closed:
            held.handler.ended(Side.CLIENT, [])

    def _refuse(self, block: HeaderBlock) -> None:
        """End a new call, which the runtime is not sent: its header list exceeds the limits."""
        queue, responses, stream = *self.queues, block.frame.stream
        queue.enqueue_placeholder(block)
        queue.enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        self.streams.discard_late_frames(stream)
        fields = frame_builder.trailers(StatusCode.RESOURCE_EXHAUSTED, _LIST_TOO_LARGE, False)
        responses.enqueue_trailers(stream, fields)
        if not block.frame.ended:
            responses.enqueue(frame_builder.reset(stream, ErrorCode.NO_ERROR))

    def _answered_early(self, block: HeaderBlock, held: HeldStreamState) -> None:
        """Forward a response that the runtime sent before the request was released."""
        stream = block.frame.stream
        ended = held.request.ended
        self.queues[Side.RUNTIME].enqueue_block(block, True)
        self.queues[Side.CLIENT].enqueue(frame_builder.reset(stream, ErrorCode.CANCEL))
        if not ended:
            self.queues[Side.RUNTIME].enqueue(frame_builder.reset(stream, ErrorCode.NO_ERROR))
        self.streams.discard_late_frames(stream)
        self.streams.remove(stream, held)

    def _take_window_update(self, side: Side, frame: Frame) -> None:
        """Apply a WINDOW_UPDATE of ``side`` to what is sent to it."""
        size = _increment(frame)
        to = self.queues[1 - side]  # the queue whose window it enlarges
        if not frame.stream:
            increment = to.window.take_update(size)
        else:
            held = self.streams.held.get(frame.stream)
            if held is not None:
                increment = held.direction(Side(1 - side)).granted(size)
                to.resume(frame.stream)
                increment = 0 if held.answered or held.hidden else increment
            else:
                increment = 0 if frame.stream in self.streams.discarded else size
        back = self.queues[side]
        if increment:
            update = frame_builder.window_update(frame.stream, increment)
            if back.is_opening(frame.stream):
                back.enqueue(update)
            else:
                back.send_unordered(update)
        self.streams.pump(Side(1 - side))

    def _take_reset(self, side: Side, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise FrameSizeError(f"an RST_STREAM frame has {len(frame.payload)} bytes")
        held = self.streams.held.get(frame.stream)
        if frame.stream in self.streams.discarded:
            if held is not None and side is Side.CLIENT:
                self.streams.remove(frame.stream, held)
        elif held is not None and held.hidden:
            if side is Side.CLIENT:
                self.streams.discard_late_frames(frame.stream)
                self.streams.remove(frame.stream, held)
        elif held is None:
            self.queues[side].enqueue(frame.raw)
        elif side is Side.RUNTIME and held.response.ended and not held.response.finished:
            held.reset = frame.raw
            self.queues[Side.CLIENT].cancel(held.request)
            held.request.finished = True
        else:
            self.queues[side].enqueue(frame.raw)
            self.streams.discard_late_frames(frame.stream)  # sent before the other side knows
            self.streams.remove(frame.stream, held)

    def _take_ping(self, side: Side, frame: Frame) -> None:
        """Forward a PING, but acknowledge a client's here if it is due to DATA of our own only.

        A grpc-go client sends a PING when it receives DATA, to estimate the bandwidth. A grpc-go
        server counts the PINGs that it receives without having sent anything in between, and closes
        the connection after a few (``too_many_pings``).
        """
        if side is Side.RUNTIME or frame.flags & constants.FLAG_ACK:
            self.queues[side].send_unordered(frame.raw)
            return
        made, back = self.queues[Side.RUNTIME].sent_own_data, self.queues[Side.RUNTIME]
        back.sent_own_data = False
        if made and not self._runtime_sent:
            back.send_unordered(frame_builder.ping_ack(frame.payload))
        else:
            self.queues[side].send_unordered(frame.raw)
            self._runtime_sent = False

    def _take_settings(self, side: Side, frame: Frame) -> None:
        queue = self.queues[side]
        if frame.flags & constants.FLAG_ACK:
            queue.enqueue(frame.raw, acknowledges=True)
            self.streams.pump(side)
            return
        self._read_settings(side, frame)
        if queue.blocked:  # the first frame: nothing may be sent before it
            queue.finish_frame(frame.raw, 0)
        else:
            queue.send_unordered(frame.raw)

    def _read_settings(self, side: Side, frame: Frame) -> None:
        if frame.flags & constants.FLAG_ACK:
            self.queues[side].acknowledge()
            return
        if len(frame.payload) % 6:
            raise FrameSizeError(f"a SETTINGS frame has {len(frame.payload)} bytes")
        initial: int | None = None
        other = self._buffers[1 - side]
        for identifier, value in _settings(frame.payload):
            if identifier == constants.SETTINGS_INITIAL_WINDOW_SIZE:
                initial = value
            elif identifier == constants.SETTINGS_MAX_FRAME_SIZE:
                value = min(value, constants.LARGEST_MAX_FRAME_SIZE)
                other.max_frame_size = max(other.max_frame_size, value)
            elif identifier == constants.SETTINGS_HEADER_TABLE_SIZE:
                self.queues[1 - side].limit_table(value)
                if side is Side.CLIENT:
                    self._decoders[Side.RUNTIME].allow(value)
                    if self._decoders[Side.RUNTIME].must_shrink:
                        self.queues[Side.RUNTIME].must_shrink = True
        self.queues[1 - side].unacknowledged.append(initial)

    def _take_goaway(self, side: Side, frame: Frame) -> None:
        """Remove the held streams that a runtime's GOAWAY excludes; the client retries them."""
        if len(frame.payload) < 8:
            raise FrameSizeError(f"a GOAWAY frame has {len(frame.payload)} bytes")
        last = _two_u32(frame.payload)[0] & STREAM_ID
        if side is Side.RUNTIME:
            self._served = last
            for stream, held in [each for each in self.streams.held.items() if each[0] > last]:
                self.streams.discard_late_frames(stream)
                self.streams.remove(stream, held)

    def lose_runtime(self, unanswered: Iterable[tuple[int, bool]]) -> None:
        """See :meth:`HeldStreams.lose_runtime`."""
        self._served = self._last
        self.streams.lose_runtime(self._last, unanswered)

    def _decode(self, side: Side, frame: Frame) -> HeaderBlock:
        decoder = self._decoders[side]
        before, to_shrink = decoder.changes, decoder.must_shrink
        fields = decoder.decode(frame.payload)
        shrinks = to_shrink and not decoder.must_shrink
        return HeaderBlock(frame, fields, decoder.changes != before, shrinks)


def _increment(frame: Frame) -> int:
    """Return the increment of a WINDOW_UPDATE (RFC 9113 section 6.9)."""
    if len(frame.payload) != 4:
        raise FrameSizeError(f"a WINDOW_UPDATE frame has {len(frame.payload)} bytes")
    return unpack_u32(frame.payload, 0)[0] & STREAM_ID

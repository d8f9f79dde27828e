"""Applies each frame to a connection that is split into whole frames.

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

from criproxy.wire import constants as http2
from criproxy.wire.constants import ErrorCode
from criproxy.wire.errors import FrameSizeError
from criproxy.wire.hpack.decoder import LARGEST_TABLE, Decoder
from criproxy.wire.http2 import frame_builder as building
from criproxy.wire.http2.frame_buffer import STREAM_ID, Frame, FrameBuffer
from criproxy.wire.intercept.held_streams import HeldStreams, HeldStreamState
from criproxy.wire.intercept.path_scanner import path_of
from criproxy.wire.intercept.send_queue import HeaderBlock, HeldDirection
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import Side

_header: Final = Struct(">HBBBI").unpack_from
_u32: Final = Struct(">I").unpack_from
_two_u32: Final = Struct(">II").unpack_from
_settings: Final = Struct(">HI").iter_unpack

DecideHold = Callable[[HeldStream], Hold | None]
"""What is to be held of a stream that is being opened; None: nothing."""


class FrameDispatcher:
    """Takes whole frames; what goes out goes to the lanes of its streams."""

    def __init__(
        self,
        streams: HeldStreams,
        gatherers: tuple[FrameBuffer, FrameBuffer],
        decoders: list[Decoder],
        last: int,
        served: int,
        decide: DecideHold,
    ) -> None:
        """``gatherers`` and ``decoders`` are by the side that sends.

        ``last`` is the highest stream that the client has opened, ``served`` the highest that the
        runtime will serve.
        """
        self.streams = streams
        self.lanes = streams.lanes
        self._gatherers = gatherers
        self._decoders = decoders
        self._last = last
        self._served = served
        self._decide = decide
        self._runtime_spoke = False  # since the client's last PING that went on

    def sums_of(self, side: Side, data: bytes) -> tuple[int, int] | None:
        """Add up what bytes that may go on as they are take of the connection's windows, and grant.

        None if they may not: while something is held or waits, and if they are not whole frames
        of the common kinds that the windows take. New calls are for the caller to look for.
        """
        lane, other = self.lanes[side], self.lanes[1 - side]
        clear = lane.is_clear and other.is_clear and not self.lanes[Side.RUNTIME].made_data
        if self.streams.held or self.streams.swallowed or not clear:
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
        held = self.streams.held.get(frame.stream)
        length = len(frame.payload)
        if frame.stream in self.streams.swallowed or (held is not None and held.swallows(side)):
            lane.window.held(length)
        elif held is None:
            self._pass_data(side, frame)
        else:
            half = held.half(side)
            half.ended = frame.ended
            if half.holding:
                lane.window.held(length)
                self._grant(side, frame, length)
                self.streams.take_content(side, held, half, frame.content, frame.ended)
            elif lane.is_waiting(frame.stream) or length > lane.initial + half.offset:
                lane.window.held(length)
                self._grant(side, frame, length - len(frame.content))
                self.streams.queue_output(half, frame.content, granted=False)
                half.finishing = frame.ended
                lane.send(half)
                self.streams.pump(side)
            else:
                half.offset -= length
                self._pass_data(side, frame)
                if frame.ended:
                    half.finished = True
                    self.streams.after_end(frame.stream, held)

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

    def _grant(self, side: Side, frame: Frame, size: int) -> None:
        """Let a stream's sender send as much again."""
        if size and not frame.ended:
            self.lanes[1 - side].urgent(building.window_update(frame.stream, size))

    def _take_headers(self, side: Side, frame: Frame) -> None:
        lane = self.lanes[side]
        block = self._decode(side, frame)
        held = self.streams.held.get(frame.stream)
        if side is Side.RUNTIME:
            self._runtime_spoke = True
        if side is Side.CLIENT and frame.stream > self._last:
            self._last = frame.stream
            self._open(block)
        elif frame.stream in self.streams.swallowed or (held is not None and held.swallows(side)):
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

    def _has_gone(self, response: HeldDirection) -> bool:
        """Tell whether all that came of a response has gone on."""
        waits = self.lanes[Side.RUNTIME].is_waiting(response.stream)
        return not (response.given or response.partial or waits)

    def _take_trailers(self, side: Side, held: HeldStreamState, block: HeaderBlock) -> None:
        half = held.half(side)
        half.ended = True
        half.trailers = block
        self.lanes[side].defer(block)
        if half.holding:
            held.handler.ended(side, block.fields)
        else:
            self.streams.finish(side, half)

    def _open(self, block: HeaderBlock) -> None:
        """Take a new stream: hold of it what is to be held."""
        lane, frame = self.lanes[Side.CLIENT], block.frame
        stream = HeldStream(self.streams, frame.stream, path_of(block.fields), block.fields)
        hold = self._decide(stream) if frame.stream <= self._served else None
        if hold is None:
            lane.put_block(block, frame.ended)
            return
        held = self.streams.hold(frame.stream, hold)
        request = held.request
        request.ended = frame.ended
        request.finished = frame.ended and not request.holding
        if hold.unheard:
            lane.put_blank(block)
            lane.put(building.reset(frame.stream, ErrorCode.CANCEL))
        else:
            lane.put_block(block, request.finished, hold.metadata)
        held.handler.opened()
        if frame.ended and request.holding and not held.is_over:
            held.handler.ended(Side.CLIENT, [])

    def _answered_early(self, block: HeaderBlock, held: HeldStreamState) -> None:
        """Pass on the answer of a runtime that did not wait for the request."""
        stream = block.frame.stream
        ended = held.request.ended
        self.lanes[Side.RUNTIME].put_block(block, True)
        self.lanes[Side.CLIENT].put(building.reset(stream, ErrorCode.CANCEL))
        if not ended:
            self.lanes[Side.RUNTIME].put(building.reset(stream, ErrorCode.NO_ERROR))
        self.streams.remember(stream)
        self.streams.let_go(stream, held)

    def _take_window_update(self, side: Side, frame: Frame) -> None:
        """Take what ``side`` grants to what goes to it."""
        size = _increment(frame)
        to = self.lanes[1 - side]  # the lane that it speaks of
        if not frame.stream:
            told = to.window.granted(size)
        else:
            held = self.streams.held.get(frame.stream)
            if held is not None:
                told = held.half(Side(1 - side)).granted(size)
                told = 0 if held.answered or held.unheard else told
            else:
                told = 0 if frame.stream in self.streams.swallowed else size
        back = self.lanes[side]
        if told:
            update = building.window_update(frame.stream, told)
            if back.is_opening(frame.stream):
                back.put(update)
            else:
                back.urgent(update)
        self.streams.pump(Side(1 - side))

    def _take_reset(self, side: Side, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise FrameSizeError(f"an RST_STREAM frame has {len(frame.payload)} bytes")
        held = self.streams.held.get(frame.stream)
        if frame.stream in self.streams.swallowed:
            if held is not None and side is Side.CLIENT:
                self.streams.let_go(frame.stream, held)
        elif held is not None and held.unheard:
            if side is Side.CLIENT:
                self.streams.remember(frame.stream)
                self.streams.let_go(frame.stream, held)
        elif held is None:
            self.lanes[side].put(frame.raw)
        elif side is Side.RUNTIME and held.response.ended and not held.response.finished:
            held.reset = frame.raw
            self.lanes[Side.CLIENT].take_back(held.request)
            held.request.finished = True
        else:
            self.lanes[side].put(frame.raw)
            self.streams.remember(frame.stream)  # what the other has sent before it knows
            self.streams.let_go(frame.stream, held)

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
            self.streams.pump(side)
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
            for stream, held in [each for each in self.streams.held.items() if each[0] > last]:
                self.streams.remember(stream)
                self.streams.let_go(stream, held)

    def lose_runtime(self, unanswered: Iterable[tuple[int, bool]]) -> None:
        """Let the client know that the runtime is gone; see :meth:`HeldStreams.lose_runtime`."""
        self._served = self._last
        self.streams.lose_runtime(self._last, unanswered)

    def _decode(self, side: Side, frame: Frame) -> HeaderBlock:
        decoder = self._decoders[side]
        before, to_shrink = decoder.changes, decoder.is_to_shrink
        fields = decoder.decode(frame.payload)
        shrinks = to_shrink and not decoder.is_to_shrink
        return HeaderBlock(frame, fields, decoder.changes != before, shrinks)


def _increment(frame: Frame) -> int:
    """Return what a WINDOW_UPDATE grants (RFC 9113 section 6.9)."""
    if len(frame.payload) != 4:
        raise FrameSizeError(f"a WINDOW_UPDATE frame has {len(frame.payload)} bytes")
    increment: int = _u32(frame.payload)[0] & STREAM_ID
    return increment

"""Strict HTTP/2 endpoints for tests: a client and a runtime that check their peer against RFC 9113.

An :class:`Endpoint` keeps all that it sent and was sent on each stream. It sends only what its
peer's windows allow, and counts its own windows to the byte as what it said reaches the peer:
SETTINGS from their ACK on. Whatever its peer must not do is a :class:`ViolationError`. Header
blocks go through ``hpack``, whose tables are strict too.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack

from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.wire import Header

INITIAL_WINDOW_SIZE = 4
LARGEST_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535
BANDWIDTH_PING = bytes((2, 4, 16, 16, 9, 14, 7, 7))
"""The payload of the PING that grpc-go's clients send at DATA, to estimate the bandwidth."""


class ViolationError(AssertionError):
    """The peer violated RFC 9113."""


class Block(NamedTuple):
    """A header block to be sent."""

    fields: list[Header]
    end: bool = False


class End(NamedTuple):
    """The end of a direction without trailers; ``joined``: with its last DATA, not on its own."""

    joined: bool


Outgoing = bytearray | Block | End


def is_informational(fields: list[Header]) -> bool:
    """Whether these are the headers of a response of status 1xx."""
    return fields[0][0] == b":status" and fields[0][1][:1] == b"1"


@dataclass
class Direction:
    """The state of one direction of a stream: the parts that have been sent."""

    headers: list[list[Header]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    code: int | None = None
    """Of the RST_STREAM."""

    @property
    def over(self) -> bool:
        return self.ended or self.code is not None

    @property
    def begun(self) -> bool:
        """Whether there were headers, other than those of informational responses."""
        return any(not is_informational(fields) for fields in self.headers)

    @property
    def fields(self) -> dict[bytes, bytes]:
        """All of its headers, trailers among them."""
        return {name: value for fields in self.headers for name, value in fields}


class Stream:
    """A stream as one endpoint sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = Direction()
        self.received = Direction()
        self.outgoing: deque[Outgoing] = deque()
        self.send_offset = 0  # the window is the peer's initial one and this
        self.receive_offset = 0
        self.unacknowledged = 0
        self.refused = False  # a GOAWAY left it out

    @property
    def reset(self) -> bool:
        return self.sent.code is not None or self.received.code is not None

    @property
    def closed(self) -> bool:
        return self.reset or self.refused or (self.sent.ended and self.received.ended)


class Endpoint:
    """One endpoint. ``out`` are the bytes that it has sent and that were not delivered yet."""

    def __init__(self, side: Side, *, pings: bool = False) -> None:
        """``pings``: it sends a PING at DATA, one at a time, as a grpc-go client does."""
        self.side = side
        self.out = bytearray(wire.PREFACE if side is Side.CLIENT else b"")
        self.streams: dict[int, Stream] = {}
        self.send_window = self.receive_window = DEFAULT_WINDOW
        self.unacknowledged = 0
        self.strikes = 0
        self.going: int | None = None  # the last stream of a GOAWAY that came
        self.last = -1 if side is Side.CLIENT else 0
        self.on_headers: Callable[[Stream], None] = lambda stream: None
        self.on_end: Callable[[Stream], None] = lambda stream: None
        self._pings = pings
        self._outstanding: Counter[bytes] = Counter()
        self._quiet = False  # nothing was sent on a stream since the last ping that came
        self._in = bytearray()
        self._preface = wire.PREFACE if side is Side.RUNTIME else b""
        self.settled = False
        self._block: tuple[int, bool, bytearray] | None = None
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._peer_initial = self._initial = DEFAULT_WINDOW
        self._peer_frame = self._frame = 16_384
        self._changes: deque[tuple[tuple[int, int], ...]] = deque()
        self.left_out: int | None = None  # the last stream of a GOAWAY that was sent

    # What it sends.

    def settle(self, *pairs: tuple[int, int]) -> None:
        """Send SETTINGS. They bind the peer once it has acknowledged them."""
        self._changes.append(pairs)
        self.out += wire.settings(*pairs)

    def open(self, fields: list[Header], *, end: bool = False, style: int = 0) -> Stream:
        """Open the next stream."""
        self.last += 2
        stream = self.streams[self.last] = Stream(self.last)
        self._send_block(stream, Block(fields, end), style)
        return stream

    def window(self, stream: Stream) -> int:
        """Return the number of bytes that may be sent on a stream."""
        return min(self.send_window, self._peer_initial + stream.send_offset)

    def push(self, stream: Stream, most: int, style: int = 0) -> bool:
        """Send the next frame of a stream, of up to ``most`` bytes; return False for nothing."""
        if not stream.outgoing or stream.reset or stream.refused:
            return False
        item = stream.outgoing[0]
        if isinstance(item, Block):
            stream.outgoing.popleft()
            self._send_block(stream, item, style)
        elif isinstance(item, End):
            stream.outgoing.popleft()
            self._send_data(stream, b"", True, None)
        else:
            return self._push_data(stream, item, most, style)
        return True

    def _push_data(self, stream: Stream, item: bytearray, most: int, style: int) -> bool:
        padding = style >> 3 & 0xFF if style & 7 == 7 else None
        room = min(self.window(stream), self._peer_frame, most)
        if padding is not None:
            room -= padding + 1
        size = min(room, len(item))
        if size <= 0:
            return False
        payload = bytes(item[:size])
        del item[:size]
        end = False
        if not item:
            stream.outgoing.popleft()
            match stream.outgoing:
                case [End(joined=True)]:
                    stream.outgoing.popleft()
                    end = True
        self._send_data(stream, payload, end, padding)
        return True

    def _send_data(self, stream: Stream, payload: bytes, end: bool, padding: int | None) -> None:
        size = len(payload) + (0 if padding is None else padding + 1)
        self.send_window -= size
        stream.send_offset -= size
        stream.sent.data += payload
        stream.sent.ended = end
        self._quiet = False
        self.out += wire.data(stream.number, payload, end=end, padding=padding)

    def _send_block(self, stream: Stream, item: Block, style: int) -> None:
        block = self._encoder.encode(item.fields, huffman=bool(style & 1))
        stream.sent.headers.append(item.fields)
        stream.sent.ended = item.end
        self._quiet = False
        if style & 2:
            fragments = 1 + (style >> 2) % 4
            self.out += wire.headers(stream.number, block, end=item.end, fragments=fragments)
            return
        flags = wire.END_HEADERS | (wire.END_STREAM if item.end else 0)
        if style & 4 and self.side is Side.CLIENT:
            flags, block = flags | wire.HAS_PRIORITY, b"\0\0\0\0\x10" + block
        if style & 8:
            flags, block = flags | wire.PADDED, wire.padded(block, style % 256)
        self.out += wire.frame(wire.HEADERS, flags, stream.number, block)

    def nothing(self, stream: Stream) -> None:
        """Send DATA without a byte."""
        if stream.sent.begun and not stream.sent.over and not stream.closed:
            self._send_data(stream, b"", False, None)

    def reset(self, stream: Stream, code: int) -> None:
        """Reset a stream unless it is over."""
        if not stream.closed:
            stream.sent.code = code
            stream.outgoing.clear()
            self.out += wire.reset(stream.number, code)

    def go_away(self, last: int, code: int = 0) -> None:
        """Send GOAWAY; streams above ``last`` are left out from now on."""
        self.left_out = min(last, LARGEST_WINDOW if self.left_out is None else self.left_out)
        self.out += wire.goaway(self.left_out, code)
        for stream in self.streams.values():
            stream.refused |= stream.number > self.left_out

    def ping(self, payload: bytes) -> None:
        self._outstanding[payload] += 1
        self.out += wire.frame(wire.PING, 0, 0, payload)

    def priority(self, number: int) -> None:
        self.out += wire.frame(wire.PRIORITY, 0, number, b"\0\0\0\0\x10")

    def acknowledge(self, stream: Stream | None, most: int) -> bool:
        """Give back up to ``most`` bytes of a window, the connection's for None."""
        of: Endpoint | Stream = self if stream is None else stream
        size = min(most, of.unacknowledged)
        if size:
            of.unacknowledged -= size
            self.grant(stream, size)
        return bool(size)

    def grant(self, stream: Stream | None, size: int) -> None:
        """Make a window larger, the connection's for None."""
        if stream is None:
            self.receive_window += size
            self.out += wire.window_update(0, size)
        elif not stream.reset and not stream.received.ended:
            stream.receive_offset += size
            self.out += wire.window_update(stream.number, size)

    # What it is sent.

    def receive(self, data: bytes) -> None:
        """Take bytes of the peer's. Raises ViolationError."""
        self._in += data
        if self._preface:
            size = min(len(self._in), len(self._preface))
            self._check(self._in[:size] == self._preface[:size], "no preface")
            del self._in[:size]
            self._preface = self._preface[size:]
        for kind, flags, number, payload in self._frames():
            self._take(kind, flags, number, payload)

    @property
    def quiescent(self) -> bool:
        """Whether no ACK and no rest of a frame is expected from the peer."""
        return not (self._in or self._changes or self._outstanding.total() or self._block)

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        buffer = self._in
        position = 0
        while len(buffer) - position >= 9:
            size = int.from_bytes(buffer[position : position + 3], "big")
            self._check(size <= self._frame, f"a frame of {size} bytes")
            end = position + 9 + size
            if end > len(buffer):
                break
            kind, flags = buffer[position + 3 : position + 5]
            number = int.from_bytes(buffer[position + 5 : position + 9], "big")
            yield kind, flags, number, bytes(buffer[position + 9 : end])
            position = end
        del buffer[:position]

    def _check(self, fine: bool, otherwise: str) -> None:
        if not fine:
            raise ViolationError(f"the {self.side.name.lower()} was sent {otherwise}")

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if not self.settled:
            self._check(kind == wire.SETTINGS and not flags & wire.ACK, "no SETTINGS first")
            self.settled = True
        if self._block:
            inside = kind == wire.CONTINUATION and number == self._block[0]
            self._check(inside, f"a frame of type {kind} within a header block")
        match kind:
            case wire.DATA:
                self._take_data(flags, number, payload)
            case wire.HEADERS:
                self._take_block(flags, number, payload)
            case wire.CONTINUATION:
                self._check(self._block is not None, "CONTINUATION outside of a header block")
                self._continue_block(flags, payload)
            case wire.RST_STREAM:
                stream = self._find(number, "RST_STREAM")
                self._check(stream.received.code is None, f"a second RST_STREAM for {number}")
                stream.received.code = int.from_bytes(payload, "big")
                stream.outgoing.clear()
            case wire.SETTINGS:
                self._take_settings(flags, payload)
            case wire.PING:
                self._take_ping(flags, payload)
            case wire.GOAWAY:
                self._take_goaway(int.from_bytes(payload[:4], "big"))
            case wire.WINDOW_UPDATE:
                self._take_window(number, int.from_bytes(payload, "big"))
            case wire.PRIORITY:
                pass
            case _:
                self._check(False, f"a frame of type {kind}")

    def _find(self, number: int, what: str) -> Stream:
        stream = self.streams.get(number)
        if stream is None:
            raise ViolationError(
                f"{self.side.name} was sent {what} on stream {number}, which is idle"
            )
        return stream

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._find(number, "DATA")
        direction = stream.received
        self._check(not direction.over, f"DATA on stream {number}, which is over")
        self._check(direction.begun, f"DATA on stream {number} before its headers")
        size = len(payload)
        self.receive_window -= size
        self._check(self.receive_window >= 0, f"{size} bytes over the connection's window")
        stream.receive_offset -= size
        left = self._initial + stream.receive_offset
        self._check(not size or left >= 0, f"{-left} bytes over the window of stream {number}")
        self.unacknowledged += size
        stream.unacknowledged += size
        if flags & wire.PADDED:
            self._check(payload[0] < size, "too much padding")
            payload = payload[1 : size - payload[0]]
        direction.data += payload
        if self._pings and size and not self._outstanding[BANDWIDTH_PING]:
            self.ping(BANDWIDTH_PING)
        self._end(stream, flags)

    def _end(self, stream: Stream, flags: int) -> None:
        if flags & wire.END_STREAM:
            stream.received.ended = True
            if not stream.closed or not stream.reset:
                self.on_end(stream)

    def _take_block(self, flags: int, number: int, payload: bytes) -> None:
        if flags & wire.PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if flags & wire.HAS_PRIORITY:
            payload = payload[5:]
        self._block = (number, bool(flags & wire.END_STREAM), bytearray())
        self._continue_block(flags, payload)

    def _continue_block(self, flags: int, payload: bytes) -> None:
        assert self._block is not None
        number, end, block = self._block
        block += payload
        if flags & wire.END_HEADERS:
            self._block = None
            decoded = self._decoder.decode(bytes(block), raw=True)
            self._take_headers(
                number, [(bytes(name), bytes(value)) for name, value in decoded], end
            )

    def _take_headers(self, number: int, fields: list[Header], end: bool) -> None:
        if self.side is Side.RUNTIME and number > self.last:
            self._check(bool(number & 1), f"stream {number}")
            self.last = number
            stream = self.streams[number] = Stream(number)
            stream.refused = self.left_out is not None and number > self.left_out
        stream = self._find(number, "HEADERS")
        direction = stream.received
        self._check(not direction.over, f"HEADERS on stream {number}, which is over")
        self._check(end or not direction.begun, f"trailers on stream {number} without its end")
        if self.side is Side.CLIENT:
            first = fields[0][0] == b":status"
            self._check(first is not direction.begun, f":status in the wrong block: {fields}")
            self._check(not (end and is_informational(fields)), f"no response on stream {number}")
        direction.headers.append(fields)
        if len(direction.headers) == 1 and not stream.refused:
            self.on_headers(stream)
        self._end(stream, wire.END_STREAM if end else 0)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & wire.ACK:
            self._check(bool(self._changes), "an ACK for no SETTINGS")
            for key, value in self._changes.popleft():
                self._bind(key, value)
            return
        for at in range(0, len(payload), 6):
            key = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == INITIAL_WINDOW_SIZE:
                self._peer_initial = value
            elif key == wire.MAX_FRAME_SIZE:
                self._peer_frame = value
            elif key == wire.HEADER_TABLE_SIZE:
                self._resize(value)
        self.out += wire.settings(ack=True)

    def _bind(self, key: int, value: int) -> None:
        """The peer has acknowledged a setting."""
        if key == INITIAL_WINDOW_SIZE:
            self._initial = value
        elif key == wire.MAX_FRAME_SIZE:
            self._frame = value
        elif key == wire.HEADER_TABLE_SIZE:
            self._decoder.max_allowed_table_size = value

    def _resize(self, size: int) -> None:
        """Have the encoder announce the smallest size and the last (RFC 7541 section 4.2).

        Of its own accord it announces all of them, also those that are not allowed any more.
        """
        encoder = self._encoder
        if size != encoder.header_table_size:
            encoder.header_table_size = size
            least = min(encoder.table_size_changes)
            encoder.table_size_changes = [least, size] if least < size else [size]

    def _take_ping(self, flags: int, payload: bytes) -> None:
        if flags & wire.ACK:
            self._check(self._outstanding[payload] > 0, f"an ACK for no PING: {payload!r}")
            self._outstanding[payload] -= 1
            return
        self.out += wire.frame(wire.PING, wire.ACK, 0, payload)
        if payload == BANDWIDTH_PING:
            self.strikes += self._quiet
            self._quiet = True

    def _take_goaway(self, last: int) -> None:
        self._check(self.going is None or last <= self.going, "a GOAWAY that takes more streams")
        self.going = last
        if self.side is Side.CLIENT:
            for stream in self.streams.values():
                stream.refused |= stream.number > last

    def _take_window(self, number: int, increment: int) -> None:
        self._check(increment > 0, "a WINDOW_UPDATE of 0")
        if not number:
            self.send_window += increment
            self._check(self.send_window <= LARGEST_WINDOW, "too large a connection window")
            return
        stream = self._find(number, "WINDOW_UPDATE")
        self._check(stream.received.code is None, f"a WINDOW_UPDATE after the reset of {number}")
        stream.send_offset += increment
        window = self._peer_initial + stream.send_offset
        self._check(window <= LARGEST_WINDOW, f"too large a window of stream {number}")

"""A model of gRPC traffic: it makes the bytes of both sides and the events expected of a reader.

It shares no code with ``criproxy.wire``: blocks come from ``hpack``, frames from the builders by
hand, and what is counted is kept as a plain list of what each byte of a stream is.
"""

import hpack

from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.wire import Began, Conversation, Ended, Header, Report, Sent


class Direction:
    """One direction of a call: messages that are written, and how many of their bytes passed."""

    def __init__(self) -> None:
        self.written = b""
        self.is_content: list[bool] = []
        self.ends: list[int] = []
        self.passed = 0
        self.closed = False

    def write(self, size: int) -> None:
        self.written += wire.message(b"m" * size, compressed=bool(size & 1))
        self.is_content += [False] * 5 + [True] * size
        self.ends.append(len(self.written))

    def take(self, size: int) -> bytes:
        taken = self.written[self.passed : self.passed + size]
        self.passed += len(taken)
        return taken

    @property
    def count(self) -> tuple[int, int]:
        messages = sum(end <= self.passed for end in self.ends)
        return messages, sum(self.is_content[: self.passed])


class Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.directions = {side: Direction() for side in Side}
        self.answered = False
        self.over = False


class Traffic:
    """Both sides of a connection. Each method sends something; ``expected`` grows with it.

    ``style`` is any number: its bits choose among the ways in which the same can be written.
    """

    def __init__(self) -> None:
        self.sent: Conversation = wire.conversation()
        self.expected: list[Report] = []
        self.streams: list[Stream] = []
        self._encoders = {side: hpack.Encoder() for side in Side}

    def _send(self, side: Side, frames: bytes) -> None:
        self.sent.append(Sent(side, frames))

    def _send_headers(
        self, side: Side, stream: int, fields: list[Header], end: bool, style: int
    ) -> None:
        block = self._encoders[side].encode(fields, huffman=bool(style & 1))
        if style & 2:
            frames = wire.headers(stream, block, end=end, fragments=1 + (style >> 2) % 4)
        else:
            flags = wire.END_HEADERS | (wire.END_STREAM if end else 0)
            if style & 4:
                flags, block = flags | wire.HAS_PRIORITY, b"\0\0\0\0\x10" + block
            if style & 8:
                flags, block = flags | wire.PADDED, wire.padded(block, style % 256)
            frames = wire.frame(wire.HEADERS, flags, stream, block)
        self._send(side, frames)

    def _end(self, stream: Stream, end: str, code: StatusCode, message: bytes) -> None:
        if stream.over:
            return
        stream.over = True
        request, response = (stream.directions[side].count for side in Side)
        self.expected.append(Ended(stream.number, end, code, message, request, response))

    def begin(self, style: int) -> None:
        """The client opens a stream; the numbers may have gaps."""
        last = self.streams[-1].number if self.streams else -1
        stream = Stream(last + 2 + 2 * (style % 3))
        path = b"/a.Service/Method%d" % (style % 7)
        fields = wire.request_fields(path, timeout=b"%dS" % (1000 + style % 1000))
        stream.directions[Side.CLIENT].closed = end = bool(style & 16)
        self.streams.append(stream)
        self.expected.append(Began(stream.number, path))
        self._send_headers(Side.CLIENT, stream.number, fields, end, style)

    def answer(self, stream: Stream, style: int) -> None:
        """The runtime sends response headers, once."""
        if not stream.answered and not stream.directions[Side.RUNTIME].closed:
            stream.answered = True
            fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
            self._send_headers(Side.RUNTIME, stream.number, fields, False, style)

    def write(self, side: Side, stream: Stream, style: int) -> None:
        """A side sends some bytes of its messages, in a DATA frame that ends anywhere."""
        direction = stream.directions[side]
        if direction.closed:
            return
        if style & 1 or direction.passed == len(direction.written):
            direction.write(style % 300)
        payload = direction.take(1 + style % 350)
        padding = style % 256 if style & 2 else None
        direction.closed = end = side is Side.CLIENT and style % 16 == 4
        self._send(side, wire.data(stream.number, payload, end=end, padding=padding))

    def finish(self, stream: Stream, style: int) -> None:
        """The runtime ends the call with trailers, alone where it has not answered."""
        direction = stream.directions[Side.RUNTIME]
        if direction.closed:
            return
        direction.closed = True
        code, text = StatusCode(style % 17), b"text %d" % (style % 5)
        fields = [] if stream.answered else [(b":status", b"200")]
        fields += [(b"grpc-status", b"%d" % code), (b"grpc-message", text)]
        self._send_headers(Side.RUNTIME, stream.number, fields, True, style)
        self._end(stream, "status", code, text)

    def reset(self, side: Side, stream: Stream, style: int) -> None:
        """A side resets a stream, whatever its state."""
        refused = bool(style & 1)
        self._send(side, wire.reset(stream.number, 7 if refused else 8))
        stream.directions[side].closed = True
        code = StatusCode.UNAVAILABLE if refused else StatusCode.CANCELLED
        if side is Side.CLIENT:
            self._end(stream, "client_reset", code, b"")
        else:
            name = b"REFUSED_STREAM" if refused else b"CANCEL"
            self._end(stream, "runtime_reset", code, b"stream reset: " + name)

    def leave_out(self, stream: Stream) -> None:
        """The runtime's GOAWAY leaves out the streams above this one."""
        self._send(Side.RUNTIME, wire.goaway(stream.number))
        for later in self.streams:
            if later.number > stream.number:
                later.directions[Side.RUNTIME].closed = True
                self._end(later, "goaway", StatusCode.UNAVAILABLE, b"the runtime is going")

    def resize(self, side: Side, style: int) -> None:
        """A side allows another header table; the other's encoder takes it up."""
        size = (0, 60, 200, 4096, 20_000)[style % 5]
        self._send(side, wire.settings((wire.HEADER_TABLE_SIZE, size)))
        other = Side(1 - side)
        self._send(other, wire.settings(ack=True))
        if size != self._encoders[other].header_table_size:
            self._encoders[other].header_table_size = size

    def send_other_frame(self, side: Side, style: int) -> None:
        """A side sends a frame that belongs to no call."""
        frames = [
            wire.ping(),
            wire.ping(ack=True),
            wire.window_update(style % 9, 1000),
            wire.frame(wire.PRIORITY, 0, 1, b"\0\0\0\0\x10"),
            wire.frame(0xF0, style % 256, style, bytes(style % 100)),
            wire.settings((3, style), (0x99, 1)),
        ]
        self._send(side, frames[style % len(frames)])

    def disconnect(self, side: Side) -> None:
        """A side ends the connection."""
        self.sent.append(Sent(side, b""))
        for stream in self.streams:
            if side is Side.CLIENT:
                text = b"the client closed the connection"
                self._end(stream, "client_gone", StatusCode.CANCELLED, text)
            else:
                text = b"the runtime closed the connection"
                self._end(stream, "runtime_gone", StatusCode.UNAVAILABLE, text)

"""A gRPC client's side of HTTP/2, as little as unary calls need, without I/O or a clock.

``Client.receive`` takes what the server sent and returns what grpc-go would answer to it; what it
learnt of the calls is in the attributes. It is fast rather than general: it understands what gRPC
servers and proxies send and refuses the rest (padding, priorities, CONTINUATION) with LoadError.
"""

import struct
from collections.abc import Sequence
from typing import Final

from bench.go_hpack import TABLE_BYTES, Field

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PADDED_OR_PRIORITY: Final = 0x8 | 0x20
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 0x1, 0x4

DEFAULT_WINDOW: Final = 65_535
"""Both windows at the start (RFC 9113 section 6.9.2), and where grpc-go's estimate begins."""
ESTIMATE: Final = b"\x02\x04\x10\x10\x09\x0e\x07\x07"
"""What grpc-go writes into the PINGs of its bandwidth estimate."""
OTHER_ANSWER: Final = "another answer"


class LoadError(Exception):
    """The connection cannot carry the load; the text says what happened."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame (RFC 9113 section 4.1)."""
    return struct.pack(">I", len(payload) << 8 | kind) + struct.pack(">BI", flags, stream) + payload


def prefixed(message: bytes) -> bytes:
    """Return a message with its prefix (gRPC over HTTP/2, "Length-Prefixed-Message")."""
    return struct.pack(">BI", 0, len(message)) + message


def request(stream: int, block: bytes, message: bytes) -> bytes:
    """Return a unary call's two frames: its HEADERS and the one message that ends the stream."""
    data = prefixed(message)
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, data)


def request_fields(path: str, timeout_us: int) -> list[Field]:
    """Return the fields of a kubelet's call, in the order in which grpc-go writes them."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-go/1.81.1"),
        (b"te", b"trailers"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"grpc-timeout", b"%du" % timeout_us),
    ]


class Client:
    """One connection's state. For each run: ``begin``, then ``open`` and ``receive`` in turn."""

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        """``window`` is how many bytes the server may send unacknowledged, 64 KiB at least."""
        self.send_window = DEFAULT_WINDOW
        self._window = window
        self._quarter = window // 4  # grpc-go, too, updates a window by the quarter
        self._unacknowledged = 0
        self._estimating = False
        self._rest = b""
        self.settings_seen = False
        self.goaways = 0
        self.begin(None)

    def opening(self) -> bytes:
        """Return the first bytes of a client: the preface, SETTINGS and a larger window."""
        settings = b""
        if self._window > DEFAULT_WINDOW:
            settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, self._window)
        opening = PREFACE + frame(SETTINGS, 0, 0, settings)
        if more := self._window - DEFAULT_WINDOW:
            opening += frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big"))
        return opening

    def begin(self, answer: bytes | None) -> None:
        """Start a run: right answers have ``answer`` as their DATA; None gathers it in ``body``."""
        self._answer = answer
        self.body = bytearray()
        self.opened: dict[int, int] = {}
        self.latencies: list[int] = []
        self.blocks: list[tuple[int, bool, bytes]] = []
        self.failures: dict[int, str] = {}
        self._received: dict[int, int] = {}

    def open(self, streams: Sequence[int], size: int, now: int) -> None:
        """Note that calls of ``size`` DATA bytes each begin now (nanoseconds)."""
        self.opened.update(dict.fromkeys(streams, now))
        self.send_window -= size * len(streams)

    def receive(self, data: bytes, now: int) -> bytes:
        """Read what arrived at ``now`` (nanoseconds); return the answer to it, perhaps empty.

        Raises LoadError for a frame that no gRPC server sends.
        """
        if self._rest:
            data = self._rest + data
        answers: list[bytes] = []
        at, size = 0, len(data)
        while at + 9 <= size:
            payload = at + 9
            end = payload + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : payload], "big")
            if kind == DATA:
                self._data(data, payload, end, stream, answers)
                if flags:
                    self._end_data(flags, stream, now)
            elif kind == HEADERS:
                self._headers(flags, stream, data[payload:end], now)
            elif kind == PING:
                self._ping(flags, data[payload:end], answers)
            elif kind == WINDOW_UPDATE:
                if not stream:
                    self.send_window += int.from_bytes(data[payload:end], "big")
            else:
                self._other_frame(kind, flags, stream, data[payload:end], answers, now)
            at = end
        self._rest = data[at:]
        return b"".join(answers)

    def _data(self, data: bytes, at: int, end: int, stream: int, answers: list[bytes]) -> None:
        size = end - at
        if not size:
            return  # a window cannot be updated by nothing
        received = self._received.get(stream, 0)
        total = self._received[stream] = received + size
        if self._answer is None:
            self.body += data[at:end]
        elif not data.startswith(self._answer[received:total], at):
            self.failures[stream] = OTHER_ANSWER
        if quarters := total // self._quarter - received // self._quarter:
            update = (quarters * self._quarter).to_bytes(4, "big")
            answers.append(frame(WINDOW_UPDATE, 0, stream, update))
        self._unacknowledged += size
        if not self._estimating:
            self._estimating = True
            answers.append(self._window_update() + frame(PING, 0, 0, ESTIMATE))
        elif self._unacknowledged >= self._quarter:
            answers.append(self._window_update())

    def _window_update(self) -> bytes:
        update = frame(WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4, "big"))
        self._unacknowledged = 0
        return update

    def _end_data(self, flags: int, stream: int, now: int) -> None:
        if flags & ~END_STREAM:
            raise LoadError(f"DATA with flags {flags:#x}: padding is not understood")
        self.failures[stream] = "no trailers"
        self._end(stream, now)

    def _headers(self, flags: int, stream: int, block: bytes, now: int) -> None:
        if flags & PADDED_OR_PRIORITY or not flags & END_HEADERS:
            raise LoadError(f"HEADERS with flags {flags:#x} are not understood")
        ended = bool(flags & END_STREAM)
        self.blocks.append((stream, ended, block))
        if ended:
            self._end(stream, now)

    def _ping(self, flags: int, payload: bytes, answers: list[bytes]) -> None:
        if flags & ACK:
            self._estimating = False
        else:
            answers.append(frame(PING, ACK, 0, payload))

    def _other_frame(
        self, kind: int, flags: int, stream: int, payload: bytes, answers: list[bytes], now: int
    ) -> None:
        if kind == SETTINGS:
            if not flags & ACK:
                self._settings(payload)
                answers.append(frame(SETTINGS, ACK, 0, b""))
        elif kind == RST_STREAM:
            if stream not in self.opened:
                return  # grpc-go's server may add one, NO_ERROR, to a complete answer
            self.failures[stream] = f"reset with code {int.from_bytes(payload, 'big')}"
            self._end(stream, now)
        elif kind == GOAWAY:
            self.goaways += 1
        else:
            raise LoadError(f"a frame of type {kind} is not understood")

    def _settings(self, payload: bytes) -> None:
        self.settings_seen = True
        for name, value in struct.iter_unpack(">HI", payload):
            if name == HEADER_TABLE_SIZE and value < TABLE_BYTES:
                raise LoadError(f"the server's header table has {value} bytes; ours needs 4096")

    def _end(self, stream: int, now: int) -> None:
        self.latencies.append(now - self.opened.pop(stream))
        if self._answer is not None and self._received.pop(stream, 0) != len(self._answer):
            self.failures.setdefault(stream, OTHER_ANSWER)

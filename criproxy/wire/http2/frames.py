"""Reads the frames of one direction of a relayed connection (RFC 9113 sections 4 and 6).

A :class:`FrameReader` takes bytes in chunks of any size and calls a :class:`FrameHandler` for each
frame. DATA payload is reported chunk by chunk, without being copied. Frames that are acted on are
buffered until they are complete; all others are skipped by their length.
"""

from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NamedTuple, NoReturn, Protocol

from criproxy.wire.constants import (
    CONTINUATION,
    DATA,
    DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_WINDOW,
    FLAG_ACK,
    FLAG_END_HEADERS,
    FLAG_END_STREAM,
    FLAG_PADDED,
    FLAG_PRIORITY,
    FRAME_HEADER_SIZE,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_INITIAL_WINDOW_SIZE,
    WINDOW_UPDATE,
)
from criproxy.wire.errors import (
    FrameSizeError,
    HTTP1Error,
    LimitError,
    NotHTTP2Error,
    ProtocolError,
    WireError,
)
from criproxy.wire.hpack.decoder import (
    DEFAULT_FIELD_LIMIT,
    DEFAULT_LIST_LIMIT,
    Decoder,
    Header,
)
from criproxy.wire.http1 import begins_request

DEFAULT_HEADER_BLOCK_LIMIT: Final = 1 << 20
"""Maximum bytes of a header block. grpc-go accepts 16 MiB by default, real ones have a few hundred
bytes. A connection with a larger one is relayed but not read any further."""

MAX_CONTINUATIONS: Final = 128
"""Maximum CONTINUATION frames of a header block, empty ones included: twice what a block of 1 MiB
takes in frames of 16 KiB."""

_MAX_UNACKNOWLEDGED: Final = 1000
"""Maximum SETTINGS frames that await their ACK; known peers have one or two."""

_STREAM_ID: Final = 0x7FFF_FFFF  # the highest bit is reserved (section 4.1)
unpack_header: Final[Callable[[bytes, int], tuple[int, int, int, int, int]]] = Struct(
    ">HBBBI"
).unpack_from
"""Unpacks the frame header at a position: the upper 16 and the lower 8 bits of its length, its
type, its flags, and its stream identifier with the reserved bit. Compiled code calculates faster
with results whose types are known."""

unpack_u32: Final[Callable[[bytes, int], tuple[int]]] = Struct(">I").unpack_from
"""Unpacks an unsigned integer of 32 bits at a position."""

_two_u32: Final = Struct(">II").unpack_from
_settings: Final = Struct(">HI").iter_unpack
_ANY: Final = -1
_NOT_WHOLE: Final = FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY

_EXACT_SIZES: Final = {
    PRIORITY: 5,
    PING: 8,
    WINDOW_UPDATE: 4,
}
"""Payload bytes of the skipped frames of fixed size (section 6)."""

_BUFFERED_KINDS: Final = frozenset(
    {
        HEADERS,
        RST_STREAM,
        SETTINGS,
        PUSH_PROMISE,
        GOAWAY,
        CONTINUATION,
    }
)
"""The frames that are buffered until they are complete."""


def is_informational(fields: Sequence[Header]) -> bool:
    """Return whether a header list is an interim response, of status 1xx.

    Any number of them may precede the response, which they are no part of (RFC 9113 section 8.1,
    RFC 9110 section 15.2).
    """
    for name, value in fields:
        if name == b":status":
            return value.startswith(b"1")
    return False


def check_beginning(other: bytes, missing: bytes, data: bytes) -> bytes:
    """Return all that a client has sent whose first bytes are not HTTP/2's.

    ``other`` is what this returned before; ``missing``: the part of the preface that was not
    received. Raises HTTP1Error or NotHTTP2Error as soon as the bytes tell.
    """
    beginning = (other or PREFACE[: len(PREFACE) - len(missing)]) + data
    begins = begins_request(beginning)
    if begins:
        raise HTTP1Error(beginning)
    if begins is False:
        raise NotHTTP2Error(f"a client's first bytes are not HTTP/2's: {beginning[:24]!r}")
    return beginning


class FrameHandler(Protocol):
    """Receives frames from a FrameReader. ``now`` is when the bytes arrived, in seconds."""

    def headers(self, stream: int, headers: list[Header], ended: bool, now: float) -> None:
        """Handle a decoded header block; ``ended``: with END_STREAM."""

    def data(self, stream: int, chunk: bytes, start: int, end: int, now: float) -> None:
        """Handle a piece of DATA payload, without padding: ``chunk[start:end]``."""

    def data_ended(self, stream: int, now: float) -> None:
        """Handle the end of a DATA frame with END_STREAM."""

    def reset(self, stream: int, code: int, now: float) -> None:
        """Handle an RST_STREAM."""

    def setting(self, identifier: int, value: int) -> None:
        """Handle one parameter of a SETTINGS frame."""

    def settings_acknowledged(self) -> None:
        """Handle a SETTINGS ACK: the other side's oldest unacknowledged SETTINGS are in force."""

    def goaway(self, last_stream: int, code: int, now: float) -> None:
        """Handle a GOAWAY."""


class PartialFrame(NamedTuple):
    """The incomplete frame or header block at which a reader stands."""

    partial: bytes
    """The beginning of a frame that cannot be read yet."""
    remaining: int
    """Bytes still to come of a frame that has been read."""
    block: bytes | None
    """The fragments of a header block that CONTINUATION frames continue; None outside of one."""
    block_stream: int
    block_ended: bool
    settings_received: bool
    """Whether the side's first SETTINGS have been received."""


AT_BOUNDARY: Final = PartialFrame(b"", 0, None, 0, False, True)
"""Between two frames, after the first."""


class FrameReader:
    """Reads the frames of one direction, in chunks of any size.

    ``preface``: a client's connection preface comes first. ``header_block_limit`` is in bytes; for
    the other limits see :class:`criproxy.wire.hpack.decoder.Decoder`.
    ``decoder`` and ``max_frame_size`` follow the receiving peer's SETTINGS: the other direction's
    handler sets them.
    """

    __slots__ = (
        "_block",
        "_block_ended",
        "_block_frames",
        "_block_stream",
        "_data_ends",
        "_data_left",
        "_data_stream",
        "_expected",
        "_handler",
        "_header_block_limit",
        "_other",
        "_partial",
        "_preface",
        "_skip",
        "_wanted",
        "decoder",
        "flow",
        "granted",
        "initial_window",
        "max_frame_size",
        "overhead_frames",
        "unacknowledged",
    )

    def __init__(
        self,
        handler: FrameHandler,
        preface: bool,
        header_block_limit: int = DEFAULT_HEADER_BLOCK_LIMIT,
        header_list_limit: int = DEFAULT_LIST_LIMIT,
        header_field_limit: int = DEFAULT_FIELD_LIMIT,
    ) -> None:
        self.decoder = Decoder(header_list_limit, header_field_limit)
        self.max_frame_size = DEFAULT_MAX_FRAME_SIZE
        self.flow = 0
        """Flow-controlled bytes that this side has sent so far."""
        self.overhead_frames = 0
        """Frames of this side that carry no header block and no data; see
        :mod:`criproxy.wire.http2.frame_rate`."""
        self.granted = 0
        """Sum of the connection WINDOW_UPDATE increments that this side has sent."""
        self.initial_window = DEFAULT_WINDOW
        """This side's SETTINGS_INITIAL_WINDOW_SIZE in force, in bytes."""
        self.unacknowledged: deque[int | None] = deque()
        """The same of each unacknowledged SETTINGS frame; None where it has no such parameter."""
        self._handler = handler
        self._header_block_limit = header_block_limit
        self._preface = PREFACE if preface else b""  # the part still to come
        self._other = b""  # a beginning that is not HTTP/2's, and too short to tell what it is
        self._expected = SETTINGS  # the only frame that may come next, or _ANY
        self._partial = bytearray()  # the beginning of a frame that is buffered
        self._wanted = 0  # bytes that `_partial` needs before it is read
        self._data_left = 0  # bytes of DATA still to be reported
        self._data_stream = 0
        self._data_ends = 0
        self._skip = 0  # bytes to skip, padding included
        self._block = bytearray()  # a header block that CONTINUATION frames continue
        self._block_stream = 0
        self._block_ended = False
        self._block_frames = 0

    def read(self, data: bytes, now: float) -> None:
        """Read the next bytes; ``now`` is passed to the handler.

        Raises a WireError when they cannot be read. All frames before have been handled then, and
        the reader must not be used again, except for :meth:`unread`.
        """
        if self._preface:
            data = self._read_preface(data)
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return None
            data = bytes(self._partial)
            self._partial.clear()
        size = len(data)
        end = self._data_left + self._skip  # of the frame that is being read
        try:
            position = self._continue_frame(data, now) if end else 0
            while position < size:
                start = position + FRAME_HEADER_SIZE
                if start > size:
                    return self._save_partial(data, position, FRAME_HEADER_SIZE)
                high, low, kind, flags, stream = unpack_header(data, position)
                length = high << 8 | low
                end = start + length
                if length > self.max_frame_size or self._expected != _ANY:
                    self._check(kind, flags, stream, length)
                if kind == DATA:
                    padding = 0
                    if flags & FLAG_PADDED and length and start == size:
                        return self._save_partial(data, position, FRAME_HEADER_SIZE + 1)
                    self.flow += length
                    if flags & FLAG_PADDED and length:
                        padding = _padding(data[start], length)
                        start += 1
                    self._data_stream = stream & _STREAM_ID
                    self._data_ends = flags & FLAG_END_STREAM
                    self._data_left = end - padding - start
                    self._report_data(data, start, now)
                elif kind in _BUFFERED_KINDS:
                    if length > self._header_block_limit:
                        self._refuse_buffering(length)
                    if end > size:
                        return self._save_partial(data, position, FRAME_HEADER_SIZE + length)
                    if kind == HEADERS and flags & _NOT_WHOLE == FLAG_END_HEADERS:
                        headers = self.decoder.decode(data[start:end])
                        ended = bool(flags & FLAG_END_STREAM)
                        self._handler.headers(stream & _STREAM_ID, headers, ended, now)
                    else:
                        self._take(kind, flags, stream & _STREAM_ID, data[start:end], now)
                elif length != _EXACT_SIZES.get(kind, length):
                    self._refuse_size(kind, length)
                else:
                    if kind == WINDOW_UPDATE and not stream & _STREAM_ID:
                        if end > size:
                            return self._save_partial(data, position, FRAME_HEADER_SIZE + length)
                        self.granted += unpack_u32(data, start)[0] & _STREAM_ID
                    self.overhead_frames += 1
                if end > size:
                    self._skip = end - size - self._data_left
                    return None
                position = end
        except WireError:
            self._data_left, self._skip = 0, max(0, end - size)
            self._partial = bytearray(data[end:])
            raise
        return None

    @property
    def not_started(self) -> bool:
        """Whether nothing has been received yet."""
        return self._preface == PREFACE and not self._other

    @property
    def to_boundary(self) -> int | None:
        """Bytes to the next frame boundary at which a frame may be inserted; 0: here.

        None within a frame header, a buffered frame or a header block, and before the first
        SETTINGS.
        """
        if self._partial or self._expected != _ANY:
            return None
        return self._data_left + self._skip

    @property
    def until_known(self) -> int:
        """Bytes that may follow before :attr:`to_boundary` can be known; 0 if it is.

        They complete a frame header, a buffered frame, or the preface, and no more than that.
        """
        if self._partial:
            return self._wanted - len(self._partial)
        return 0 if self._expected == _ANY else len(self._preface) + FRAME_HEADER_SIZE

    def unread(self) -> tuple[int, bytes]:
        """Return the bytes until the next frame header, and what came of that and behind it.

        To be called when the connection is not read any more, because this side or the other cannot
        be read.
        """
        return len(self._preface) + self._data_left + self._skip, bytes(self._partial)

    def _continue_frame(self, data: bytes, now: float) -> int:
        """Continue the frame that the last chunk ended in; return its end in this one."""
        position = 0
        if self._data_left:
            position = self._report_data(data, position, now)
        skipped = min(self._skip, len(data) - position)
        self._skip -= skipped
        return position + skipped

    def _read_preface(self, data: bytes) -> bytes:
        expected = self._preface[: len(data)]
        if self._other or not data.startswith(expected):
            self._other = check_beginning(self._other, self._preface, data)
            return b""
        self._preface = self._preface[len(expected) :]
        return data[len(expected) :]

    def _save_partial(self, data: bytes, position: int, wanted: int) -> None:
        """Save the bytes from ``position`` on until there are ``wanted``."""
        self._partial += data[position:]
        self._wanted = wanted

    def _report_data(self, data: bytes, position: int, now: float) -> int:
        """Report the part of a DATA frame's payload in a chunk; return its end."""
        left = self._data_left
        end = position + left
        if end > len(data):
            end = len(data)
        if end > position:
            self._handler.data(self._data_stream, data, position, end, now)
            self._data_left = left = left - (end - position)
        elif not left and not self._data_ends:
            self.overhead_frames += 1
        if not left and self._data_ends:
            self._handler.data_ended(self._data_stream, now)
        return end

    def _check(self, kind: int, flags: int, stream: int, length: int) -> None:
        """Check a frame's size, and its kind where only one is allowed.

        RFC 9113 sections 4.2, 3.4 (SETTINGS first) and 6.10 (a header block is not interrupted).
        """
        if self._expected == SETTINGS and (kind != SETTINGS or flags & FLAG_ACK):
            raise NotHTTP2Error("the first frame is not a SETTINGS frame")
        if length > self.max_frame_size:
            self._refuse_size(kind, length)
        if self._expected == SETTINGS:
            self._expected = _ANY
        elif self._expected == CONTINUATION and (
            kind != CONTINUATION or stream & _STREAM_ID != self._block_stream
        ):
            raise ProtocolError(f"a frame of type {kind} stands within a header block")

    def _refuse_size(self, kind: int, length: int) -> NoReturn:
        raise FrameSizeError(
            f"a frame of type {kind} has {length} bytes (at most {self.max_frame_size} allowed)"
        )

    def _refuse_buffering(self, length: int) -> NoReturn:
        raise LimitError(
            f"a frame of {length} bytes is to be gathered and "
            f"{self._header_block_limit} is the limit"
        )

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        """Handle a buffered frame."""
        if kind == HEADERS:
            if flags & FLAG_PADDED:
                payload = without_padding(payload)
            if flags & FLAG_PRIORITY:
                payload = without_priority(payload)
            if flags & FLAG_END_HEADERS:
                ended = bool(flags & FLAG_END_STREAM)
                self._handler.headers(stream, self.decoder.decode(payload), ended, now)
            else:
                self._open_block(stream, flags, payload)
        elif kind == CONTINUATION:
            self._continue_block(flags, payload, now)
        elif kind == SETTINGS:
            self.overhead_frames += 1
            self._take_settings(flags, payload)
        elif kind == RST_STREAM:
            self.overhead_frames += 1
            if len(payload) != 4:
                self._refuse_size(kind, len(payload))
            self._handler.reset(stream, unpack_u32(payload, 0)[0], now)
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise FrameSizeError(f"a GOAWAY frame has {len(payload)} bytes")
            last_stream, code = _two_u32(payload)
            self._handler.goaway(last_stream & _STREAM_ID, code, now)
        else:
            raise ProtocolError("a PUSH_PROMISE frame: gRPC knows no server push")

    def _open_block(self, stream: int, flags: int, fragment: bytes) -> None:
        self._block_stream = stream
        self._block_ended = bool(flags & FLAG_END_STREAM)
        self._block_frames = 0
        self._block += fragment
        self._expected = CONTINUATION

    def _continue_block(self, flags: int, fragment: bytes, now: float) -> None:
        if self._expected != CONTINUATION:
            raise ProtocolError("a CONTINUATION frame carries no header block on")
        self.overhead_frames += 1
        self._block_frames += 1
        check_continuations(self._block_frames)
        self._block += fragment
        if len(self._block) > self._header_block_limit:
            raise LimitError(f"a header block is over {self._header_block_limit} bytes")
        if flags & FLAG_END_HEADERS:
            block = bytes(self._block)
            self._block.clear()
            self._expected = _ANY
            headers = self.decoder.decode(block)
            self._handler.headers(self._block_stream, headers, self._block_ended, now)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if len(payload) % 6 or (flags & FLAG_ACK and payload):
            raise FrameSizeError(f"a SETTINGS frame has {len(payload)} bytes")
        if flags & FLAG_ACK:
            self._handler.settings_acknowledged()
            return
        initial: int | None = None
        for identifier, value in _settings(payload):
            if identifier == SETTINGS_INITIAL_WINDOW_SIZE:
                initial = value
            self._handler.setting(identifier, value)
        if len(self.unacknowledged) >= _MAX_UNACKNOWLEDGED:
            raise LimitError(f"{_MAX_UNACKNOWLEDGED} SETTINGS frames wait for their ACK")
        self.unacknowledged.append(initial)

    def apply_settings(self) -> None:
        """Put the oldest unacknowledged SETTINGS of this side in force."""
        if self.unacknowledged:
            initial = self.unacknowledged.popleft()
            if initial is not None:
                self.initial_window = initial

    def partial_frame(self) -> "PartialFrame":
        """Return the incomplete frame or header block at which the reader stands."""
        if self.to_boundary == 0:
            return AT_BOUNDARY
        return PartialFrame(
            bytes(self._partial),
            self._data_left + self._skip,
            bytes(self._block) if self._expected == CONTINUATION else None,
            self._block_stream,
            self._block_ended,
            self._expected != SETTINGS,
        )


def check_continuations(count: int) -> None:
    """Raise LimitError if a header block has too many CONTINUATION frames."""
    if count > MAX_CONTINUATIONS:
        raise LimitError(f"a header block has more than {MAX_CONTINUATIONS} CONTINUATION frames")


def _padding(padding: int, length: int) -> int:
    """Check a Pad Length against the payload's length (section 6.1)."""
    if padding >= length:
        raise ProtocolError(f"a frame of {length} bytes has {padding} bytes of padding")
    return padding


def padding_of(payload: bytes) -> int:
    """Return the Pad Length of a padded frame's payload."""
    if not payload:
        raise FrameSizeError("a padded frame has no Pad Length")
    return _padding(payload[0], len(payload))


def without_padding(payload: bytes) -> bytes:
    """Remove the Pad Length and the padding."""
    return payload[1 : len(payload) - padding_of(payload)]


def without_priority(payload: bytes) -> bytes:
    """Remove the priority fields of a HEADERS frame (section 6.2)."""
    if len(payload) < 5:
        raise FrameSizeError("a HEADERS frame with priority has no room for it")
    return payload[5:]

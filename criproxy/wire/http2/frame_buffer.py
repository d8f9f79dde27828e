"""Assembles the frames of an intercepted connection (RFC 9113 section 4.1).

Unlike the reader, which handles DATA in pieces, it keeps a frame until it is complete and a header
block until its last CONTINUATION frame.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from criproxy.wire import constants
from criproxy.wire.errors import FrameSizeError, LimitError, ProtocolError
from criproxy.wire.http2.frames import (
    AT_BOUNDARY,
    PartialFrame,
    check_continuations,
    padding_of,
    unpack_header,
    without_padding,
    without_priority,
)

STREAM_ID: Final = 0x7FFF_FFFF
"""Mask of the stream identifier; the highest bit is reserved (section 4.1)."""

REST: Final = -1
"""The kind of the rest of a frame whose beginning was forwarded."""

_NOT_WHOLE: Final = constants.FLAG_END_HEADERS | constants.FLAG_PADDED | constants.FLAG_PRIORITY


class Frame(NamedTuple):
    """A frame as received, or a header block with all of its frames."""

    kind: int
    flags: int
    stream: int
    raw: bytes
    """The bytes to be forwarded: all but those that were forwarded already."""
    payload: bytes
    """With padding; of a header block the joined fragments, without padding."""
    partly_forwarded: bool = False
    """Whether its beginning was forwarded already, so that it cannot be held."""

    @property
    def ended(self) -> bool:
        """Whether it carries END_STREAM."""
        return bool(self.flags & constants.FLAG_END_STREAM)

    @property
    def content(self) -> bytes:
        """A DATA frame's payload without padding."""
        return without_padding(self.payload) if self.flags & constants.FLAG_PADDED else self.payload


class FrameBuffer:
    """Assembles whole frames from the bytes of one direction."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_limit",
        "_block_raw",
        "_block_stream",
        "_buffer",
        "_forwarded",
        "_passing",
        "_wanted",
        "max_frame_size",
    )

    def __init__(
        self, max_frame_size: int, block_limit: int, partial_frame: PartialFrame = AT_BOUNDARY
    ) -> None:
        """``partial_frame``: the forwarded part of an incomplete frame or header block."""
        self.max_frame_size = max_frame_size
        self._block_limit = block_limit
        self._buffer = bytearray(partial_frame.partial)
        self._forwarded = len(partial_frame.partial)  # bytes of the buffer that were forwarded
        self._wanted = 0  # bytes that the buffer needs before it is parsed again
        self._passing = partial_frame.remaining
        self._block: bytearray | None = None
        self._block_frames = 0
        self._block_raw: bytearray | None = None  # None: its beginning was forwarded
        self._block_stream = partial_frame.block_stream
        self._block_flags = constants.FLAG_END_STREAM if partial_frame.block_ended else 0
        if partial_frame.block is not None:
            self._block = bytearray(partial_frame.block)

    @property
    def at_boundary(self) -> bool:
        """Whether only whole frames and whole header blocks were forwarded so far."""
        return not (self._forwarded or self._passing or self._block is not None)

    @property
    def is_empty(self) -> bool:
        """Whether it is at a boundary and its buffer is empty."""
        return not self._buffer and self.at_boundary

    @property
    def to_boundary(self) -> int | None:
        """Bytes until the next frame header; None within one."""
        if not self._buffer:
            return self._passing
        return self._wanted - len(self._buffer) if self._wanted else None

    def leftover(self) -> bytes:
        """Return the unforwarded beginning of a frame and of its header block."""
        return bytes(self._block_raw or b"") + bytes(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take the next bytes; yield the frames that are complete.

        Raises a WireError for a frame that cannot be read.
        """
        if self._passing:
            rest = data[: self._passing]
            self._passing -= len(rest)
            data = data[len(rest) :]
            yield Frame(REST, 0, 0, rest, b"", partly_forwarded=True)
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._wanted:
                return
            data = bytes(buffer)
            buffer.clear()
        position, size, self._wanted = 0, len(data), 0
        while size - position >= constants.FRAME_HEADER_SIZE:
            high, low, kind, flags, stream = unpack_header(data, position)
            start = position + constants.FRAME_HEADER_SIZE
            end = start + (high << 8 | low)
            if end - start > self.max_frame_size:
                raise FrameSizeError(f"a frame of type {kind} has {end - start} bytes")
            if end > size:
                self._wanted = end - position
                break
            raw, partly_forwarded = data[position:end], False
            if self._forwarded:
                raw, partly_forwarded = raw[self._forwarded :], True
                self._forwarded = 0
            position = end
            frame = Frame(kind, flags, stream & STREAM_ID, raw, data[start:end], partly_forwarded)
            if kind == constants.HEADERS and flags & _NOT_WHOLE == constants.FLAG_END_HEADERS:
                if self._block is not None:
                    raise ProtocolError("a HEADERS frame stands within a header block")
                yield frame
            elif (
                kind == constants.CONTINUATION
                or kind == constants.HEADERS
                or self._block is not None
            ):
                yield from self._append_fragment(frame)
            else:
                if kind == constants.DATA and flags & constants.FLAG_PADDED and frame.payload:
                    padding_of(frame.payload)
                yield frame
        if position < size:
            buffer += data[position:]

    def _append_fragment(self, frame: Frame) -> Iterator[Frame]:
        fragment = frame.payload
        if frame.kind == constants.HEADERS and self._block is None:
            fragment = fragment_of(frame.flags, frame.payload)
            self._block = bytearray()
            self._block_raw = None if frame.partly_forwarded else bytearray()
            self._block_stream, self._block_flags = frame.stream, frame.flags
            self._block_frames = 0
        elif (
            frame.kind != constants.CONTINUATION
            or self._block is None
            or frame.stream != self._block_stream
        ):
            raise ProtocolError(f"a frame of type {frame.kind} stands where it may not")
        else:
            self._block_frames += 1
            check_continuations(self._block_frames)
        self._block += fragment
        if len(self._block) > self._block_limit:
            raise LimitError(f"a header block is over {self._block_limit} bytes")
        partly_forwarded = self._block_raw is None
        if self._block_raw is not None:
            self._block_raw += frame.raw
        if frame.flags & constants.FLAG_END_HEADERS:
            raw = frame.raw if self._block_raw is None else bytes(self._block_raw)
            block, self._block, self._block_raw = bytes(self._block), None, None
            yield Frame(
                constants.HEADERS, self._block_flags, frame.stream, raw, block, partly_forwarded
            )
        elif partly_forwarded:
            yield Frame(REST, 0, 0, frame.raw, b"", partly_forwarded=True)


def fragment_of(flags: int, payload: bytes) -> bytes:
    """Return the header block fragment of a HEADERS frame's payload (section 6.2)."""
    if flags & constants.FLAG_PADDED:
        payload = without_padding(payload)
    return without_priority(payload) if flags & constants.FLAG_PRIORITY else payload

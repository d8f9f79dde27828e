"""Counts the frames of a connection that is not read any more, by their headers alone.

The reading stops where a limit of the reader is exceeded, or RFC 9113 is violated, which some
runtimes let pass. The frames go on, and those that cost work and carry nothing are still limited
(:mod:`criproxy.wire.http2.frame_rate`): otherwise a client would do the one to be rid of the other.
"""

from criproxy.wire.constants import (
    DATA,
    FLAG_END_STREAM,
    FLAG_PADDED,
    FRAME_HEADER_SIZE,
    GOAWAY,
    HEADERS,
    LARGEST_STREAM,
)
from criproxy.wire.http2.frames import unpack_header


class FrameCounter:
    """Counts the frames of one side, in chunks of any size, from a frame boundary on."""

    __slots__ = ("_last", "_partial", "_skip", "data_bytes", "ends", "overhead")

    def __init__(self, skip: int, last_stream: int) -> None:
        """``skip``: bytes until the first frame. ``last_stream``: the highest that was opened."""
        self.overhead = 0
        """Frames that carry neither data nor the first header block of a stream."""
        self.data_bytes = 0
        """Bytes of DATA, padding included."""
        self.ends = 0
        """Header blocks that end a stream: of the runtime, those that answer a call."""
        self._skip = skip
        self._last = last_stream
        self._partial = b""  # of a frame header

    def count(self, data: bytes) -> None:
        """Count the frames that begin in the next bytes."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        position, size = self._skip, len(data)
        while size - position >= FRAME_HEADER_SIZE:
            high, low, kind, flags, stream = unpack_header(data, position)
            length = high << 8 | low
            position += FRAME_HEADER_SIZE + length
            if kind == DATA:
                self.data_bytes += length
                # Nobody pads messages: with padding, all of the payload may be that.
                if flags & FLAG_PADDED or not (length or flags & FLAG_END_STREAM):
                    self.overhead += 1
            elif kind == HEADERS:
                stream &= LARGEST_STREAM
                if flags & FLAG_END_STREAM:
                    self.ends += 1
                if stream > self._last:
                    self._last = stream
                else:
                    self.overhead += 1
            elif kind != GOAWAY:
                self.overhead += 1
        self._skip = max(0, position - size)
        if position < size:
            self._partial = data[position:]

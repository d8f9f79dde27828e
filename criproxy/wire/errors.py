"""The reasons why a connection can no longer be read.

::

    WireError                reading stops; carries the HTTP/2 error code of its kind
    ├── NotHTTP2Error        the bytes are some other protocol
    ├── HTTP1Error           they are a request of HTTP/1
    ├── ProtocolError        a frame that RFC 9113 forbids where it stands
    ├── FrameSizeError       a frame longer or shorter than RFC 9113 allows
    ├── CompressionError     a header block that does not decode (RFC 7541)
    ├── FlowControlError     more DATA than the connection's window (RFC 9113 section 5.2)
    └── LimitError           a limit of the reader is exceeded

None is sent to a peer: the reader turns them into an event, and the bytes are still relayed.
"""

from typing import ClassVar, Final

from criproxy.wire.constants import ErrorCode


class WireError(Exception):
    """The reading of a connection cannot continue. The message names the cause."""

    reason: ClassVar[str]
    """One of :data:`REASONS`; a metric's label."""
    code: ClassVar[ErrorCode]
    """The HTTP/2 error code that RFC 9113 gives for it."""


class NotHTTP2Error(WireError):
    """The bytes are not HTTP/2: no preface, or no SETTINGS first (RFC 9113 section 3.4)."""

    reason = "not_http2"
    code = ErrorCode.PROTOCOL_ERROR


class HTTP1Error(WireError):
    """The bytes are a request of HTTP/1, which CRI-O serves on the same socket."""

    reason = "http1"
    code = ErrorCode.PROTOCOL_ERROR

    def __init__(self, beginning: bytes) -> None:
        """``beginning``: all that the client has sent."""
        super().__init__(f"a client speaks HTTP/1: {beginning[:24]!r}")
        self.beginning = beginning


class ProtocolError(WireError):
    """A frame that RFC 9113 forbids at its position."""

    reason = "protocol_error"
    code = ErrorCode.PROTOCOL_ERROR


class FrameSizeError(WireError):
    """A frame longer or shorter than RFC 9113 section 4.2 allows."""

    reason = "frame_size_error"
    code = ErrorCode.FRAME_SIZE_ERROR


class CompressionError(WireError):
    """A header block that cannot be decoded (RFC 7541)."""

    reason = "compression_error"
    code = ErrorCode.COMPRESSION_ERROR


class FlowControlError(WireError):
    """More DATA than the window of the connection (RFC 9113 section 5.2)."""

    reason = "flow_control_error"
    code = ErrorCode.FLOW_CONTROL_ERROR


class LimitError(WireError):
    """The peer exceeds a limit of the reader, for example `limits.header_block`."""

    reason = "limit"
    code = ErrorCode.ENHANCE_YOUR_CALM


INTERNAL_ERROR: Final = "internal_error"
"""The reason for an exception of the reader's own."""

REASONS: Final = (
    *(
        kind.reason
        for kind in (
            NotHTTP2Error,
            HTTP1Error,
            ProtocolError,
            FrameSizeError,
            CompressionError,
            FlowControlError,
            LimitError,
        )
    ),
    INTERNAL_ERROR,
)
"""All reasons, for metrics."""

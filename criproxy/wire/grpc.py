"""gRPC over HTTP/2: messages, status codes, timeouts (the gRPC project's PROTOCOL-HTTP2.md)."""

from collections.abc import Callable
from enum import IntEnum
from math import inf
from struct import Struct
from typing import Final
from urllib.parse import unquote_to_bytes

from criproxy.wire.constants import ErrorCode

PREFIX_SIZE: Final = 5
"""Bytes in front of each message: its compressed flag and its length ("Messages")."""

_length: Final[Callable[[bytes, int], tuple[int]]] = Struct(">xI").unpack_from


class StatusCode(IntEnum):
    """The codes that a call can end with (the gRPC project's statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_STATUSES: Final = {b"%d" % code: code for code in StatusCode}

_OF_RESET: Final = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}

_OF_HTTP: Final = {
    b"400": StatusCode.INTERNAL,
    b"401": StatusCode.UNAUTHENTICATED,
    b"403": StatusCode.PERMISSION_DENIED,
    b"404": StatusCode.UNIMPLEMENTED,
    b"429": StatusCode.UNAVAILABLE,
    b"502": StatusCode.UNAVAILABLE,
    b"503": StatusCode.UNAVAILABLE,
    b"504": StatusCode.UNAVAILABLE,
}

_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def code_of_reset(error: int) -> StatusCode:
    """Map an RST_STREAM's error code to what a client reports ("Errors").

    The mapping leaves STREAM_CLOSED and HTTP_1_1_REQUIRED open; grpc-go and C-core report INTERNAL.
    """
    if error > ErrorCode.HTTP_1_1_REQUIRED:
        return StatusCode.UNKNOWN
    return _OF_RESET.get(ErrorCode(error), StatusCode.INTERNAL)


def code_of_http(status: bytes) -> StatusCode:
    """Map a :status without a grpc-status to what clients report (http-grpc-status-mapping.md)."""
    return _OF_HTTP.get(status, StatusCode.UNKNOWN)


def parse_status(value: bytes) -> StatusCode:
    """Parse a grpc-status value; UNKNOWN if it is not a known code, as clients do."""
    status = _STATUSES.get(value)
    if status is not None:
        return status
    if not value.isdigit():  # int() accepts blanks, signs and underscores
        return StatusCode.UNKNOWN
    try:
        return StatusCode(int(value))
    except ValueError:
        return StatusCode.UNKNOWN


def parse_message(value: bytes) -> str:
    """Decode a grpc-message (percent-encoded UTF-8); replace what is not valid."""
    return unquote_to_bytes(value).decode(errors="replace")


def parse_timeout(value: bytes) -> float | None:
    """Parse a grpc-timeout ("Timeout") into seconds; None if it is malformed."""
    unit = _SECONDS.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * unit


class MessageCounter:
    """Counts the messages of one direction of a call as their bytes pass.

    ``messages`` is the number of complete messages, ``bytes`` the size of their content (as on the
    wire, without the five-byte prefixes) including that of an incomplete message. Counting stops at
    a message of more than ``limit`` bytes; ``refused`` is its size then, else 0.
    """

    __slots__ = ("_left", "_limit", "_prefix", "bytes", "messages", "refused")

    def __init__(self, limit: float = inf) -> None:
        self.messages = 0
        self.bytes = 0
        self.refused = 0
        self._limit = limit
        self._left = 0  # bytes missing of the current message
        self._prefix = b""  # an incomplete prefix

    @property
    def at_boundary(self) -> bool:
        """Whether all messages that have begun are complete."""
        return not (self._left or self._prefix)

    def feed(self, data: bytes, start: int, end: int) -> None:
        """Count ``data[start:end]``."""
        if not self._left and not self._prefix and end - start >= PREFIX_SIZE:
            length = _length(data, start)[0]
            if end - start - PREFIX_SIZE == length <= self._limit:  # one whole message
                self.messages += 1
                self.bytes += length
                return
        while start < end:
            if self._left:
                step = min(self._left, end - start)
                self._left -= step
                start += step
                self.bytes += step
                if not self._left:
                    self.messages += 1
                continue
            if self._prefix or end - start < PREFIX_SIZE:
                taken = PREFIX_SIZE - len(self._prefix)
                self._prefix += data[start : min(start + taken, end)]
                start += taken
                if len(self._prefix) < PREFIX_SIZE:
                    return
                length = _length(self._prefix, 0)[0]
                self._prefix = b""
            else:
                length = _length(data, start)[0]
                start += PREFIX_SIZE
            if length > self._limit:
                self.refused = length
                return
            self._left = length
            if not length:
                self.messages += 1

"""Builds the frames that the proxy itself sends (RFC 9113 section 6)."""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final
from urllib.parse import quote

from criproxy.wire import constants
from criproxy.wire.constants import ErrorCode
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.hpack.encoder import encode

LARGEST_FRAME: Final = constants.DEFAULT_MAX_FRAME_SIZE
"""Maximum bytes of payload in a frame of ours: the size that every peer accepts (section 4.2)."""

_pack_header: Final = Struct(">HBBBI").pack
_pack_u32: Final = Struct(">I").pack
_pack_two_u32: Final = Struct(">II").pack

PLACEHOLDER: Final[list[Header]] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/criproxy/denied"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
"""Request headers that stand in for those of a hidden call; no server has the method."""

_UNENCODED: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""Unencoded characters of a grpc-message ("Responses"): printable ASCII except the percent sign."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Build a frame; ``payload`` is at most 16 MiB - 1."""
    length = len(payload)
    return _pack_header(length >> 8, length & 0xFF, kind, flags, stream) + payload


def stream_of(raw: bytes) -> int:
    """Return a frame's stream identifier."""
    return int.from_bytes(raw[5 : constants.FRAME_HEADER_SIZE], "big") & 0x7FFF_FFFF


def data(stream: int, payload: bytes, ended: bool) -> bytes:
    """Build a DATA frame."""
    return frame(constants.DATA, constants.FLAG_END_STREAM if ended else 0, stream, payload)


def headers(stream: int, block: bytes, ended: bool) -> bytes:
    """Build HEADERS, and CONTINUATION frames where the block is too long for one."""
    return b"".join(_header_frames(stream, block, ended))


def _header_frames(stream: int, block: bytes, ended: bool) -> Iterator[bytes]:
    kind, flags = constants.HEADERS, constants.FLAG_END_STREAM if ended else 0
    position = 0
    while len(block) - position > LARGEST_FRAME:
        yield frame(kind, flags, stream, block[position : position + LARGEST_FRAME])
        kind, flags, position = constants.CONTINUATION, 0, position + LARGEST_FRAME
    yield frame(kind, flags | constants.FLAG_END_HEADERS, stream, block[position:])


def reset(stream: int, code: ErrorCode) -> bytes:
    """Build an RST_STREAM frame."""
    return frame(constants.RST_STREAM, 0, stream, _pack_u32(code))


def window_update(stream: int, increment: int) -> bytes:
    """Build a WINDOW_UPDATE frame; stream 0 stands for the connection."""
    return frame(constants.WINDOW_UPDATE, 0, stream, _pack_u32(increment))


def goaway(last_stream: int, code: ErrorCode) -> bytes:
    """Build a GOAWAY frame."""
    return frame(constants.GOAWAY, 0, 0, _pack_two_u32(last_stream, code))


def ping(payload: bytes) -> bytes:
    """Build a PING frame; ``payload`` has eight bytes."""
    return frame(constants.PING, 0, 0, payload)


def ping_ack(payload: bytes) -> bytes:
    """Build a PING with ACK."""
    return frame(constants.PING, constants.FLAG_ACK, 0, payload)


def trailers(code: StatusCode, message: str, headers_sent: bool) -> list[tuple[bytes, bytes]]:
    """Return the fields that end a call: Trailers if ``headers_sent``, else Trailers-Only.

    gRPC over HTTP/2, "Responses".
    """
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", quote(message, safe=_UNENCODED).encode("ascii")))
    if not headers_sent:
        fields[:0] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    return fields


def literal_headers(stream: int, fields: Sequence[Header], ended: bool) -> bytes:
    """Build HEADERS whose block does not change the receiver's table."""
    return headers(stream, encode(fields), ended)

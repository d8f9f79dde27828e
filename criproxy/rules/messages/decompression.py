"""Decompression of messages (gRPC over HTTP/2, "Message-Encoding")."""

import zlib
from typing import Final

from criproxy.rules.errors import EvaluationError

_ANY_FORMAT: Final = 32 + zlib.MAX_WBITS
"""zlib's window bits that accept both gzip and zlib (which gRPC calls deflate)."""

_ENCODINGS: Final = frozenset({b"gzip", b"deflate"})
"""The supported values of grpc-encoding."""


def decompress(compressed: bytes, encoding: bytes | None, limit: int) -> bytes:
    """Return the decompressed bytes of a message.

    ``encoding`` is the stream's grpc-encoding, None if unknown. Raises EvaluationError:
    ``compressed`` for data that cannot be decompressed, ``held_limit`` for more than ``limit``
    bytes.
    """
    if encoding is not None and encoding not in _ENCODINGS:
        raise EvaluationError("compressed", f"grpc-encoding {encoding.decode('latin-1')!r}")
    inflater = zlib.decompressobj(_ANY_FORMAT)
    try:
        data = inflater.decompress(compressed, limit + 1)
    except zlib.error as error:
        raise EvaluationError("compressed", str(error)) from error
    if len(data) > limit:
        raise EvaluationError("held_limit", f"inflates to more than {limit} bytes")
    if not inflater.eof:
        raise EvaluationError("compressed", "the compressed message is not complete")
    if inflater.unused_data:  # a second gzip member, which Go would append to the message
        raise EvaluationError("compressed", "something stands behind the compressed message")
    return data

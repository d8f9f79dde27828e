"""What compressed messages say (gRPC's "Message-Encoding")."""

import zlib
from typing import Final

from criproxy.rules.errors import EvaluationError

_ANY_FORMAT: Final = 32 + zlib.MAX_WBITS
"""zlib's window bits for: gzip or zlib (which gRPC calls deflate), whichever it is."""

_ENCODINGS: Final = frozenset({b"gzip", b"deflate"})
"""What may be said in grpc-encoding of a message that can be looked into."""


def decompress(compressed: bytes, encoding: bytes | None, limit: int) -> bytes:
    """Return what a compressed message says, ``limit`` bytes at most.

    ``encoding`` is the stream's grpc-encoding, None where that is not known. Raises
    EvaluationError: ``compressed`` for what cannot be inflated, ``held_limit`` for too much.
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
    if inflater.unused_data:  # a second member of gzip's, which Go reads as more of the message
        raise EvaluationError("compressed", "something stands behind the compressed message")
    return data

"""Bounds the bytes of one side that are handled at once, by the work that their frames cost.

A chunk of 256 KiB holds 28,000 empty frames, or the headers of 20,000 calls. So it is handled in
parts: the event loop has its turn, and with it each other connection, between two of them.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from criproxy.wire.constants import (
    CONTINUATION,
    DATA,
    FLAG_END_STREAM,
    FRAME_HEADER_SIZE,
    HEADERS,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
)

SMALL_PART: Final = 256
"""Bytes that are handled at once whatever they hold: 28 empty frames, or 20 header blocks."""


class Bound(NamedTuple):
    """The bound of the work that is done at once, in units of what an empty frame costs."""

    work: int
    data_bytes: int
    """Bytes of a frame other than a header block that count as one unit: they are messages."""


READ: Final = Bound(256, 512)
"""For bytes that are read in passing: a message takes 0.2 µs."""

INTERCEPTED: Final = Bound(128, 128)
"""For a connection with held streams: a frame takes 2 to 6 µs, a message 1 µs, and a call with its
rules more than 100 µs."""

TERMINATED: Final = Bound(64, 512)
"""For frames that h2 handles: one takes 10 to 40 µs."""

_CALL: Final = 8
"""The work of a header block and of the end of a request: a call is reported and evaluated."""

_RESET: Final = 4
"""The work of a reset: a call is reported."""

_SETTINGS: Final = 16
"""The work of SETTINGS: they may change the window of each stream."""

_BLOCK_BYTES: Final = 64
"""Bytes of a header block that count as one unit, Huffman-coded as they may be."""

_WITH_BLOCK: Final = (HEADERS, CONTINUATION, PUSH_PROMISE)

_header: Final[Callable[[bytes, int], tuple[int, int, int, int]]] = Struct(">HBBB").unpack_from


def part_size(data: bytes, start: int, to_boundary: int | None, bound: Bound) -> int:
    """Return how many of the bytes of ``data`` from ``start`` on are to be handled at once.

    ``to_boundary``: bytes of them until the next frame header; None: unknown. It ends with the
    frame that exceeds the bound, or within a frame that is larger than the bound by itself.
    """
    left = len(data) - start
    if left <= SMALL_PART:
        return left
    if to_boundary is None:
        return SMALL_PART
    limit, data_bytes = bound
    work = to_boundary // data_bytes
    position, last = start + to_boundary, len(data) - FRAME_HEADER_SIZE
    while position <= last and work < limit:
        high, low, kind, flags = _header(data, position)
        length = high << 8 | low
        position += FRAME_HEADER_SIZE + length
        if kind in _WITH_BLOCK:
            work += _CALL + length // _BLOCK_BYTES
        else:
            work += 1 + length // data_bytes
            if kind == RST_STREAM:
                work += _RESET
            elif kind == SETTINGS:
                work += _SETTINGS
            elif kind == DATA and flags & FLAG_END_STREAM:
                work += _CALL
    return left if work < limit else min(left, position - start, limit * data_bytes)

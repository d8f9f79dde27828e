"""The recorded connections of tests/data/captures, as conversations."""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from struct import Struct

from criproxy.wire.reading.connection import Side
from tests.support.wire import Conversation, Sent

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "captures"
NAMES = sorted(path.name.removesuffix(".bin.gz") for path in DIRECTORY.glob("*.bin.gz"))

_record = Struct("<BQI")


def _records(raw: bytes) -> Iterator[Sent]:
    position = 0
    while position < len(raw):
        direction, nanoseconds, length = _record.unpack_from(raw, position)
        position += _record.size
        # Directions 2 and 3 are the sides' ends of stream: they have no bytes.
        yield Sent(Side(direction & 1), raw[position : position + length], nanoseconds / 1e9)
        position += length


@cache
def capture(name: str) -> Conversation:
    """Return a recorded connection, ends included. Callers must not change it."""
    return list(_records(gzip.decompress((DIRECTORY / f"{name}.bin.gz").read_bytes())))


def sent_by(side: Side, conversation: Conversation) -> bytes:
    """Return the bytes that one side sent."""
    return b"".join(sent.data for sent in conversation if sent.side is side)

"""The file format of cassettes: blocks, each of which can be read by itself.

A block is a member of a gzip file (RFC 1952), so that ``gzip -d`` decompresses a cassette. The
member's header is the same in all blocks up to its extra field ``CR``, which has the version of the
format (1 byte) and the length of the whole member (4 bytes, little endian). The content is a
sequence of records, each preceded by its length in 4 bytes, little endian.

A reader finds the next block by the length, also behind one that is damaged, and looks for a
header's constant bytes where there is none.
"""

import zlib
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from criproxy.cassette.records import VERSION, AnyRecord, encode

MAGIC: Final = b"\x1f\x8b\x08\x04\0\0\0\0\x00\xff\x09\x00CR\x05\x00"
"""The constant bytes of a block's header: gzip, deflate, an extra field, no time."""

HEADER_SIZE: Final = len(MAGIC) + 5

LARGEST_RECORD: Final = 32 << 20
"""Bytes of a record: more than the largest message that gRPC peers of the CRI accept (16 MiB)."""

BLOCK_SIZE: Final = 256 << 10
"""Bytes of records from which on a block is written."""

LARGEST_BLOCK: Final = LARGEST_RECORD + BLOCK_SIZE
"""Bytes of a block's records at most: the last of them may be a large one."""

LARGEST_MEMBER: Final = LARGEST_BLOCK + (1 << 20)
"""Bytes of a block at most: deflate adds little to what it cannot compress."""

_LEVEL: Final = 6
"""zlib's level, its default: lists of containers shrink to a seventh, at 100 MB/s."""

_extra: Final = Struct("<BI")
_length: Final = Struct("<I")
_trailer: Final = Struct("<II")


class BlockHeader(NamedTuple):
    """What the header of a block says."""

    version: int
    size: int
    """Bytes of the whole block."""


class DamagedBlockError(ValueError):
    """A block whose content is not what was written."""


def frame(record: bytes) -> bytes:
    """Return a record as it stands in a block."""
    return _length.pack(len(record)) + record


def build(content: bytes, version: int = VERSION) -> bytes:
    """Build a block of framed records."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflater.compress(content) + deflater.flush()
    size = HEADER_SIZE + len(body) + _trailer.size
    checksum = _trailer.pack(zlib.crc32(content), len(content))
    return MAGIC + _extra.pack(version, size) + body + checksum


def parse_header(header: bytes) -> BlockHeader | None:
    """Parse the first HEADER_SIZE bytes of a block; None for anything else."""
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        return None
    version, size = _extra.unpack_from(header, len(MAGIC))
    return BlockHeader(version, size)


def records_in(block: bytes) -> Iterator[bytes]:
    """Yield the records of a block. Raises DamagedBlockError before the first of them."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(block[HEADER_SIZE:], LARGEST_BLOCK)
    except zlib.error as error:
        raise DamagedBlockError(str(error)) from error
    if not inflater.eof or len(inflater.unused_data) != _trailer.size:
        raise DamagedBlockError("its compressed data does not end where the block does")
    if inflater.unused_data != _trailer.pack(zlib.crc32(content), len(content)):
        raise DamagedBlockError("its checksum differs")
    found, end = framed_in(content)
    if end < len(content):
        raise DamagedBlockError("its last record is cut off")
    return iter(found)


def framed_in(content: bytes | bytearray) -> tuple[list[bytes], int]:
    """Return the whole records at the beginning of framed ones, and the byte behind them."""
    found = []
    position = 0
    with memoryview(content) as view:
        while position + _length.size <= len(view):
            start = position + _length.size
            end = start + _length.unpack_from(view, position)[0]
            if end > len(view):
                break
            found.append(bytes(view[start:end]))
            position = end
    return found, position


class RecordBlocks:
    """Collects records in blocks, which :meth:`flush` completes early."""

    def __init__(self, output: Callable[[bytes], object]) -> None:
        """``output`` is given each block."""
        self._output = output
        self._pending = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of records that are not in a block yet."""
        return len(self._pending)

    def write(self, record: AnyRecord) -> bool:
        """Add a record. Returns False for one that is too large for a cassette."""
        data = encode(record)
        if len(data) > LARGEST_RECORD:
            return False
        self._pending += frame(data)
        if len(self._pending) >= BLOCK_SIZE:
            self.flush()
        return True

    def flush(self) -> None:
        """Complete a block of the records so far."""
        if self._pending:
            block = build(bytes(self._pending))
            self._pending.clear()
            self._output(block)

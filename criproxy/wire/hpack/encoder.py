"""Encodes header lists (RFC 7541)."""

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from criproxy.wire.hpack.decoder import ENTRY_OVERHEAD, STATIC_TABLE, Header, SensitiveHeader

_STATIC_FIELDS: Final = {field: index for index, field in enumerate(STATIC_TABLE) if index}
_STATIC_NAMES: Final = {
    name: index for index, (name, _) in reversed(list(enumerate(STATIC_TABLE))) if index
}
_FIRST_DYNAMIC: Final = len(STATIC_TABLE)

_INDEXED: Final = 0x80
_INDEXING: Final = 0x40
_SIZE_UPDATE: Final = 0x20
_NEVER_INDEXED: Final = 0x10
_WITHOUT_INDEXING: Final = 0x00


def encode(headers: Iterable[Header]) -> bytes:
    """Encode fields as literals without indexing (sections 6.2.2 and 6.2.3).

    They neither use nor change the table, so they may follow the block of any encoder.
    """
    out = bytearray()
    for header in headers:
        sensitive = isinstance(header, SensitiveHeader)
        out.append(_NEVER_INDEXED if sensitive else _WITHOUT_INDEXING)
        _append_string(out, header[0])
        _append_string(out, header[1])
    return bytes(out)


class Encoder:
    """Re-encodes the header lists of one direction, with a dynamic table of its own.

    The first block evicts all entries of the receiver's table. Fields of the sender's table are
    inserted, so that one to which the sender refers by an index is not sent in full each time.
    """

    __slots__ = ("_entries", "_inserted", "_limit", "_names", "_numbers", "_size", "_updates")

    def __init__(self, limit: int) -> None:
        """``limit``: maximum bytes of the table; at most what the receiver allows."""
        self._limit = limit
        self._updates = [0, limit] if limit else [0]
        self._entries: deque[Header] = deque()  # the oldest is the first
        self._numbers: dict[Header, int] = {}  # entries are numbered in the order of insertion
        self._names: dict[bytes, int] = {}  # the newest entry of each name
        self._inserted = 0
        self._size = 0

    def reduce(self, limit: int) -> None:
        """Lower the table's limit, in bytes, from the next block on (section 4.2)."""
        if limit < self._limit:
            self._limit = limit
            self._updates = [0, limit] if self._updates[:1] == [0] and limit else [limit]
            self._evict(limit)

    def encode(self, headers: Iterable[Header], inserted: Collection[Header] = ()) -> bytes:
        """Encode the next block; ``inserted``: the sender's table."""
        out = bytearray()
        for size in self._updates:
            _append_integer(out, _SIZE_UPDATE, 5, size)
        self._updates = []
        for header in headers:
            index = _STATIC_FIELDS.get(header) or self._index(self._numbers.get(header))
            if isinstance(header, SensitiveHeader):
                self._append_literal(out, _NEVER_INDEXED, 4, header)
            elif index:
                _append_integer(out, _INDEXED, 7, index)
            elif header in inserted and self._fits(header):
                self._append_literal(out, _INDEXING, 6, header)
                self._insert(header)
            else:
                self._append_literal(out, _WITHOUT_INDEXING, 4, header)
        return bytes(out)

    def _index(self, number: int | None) -> int:
        """Return the index of an entry by its number; 0 for None."""
        return 0 if number is None else _FIRST_DYNAMIC + self._inserted - number - 1

    def _fits(self, header: Header) -> bool:
        return len(header[0]) + len(header[1]) + ENTRY_OVERHEAD <= self._limit

    def _append_literal(self, out: bytearray, kind: int, bits: int, header: Header) -> None:
        name, value = header
        index = _STATIC_NAMES.get(name) or self._index(self._names.get(name))
        _append_integer(out, kind, bits, index)
        if not index:
            _append_string(out, name)
        _append_string(out, value)

    def _insert(self, header: Header) -> None:
        size = len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
        self._evict(self._limit - size)
        self._entries.append(header)
        self._numbers[header] = self._names[header[0]] = self._inserted
        self._inserted += 1
        self._size += size

    def _evict(self, limit: int) -> None:
        """Evict the oldest entries until the table has at most ``limit`` bytes."""
        while self._size > limit:
            header = self._entries.popleft()
            number = self._numbers.pop(header)
            if self._names[header[0]] == number:
                del self._names[header[0]]
            self._size -= len(header[0]) + len(header[1]) + ENTRY_OVERHEAD


def _append_integer(out: bytearray, kind: int, bits: int, value: int) -> None:
    """Append an integer whose prefix has ``bits`` bits, behind those of ``kind`` (section 5.1)."""
    prefix = (1 << bits) - 1
    if value < prefix:
        out.append(kind | value)
        return
    out.append(kind | prefix)
    value -= prefix
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _append_string(out: bytearray, value: bytes) -> None:
    """Append a string that is not Huffman-coded (section 5.2)."""
    _append_integer(out, 0, 7, len(value))
    out += value

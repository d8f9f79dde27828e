"""HPACK as Go's encoder writes it, so that our load has grpc-go's bytes and table churn.

Any correct encoder would do for the server; for a comparison the choices matter. Go's
(golang.org/x/net/http2/hpack, ``Encoder.WriteField``) inserts every field that is not in a table
into the dynamic one, prefers the newest entry with the name, and Huffman-codes a string only where
that is shorter.
"""

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

TABLE_BYTES: Final = 4096
"""The dynamic table's size unless the peer's SETTINGS say otherwise (RFC 9113 section 6.5.2)."""
_ENTRY_OVERHEAD: Final = 32
"""What an entry counts beyond its two strings (RFC 7541 section 4.1)."""

_STATIC: Final[tuple[Field, ...]] = tuple((f[0], f[1]) for f in HeaderTable.STATIC_TABLE)
_STATIC_FIELDS: Final = {field: index for index, field in enumerate(_STATIC, 1)}
# The last entry with a name wins, as in Go: a :path is named by index 5, not 4.
_STATIC_NAMES: Final = {name: index for index, (name, _) in enumerate(_STATIC, 1)}

_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


class GoEncoder:
    """One connection's encoder; its dynamic table follows from the fields encoded so far."""

    def __init__(self) -> None:
        self._entries: deque[Field] = deque()  # the oldest first
        self._size = 0
        self._inserted = 0  # the newest entry's id; ids count insertions from 1
        self._fields: dict[Field, int] = {}
        self._names: dict[bytes, int] = {}

    def encode(self, fields: Iterable[Field]) -> bytes:
        """Return the header block of ``fields``, in their order, and follow its insertions."""
        return b"".join([self._encode(field) for field in fields])

    def _encode(self, field: Field) -> bytes:
        if index := _STATIC_FIELDS.get(field):
            return _integer(0x80, 7, index)
        if number := self._fields.get(field):
            return _integer(0x80, 7, self._index(number))
        name, value = field
        index = _STATIC_NAMES.get(name, 0)
        if not index and (number := self._names.get(name)):
            index = self._index(number)
        self._insert(field)
        return _integer(0x40, 6, index) + (b"" if index else _string(name)) + _string(value)

    def _index(self, number: int) -> int:
        return len(_STATIC) + 1 + self._inserted - number

    def _insert(self, field: Field) -> None:
        self._entries.append(field)
        self._inserted += 1
        self._fields[field] = self._names[field[0]] = self._inserted
        self._size += _size(field)
        while self._size > TABLE_BYTES:
            self._evict()

    def _evict(self) -> None:
        number = self._inserted - len(self._entries) + 1
        field = self._entries.popleft()
        self._size -= _size(field)
        if self._fields.get(field) == number:
            del self._fields[field]
        if self._names.get(field[0]) == number:
            del self._names[field[0]]


def _size(field: Field) -> int:
    return len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD


def _integer(pattern: int, bits: int, value: int) -> bytes:
    """Encode ``value`` after a bit pattern, in a prefix of ``bits`` (RFC 7541 section 5.1)."""
    full = (1 << bits) - 1
    if value < full:
        return bytes((pattern | value,))
    encoded = bytearray((pattern | full,))
    value -= full
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@lru_cache(maxsize=1 << 15)
def _string(text: bytes) -> bytes:
    huffman = _huffman.encode(text)
    if len(huffman) < len(text):
        return _integer(0x80, 7, len(huffman)) + huffman
    return _integer(0, 7, len(text)) + text

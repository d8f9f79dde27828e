"""Decodes and encodes header blocks (RFC 7541).

:class:`Decoder` mirrors the dynamic table of the receiving peer's decoder for one direction of a
connection. It rejects whatever that decoder has to reject: a block accepted by only one of the two
would make their tables differ.
"""

from collections.abc import Iterable
from typing import Final

from criproxy.wire.constants import DEFAULT_HEADER_TABLE_SIZE
from criproxy.wire.errors import CompressionError, LimitError
from criproxy.wire.hpack import huffman

Header = tuple[bytes, bytes]
"""A field: its name and its value."""

ENTRY_OVERHEAD: Final = 32
"""Bytes that each table entry counts beside its name and value (section 4.1)."""

LARGEST_TABLE: Final = 1 << 20
"""The largest dynamic table that is mirrored, in bytes. Known peers use 4 KiB; the reading of a
connection with a larger table stops."""

_MAX_STRINGS: Final = 1024
"""Entries of the cache of Huffman-coded strings, which is cleared when full."""

_CACHED_LENGTHS: Final = range(9, 65)
"""Bytes of the Huffman-coded strings that are cached. Shorter ones decode as fast and are mostly
grpc-timeout values, which do not repeat; longer ones are rare."""

_MAX_INTEGER_BYTES: Final = 5
"""Bytes that an integer may take beyond its prefix: enough for 32 bits."""

STATIC_TABLE: Final[tuple[Header, ...]] = (
    (b"", b""),  # indices start at 1
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
"""Appendix A."""

_FIRST_DYNAMIC: Final = len(STATIC_TABLE)
_FIRST_DYNAMIC_BYTE: Final = 0x80 | _FIRST_DYNAMIC

_strings: dict[bytes, bytes] = {}


class Decoder:
    """Decodes the header blocks of one direction, in the order in which they were sent."""

    __slots__ = ("_allowed_size", "_entries", "_max_size", "_pending_size", "_size", "changes")

    def __init__(self) -> None:
        self.changes = 0
        """Insertions into the table and resizes of it so far."""
        self._entries: list[Header] = []  # the newest is the last
        self._size = 0
        self._max_size = DEFAULT_HEADER_TABLE_SIZE  # set by the encoder (section 4.2)
        self._allowed_size = DEFAULT_HEADER_TABLE_SIZE  # the limit set by the decoding peer
        self._pending_size = LARGEST_TABLE  # the least limit that the encoder has not applied

    def allow(self, table_size: int) -> None:
        """Set the SETTINGS_HEADER_TABLE_SIZE that the decoding peer has sent, in bytes.

        A larger size takes effect with the encoder's table size update. A smaller one is not
        enforced, since the encoder may not have received it yet.
        """
        self._allowed_size = max(self._allowed_size, table_size)
        self._pending_size = min(self._pending_size, table_size)

    @property
    def must_shrink(self) -> bool:
        """Whether the encoder's next block must begin with a size reduction (section 4.2)."""
        return self._pending_size < self._max_size

    def copy(self) -> "Decoder":
        """Return an independent decoder with the same table."""
        other = Decoder.__new__(Decoder)
        other.changes = self.changes
        other._entries = self._entries.copy()
        other._size, other._max_size, other._allowed_size = (
            self._size,
            self._max_size,
            self._allowed_size,
        )
        other._pending_size = self._pending_size
        return other

    @property
    def table(self) -> tuple[Header, ...]:
        """The dynamic table's entries, the newest first, as RFC 7541 numbers them."""
        return tuple(reversed(self._entries))

    def decode(self, block: bytes) -> list[Header]:
        """Decode a whole header block: names and values, in order.

        Raises CompressionError when it is malformed and LimitError when it asks for a table over
        1 MiB; the decoder is not to be used again after either.
        """
        headers: list[Header] = []
        entries = self._entries
        position = 0
        size = len(block)
        try:
            while position < size:
                byte = block[position]
                if byte > 0x80 and byte != 0xFF:  # indexed, in one byte: nearly every field
                    position += 1
                    if byte >= _FIRST_DYNAMIC_BYTE:
                        headers.append(entries[_FIRST_DYNAMIC_BYTE - 1 - byte])
                    else:
                        headers.append(STATIC_TABLE[byte & 0x7F])
                elif byte >= 0x80:  # indexed (section 6.1)
                    index = byte & 0x7F
                    position += 1
                    if index == 0x7F:
                        index, position = _integer(block, position, index)
                    headers.append(self._entry(index))
                elif byte >= 0x40 or byte < 0x20:  # literal (section 6.2)
                    position = self._literal(block, position, headers)
                else:  # table size update (section 6.3)
                    if headers:
                        raise CompressionError("a table size update stands behind a field")
                    max_size, position = byte & 0x1F, position + 1
                    if max_size == 0x1F:
                        max_size, position = _integer(block, position, max_size)
                    self._resize(max_size)
        except IndexError:
            raise CompressionError("a header block ends too early or names no entry") from None
        return headers

    def find_path(self, block: bytes, inserted: list[Header]) -> bytes:
        """Return the ``:path`` of a block without changing the table; empty if there is none.

        ``inserted`` collects the insertions of the blocks since the last decoded one: pass an empty
        list for the first of them and the same list for the next. Raises CompressionError when the
        block is malformed.
        """
        path = b""
        position = 0
        size = len(block)
        entries = self._entries
        try:
            while position < size:
                byte = block[position]
                position += 1
                if byte >= 0x80:
                    if byte < _FIRST_DYNAMIC | 0x80:
                        name, value = STATIC_TABLE[byte & 0x7F]
                    elif byte == 0xFF or inserted:
                        index = byte & 0x7F
                        if index == 0x7F:
                            index, position = _integer(block, position, index)
                        name, value = self._entry_after(index, inserted)
                    else:  # _entry inlined
                        name, value = entries[_FIRST_DYNAMIC + 0x7F - byte]
                    if name == b":path":
                        path = value
                elif byte >= 0x40 or byte < 0x20:
                    mask = 0x3F if byte >= 0x40 else 0x0F
                    index = byte & mask
                    if index == mask:
                        index, position = _integer(block, position, index)
                    if index:
                        name = self._entry_after(index, inserted)[0]
                    else:
                        name, position = _string(block, position)
                    if name == b":path":
                        value, position = _string(block, position)
                        path = value
                    else:
                        value, position = b"", _string_end(block, position)
                    if byte >= 0x40:
                        inserted.append((name, value))
                elif byte & 0x1F == 0x1F:
                    _, position = _integer(block, position, 0x1F)
        except IndexError:
            raise CompressionError("a header block ends too early or names no entry") from None
        return path

    def _entry_after(self, index: int, inserted: list[Header]) -> Header:
        """Return an entry by its index behind ``inserted``, the newest of which is the last."""
        if index < _FIRST_DYNAMIC:
            return STATIC_TABLE[index]
        index -= _FIRST_DYNAMIC
        if index < len(inserted):
            return inserted[-1 - index]
        return self._entries[len(inserted) - 1 - index]

    def _entry(self, index: int) -> Header:
        if index >= _FIRST_DYNAMIC:
            return self._entries[_FIRST_DYNAMIC - 1 - index]
        if not index:
            raise CompressionError("a header block names entry 0")
        return STATIC_TABLE[index]

    def _literal(self, block: bytes, position: int, headers: list[Header]) -> int:
        byte = block[position]
        indexed = byte >= 0x40
        mask = 0x3F if indexed else 0x0F
        index = byte & mask
        position += 1
        if index == mask:
            index, position = _integer(block, position, index)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        header = (name, value)
        headers.append(header)
        if indexed:
            self.changes += 1
            self._size += len(name) + len(value) + ENTRY_OVERHEAD
            self._entries.append(header)
            if self._size > self._max_size:
                self._evict()
        return position

    def _resize(self, max_size: int) -> None:
        if max_size > self._allowed_size:
            raise CompressionError(f"a table size update to {max_size} is over the peer's limit")
        if max_size > LARGEST_TABLE:
            raise LimitError(f"a header table of {max_size} bytes is over {LARGEST_TABLE}")
        self.changes += 1
        self._max_size = max_size
        if max_size <= self._pending_size:
            self._pending_size = LARGEST_TABLE
        self._evict()

    def _evict(self) -> None:
        evicted = 0
        entries = self._entries
        while self._size > self._max_size:
            name, value = entries[evicted]
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD
            evicted += 1
        del entries[:evicted]


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Decode an integer beyond its prefix (section 5.1); return it and the position behind it."""
    value = prefix
    for count in range(_MAX_INTEGER_BYTES):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, position
    raise CompressionError("an integer in a header block is too long")


def _string_end(block: bytes, position: int) -> int:
    """Return the position behind a string."""
    length = block[position] & 0x7F
    position += 1
    if length == 0x7F:
        length, position = _integer(block, position, length)
    if position + length > len(block):
        raise CompressionError("a string reaches past the end of its header block")
    return position + length


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """Decode a string (section 5.2); return it and the position behind it."""
    byte = block[position]
    length = byte & 0x7F
    position += 1
    if length == 0x7F:
        length, position = _integer(block, position, length)
    end = position + length
    if end > len(block):
        raise CompressionError("a string reaches past the end of its header block")
    raw = block[position:end]
    if byte < 0x80:
        return raw, end
    if length not in _CACHED_LENGTHS:
        return huffman.decode(raw), end
    decoded = _strings.get(raw)
    if decoded is None:
        decoded = huffman.decode(raw)
        if len(_strings) >= _MAX_STRINGS:
            _strings.clear()
        _strings[raw] = decoded
    return decoded, end


def encode(headers: Iterable[Header]) -> bytes:
    """Encode fields as literals without indexing (section 6.2.2).

    They neither use nor change the table, so they may follow the block of any encoder.
    """
    return b"".join(
        b"\0" + _encode_length(len(name)) + name + _encode_length(len(value)) + value
        for name, value in headers
    )


EMPTY_TABLE: Final = b"\x20"
"""A table size update to 0 (section 6.3): evicts all entries and allows no more."""


def _encode_length(length: int) -> bytes:
    """Encode the length of a string that is not Huffman-coded (sections 5.1 and 5.2)."""
    if length < 0x7F:
        return bytes((length,))
    encoded = bytearray((0x7F,))
    length -= 0x7F
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)

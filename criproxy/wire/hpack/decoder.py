"""Decodes header blocks (RFC 7541).

:class:`Decoder` mirrors the dynamic table of the receiving peer's decoder for one direction of a
connection. It rejects whatever that decoder has to reject: a block accepted by only one of the two
would make their tables differ.
"""

from typing import Final

from mypy_extensions import mypyc_attr

from criproxy.wire.constants import DEFAULT_HEADER_TABLE_SIZE
from criproxy.wire.errors import CompressionError, LimitError
from criproxy.wire.hpack import huffman

Header = tuple[bytes, ...]
"""A field: its name and its value. In a module that is compiled, a tuple of a fixed length would be
made anew wherever it is read from a list, and would lose its class."""


@mypyc_attr(native_class=False)
class SensitiveHeader(tuple[bytes, bytes]):
    """A field that an intermediary must not index (section 7.1.3)."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class TruncatedHeaders(list[Header]):
    """A header list that exceeds the limits, without the fields that exceed them."""


DEFAULT_LIST_LIMIT: Final = 64 << 10
"""Maximum bytes of a header list, each field with an overhead of 32 (RFC 9113 section 6.5.2). An
indexed field of one byte may stand for 4 KiB."""

DEFAULT_FIELD_LIMIT: Final = 1000
"""Maximum fields of a header list."""

LONG_BLOCK: Final = 4096
"""Bytes of a block from which the limits are checked at each field rather than at the end."""

ENTRY_OVERHEAD: Final = 32
"""Bytes that each table entry counts beside its name and value (section 4.1)."""

LARGEST_TABLE: Final = 64 << 10
"""The largest dynamic table that is mirrored, in bytes. Known peers use 4 KiB; the reading of a
connection with a larger table stops."""

_MAX_SIZE_UPDATES: Final = 16
"""Maximum table size updates of a block; an encoder needs two (section 4.2)."""

_STRINGS_SIZE: Final = 256 << 10
"""Bytes of the cache of Huffman-coded strings, which is cleared when full. The strings of the
largest header list fit in: where streams are held, a block is decoded twice."""

_STRING_OVERHEAD: Final = 200
"""Bytes that an entry of the cache counts for beside its strings."""

_SHORT_STRING: Final = 8
"""Bytes of the Huffman-coded strings that are not cached: they decode as fast and are mostly
grpc-timeout values, which do not repeat."""

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


class _StringCache:
    """Decodes Huffman-coded strings, and keeps them."""

    __slots__ = ("_size", "_strings")

    def __init__(self) -> None:
        self._strings: dict[bytes, bytes] = {}
        self._size = 0

    def decode(self, raw: bytes) -> bytes:
        """Decode a string; raises CompressionError as :func:`huffman.decode` does."""
        decoded = self._strings.get(raw)
        if decoded is None:
            decoded = huffman.decode(raw)
            size = len(raw) + len(decoded) + _STRING_OVERHEAD
            if self._size + size > _STRINGS_SIZE:
                self._strings.clear()
                self._size = 0
            self._size += size
            self._strings[raw] = decoded
        return decoded


_strings: Final = _StringCache()


class Decoder:
    """Decodes the header blocks of one direction, in the order in which they were sent."""

    __slots__ = (
        "_allowed_size",
        "_entries",
        "_field_limit",
        "_list_limit",
        "_max_size",
        "_pending_size",
        "_size",
        "_unchecked",
        "changes",
        "least_allowed",
    )

    def __init__(
        self, list_limit: int = DEFAULT_LIST_LIMIT, field_limit: int = DEFAULT_FIELD_LIMIT
    ) -> None:
        """``list_limit``: maximum bytes of a header list; ``field_limit``: of its fields."""
        self._list_limit = list_limit
        self._field_limit = field_limit
        self.changes = 0
        """Insertions into the table and resizes of it so far."""
        self._entries: list[Header] = []  # the newest is the last
        self._size = 0
        self._max_size = DEFAULT_HEADER_TABLE_SIZE  # set by the encoder (section 4.2)
        self._allowed_size = DEFAULT_HEADER_TABLE_SIZE  # the limit set by the decoding peer
        self._pending_size = LARGEST_TABLE  # the least limit that the encoder has not applied
        self.least_allowed = DEFAULT_HEADER_TABLE_SIZE
        """The least limit of the decoding peer so far, at most 4 KiB."""
        self._unchecked = self._safe_field_count()

    def allow(self, table_size: int) -> None:
        """Set the SETTINGS_HEADER_TABLE_SIZE that the decoding peer has sent, in bytes.

        A larger size takes effect with the encoder's table size update. A smaller one is not
        enforced, since the encoder may not have received it yet.
        """
        self._allowed_size = max(self._allowed_size, table_size)
        self._pending_size = min(self._pending_size, table_size)
        self.least_allowed = min(self.least_allowed, table_size)

    @property
    def must_shrink(self) -> bool:
        """Whether the encoder's next block must begin with a size reduction (section 4.2)."""
        return self._pending_size < self._max_size

    def copy(self) -> "Decoder":
        """Return an independent decoder with the same table."""
        other = Decoder(self._list_limit, self._field_limit)
        other.changes = self.changes
        other._entries = self._entries.copy()
        other._size, other._max_size, other._allowed_size = (
            self._size,
            self._max_size,
            self._allowed_size,
        )
        other._pending_size, other.least_allowed = self._pending_size, self.least_allowed
        other._unchecked = self._unchecked
        return other

    @property
    def table(self) -> tuple[Header, ...]:
        """The dynamic table's entries, the newest first, as RFC 7541 numbers them."""
        return tuple(reversed(self._entries))

    def decode(self, block: bytes) -> list[Header]:
        """Decode a whole header block: names and values, in order.

        Returns TruncatedHeaders for a list over the limits. Raises CompressionError when the block
        is malformed, and LimitError when it asks for a table over 64 KiB or is too costly: when it
        has more than 16 table size updates, twice as many fields as a list may have, or more bytes
        of literals to be decoded than a list may have. Do not use the decoder again after either.
        """
        if len(block) > LONG_BLOCK:
            return self._decode_long(block)
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
                    position = self._size_updates(block, position, len(headers))
        except IndexError:
            raise CompressionError("a header block ends too early or names no entry") from None
        return headers if len(headers) <= self._unchecked else self._within_limits(headers)

    def _safe_field_count(self) -> int:
        """Return the number of fields of a short block that cannot exceed the limits.

        A field has at most the size of the table, if it is in that, and the overhead beside the
        bytes of its literals, which a Huffman code shortens by less than a half. A field of the
        static table has less than 64 bytes.
        """
        return min(self._field_limit, (self._list_limit - 2 * LONG_BLOCK) // (self._max_size + 64))

    def _within_limits(self, headers: list[Header]) -> list[Header]:
        """Return a header list, truncated if it exceeds the limits."""
        size = len(headers) * ENTRY_OVERHEAD
        for name, value in headers:
            size += len(name) + len(value)
        if size <= self._list_limit and len(headers) <= self._field_limit:
            return headers
        kept = TruncatedHeaders()
        size = 0
        for header in headers[: self._field_limit]:
            size += len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
            if size <= self._list_limit:
                kept.append(header)
        return kept

    def _decode_long(self, block: bytes) -> list[Header]:
        """Decode a block that may exceed the limits.

        Literals that exceed them are decoded only if they have to be inserted into the table.
        """
        headers: list[Header] = []
        literals: list[Header] = []
        room = self._list_limit
        fields = encoded = decoded = 0
        position, size = 0, len(block)
        try:
            while position < size:
                byte = block[position]
                if 0x20 <= byte < 0x40:
                    position = self._size_updates(block, position, fields)
                    continue
                fields += 1
                if byte >= 0x80:
                    index, position = _prefixed_integer(block, position, 0x7F)
                    literals.append(self._entry(index))
                else:
                    encoded = _literal_end(block, position) - position
                    if encoded <= room or self._has_to_insert(byte, encoded):
                        decoded += encoded
                        if decoded <= self._list_limit:
                            self._literal(block, position, literals)
                    position += encoded
                if literals:
                    header = literals.pop()
                    length = len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
                    if length <= room and len(headers) < self._field_limit:
                        room -= length
                        headers.append(header)
                    elif byte < 0x80:  # no more of this length need be decoded
                        room = min(room, encoded - 1)
                if fields > 2 * self._field_limit or decoded > self._list_limit:
                    raise LimitError(
                        f"a header list is over {self._field_limit} fields "
                        f"or {self._list_limit} bytes"
                    )
        except IndexError:
            raise CompressionError("a header block ends too early or names no entry") from None
        return headers if len(headers) == fields else TruncatedHeaders(headers)

    def _has_to_insert(self, byte: int, length: int) -> bool:
        """Return whether a literal of ``length`` encoded bytes has to be inserted into the table.

        One that is larger than the table empties it (section 4.4); a byte is encoded in 30 bits at
        most.
        """
        if byte < 0x40:
            return False
        if (length - 3 * _MAX_INTEGER_BYTES) * 8 // 30 <= self._max_size:
            return True
        self.changes += 1
        self._entries.clear()
        self._size = 0
        return False

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
        header: Header = (name, value)
        if 0x10 <= byte < 0x20:
            header = SensitiveHeader((name, value))
        headers.append(header)
        if indexed:
            self.changes += 1
            self._size += len(name) + len(value) + ENTRY_OVERHEAD
            self._entries.append(header)
            if self._size > self._max_size:
                self._evict()
        return position

    def _size_updates(self, block: bytes, position: int, fields: int) -> int:
        """Apply table size updates behind ``fields``; return the position behind them."""
        if fields:
            raise CompressionError("a table size update stands behind a field")
        for _ in range(_MAX_SIZE_UPDATES):
            max_size, position = _prefixed_integer(block, position, 0x1F)
            self._resize(max_size)
            if position == len(block) or not 0x20 <= block[position] < 0x40:
                return position
        raise LimitError(f"a header block has more than {_MAX_SIZE_UPDATES} table size updates")

    def _resize(self, max_size: int) -> None:
        if max_size > self._allowed_size:
            raise CompressionError(f"a table size update to {max_size} is over the peer's limit")
        if max_size > LARGEST_TABLE:
            raise LimitError(f"a header table of {max_size} bytes is over {LARGEST_TABLE}")
        self.changes += 1
        self._max_size = max_size
        self._unchecked = self._safe_field_count()
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


def _prefixed_integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Decode an integer with its prefix (section 5.1); return it and the position behind it."""
    value = block[position] & mask
    return (value, position + 1) if value < mask else _integer(block, position + 1, value)


def _literal_end(block: bytes, position: int) -> int:
    """Return the position behind a literal field (section 6.2)."""
    mask = 0x3F if block[position] >= 0x40 else 0x0F
    index, position = _prefixed_integer(block, position, mask)
    return _string_end(block, position if index else _string_end(block, position))


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
    return huffman.decode(raw) if length <= _SHORT_STRING else _strings.decode(raw), end

"""Limits on decoded header lists: the decoded part of a block, and the state of the table."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.wire.errors import CompressionError, LimitError
from criproxy.wire.hpack.decoder import (
    LONG_BLOCK,
    Decoder,
    Header,
    SensitiveHeader,
    TruncatedHeaders,
)
from tests.support.wire import integer, string

LARGE = (b"x-large", b"v" * 4000)
LARGE_SIZE = 4000 + 7 + 32
INSERTED = b"\x40" + string(LARGE[0]) + string(LARGE[1])
REFERENCE = b"\xbe"


def huffman(value: bytes) -> bytes:
    """A Huffman-coded string of ``value``, which has only characters of five bits: 0, 1, 2."""
    if not value:
        return integer(0, 7, 0x80)
    bits = "".join(f"{byte - 48:05b}" for byte in value)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return integer(len(data), 7, 0x80) + data


def literal(value: bytes, kind: int = 0) -> bytes:
    return bytes((kind,)) + string(b"n") + string(value)


def is_truncated(headers: list[Header]) -> bool:
    return isinstance(headers, TruncatedHeaders)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000])
def test_references_count_in_full(count: int) -> None:
    """A reference of one byte counts as its field: 16 of 4,039 bytes fit into 64 KiB."""
    decoder = Decoder()
    assert decoder.decode(INSERTED) == [LARGE]
    headers = decoder.decode(REFERENCE * count)
    assert headers == [LARGE] * min(count, 16)
    assert is_truncated(headers) is (count > 16)


def test_twenty_thousand_references() -> None:
    """A block of more than twice the fields of a list is refused."""
    decoder = Decoder()
    decoder.decode(INSERTED)
    with pytest.raises(LimitError, match="1000 fields or 65536 bytes"):
        decoder.decode(REFERENCE * 20_000)


@pytest.mark.parametrize("padding", [0, LONG_BLOCK])
@pytest.mark.parametrize("count", [999, 1000, 1001, 2000])
def test_number_of_fields(count: int, padding: int) -> None:
    """At most 1,000 fields are decoded, whether the block is long or not."""
    block = b"\x82" * (count - 1) + literal(b"v" * padding)
    headers = Decoder().decode(block)
    assert len(headers) == min(count, 1000)
    assert is_truncated(headers) is (count > 1000)


@pytest.mark.parametrize("size", [5000, 65_536 - 33, 65_536 - 32, 200_000])
@pytest.mark.parametrize("encode", [string, huffman])
def test_a_long_value(size: int, encode: type) -> None:  # type: ignore[type-arg]
    """A value that exceeds the limit is not decoded; the other fields are."""
    value = b"0" * size
    block = b"\x82\x84\x00" + string(b"n") + encode(value)
    headers = Decoder(list_limit=65_536 + 42 + 38).decode(block)
    fits = size + 33 <= 65_536
    assert is_truncated(headers) is not fits
    assert headers[:2] == [(b":method", b"GET"), (b":path", b"/")]
    assert headers[2:] == ([(b"n", value)] if fits else [])


@pytest.mark.parametrize("encode", [string, huffman])
def test_an_inserted_value_over_the_limit(encode: type) -> None:  # type: ignore[type-arg]
    """A value larger than the table empties it (RFC 7541 section 4.4), decoded or not."""
    decoder = Decoder()
    decoder.decode(literal(b"entry", 0x40))
    headers = decoder.decode(b"\x40" + string(b"n") + encode(b"0" * 200_000))
    assert headers == []
    assert is_truncated(headers)
    assert decoder.table == ()
    assert decoder.changes == 2


def test_insertions_over_the_limit_are_made() -> None:
    """Fields over the limit are inserted into the table all the same, for the blocks behind."""
    decoder, oracle = Decoder(list_limit=12_000), hpack.Decoder()
    oracle.max_header_list_size = 1 << 30
    block = b"".join(literal(b"%d" % number * 50, 0x40) for number in range(100))
    assert len(block) > LONG_BLOCK
    decoded = decoder.decode(block)
    assert is_truncated(decoded)
    oracle.decode(block)
    assert decoder.table == tuple(oracle.header_table.dynamic_entries)


def test_decoded_bytes_are_limited() -> None:
    """A block with more bytes of literals to decode than a list may have is refused."""
    decoder = Decoder(list_limit=10_000, field_limit=10_000)
    inserted = literal(b"v" * 80, 0x40)
    assert is_truncated(decoder.decode(inserted * 100))
    with pytest.raises(LimitError):
        decoder.decode(inserted * 130)


@pytest.mark.parametrize("padding", [0, LONG_BLOCK])
def test_size_updates_are_limited(padding: int) -> None:
    """A block may have 16 table size updates; with one more it is refused."""
    rest = literal(b"v" * padding)
    updates = integer(100, 5, 0x20) + integer(4096, 5, 0x20)
    assert Decoder().decode(updates * 8 + rest) == [(b"n", b"v" * padding)]
    assert Decoder().decode(updates * 8) == []
    with pytest.raises(LimitError):
        Decoder().decode(updates * 8 + b"\x20" + rest)


def test_sensitive_fields_are_known() -> None:
    """A field that must not be indexed is decoded as such; it equals any other field."""
    (field,) = Decoder().decode(literal(b"secret", 0x10))
    assert field == (b"n", b"secret")
    assert isinstance(field, SensitiveHeader)
    assert not isinstance(Decoder().decode(literal(b"v"))[0], SensitiveHeader)
    assert not isinstance(Decoder().decode(literal(b"v", 0x40))[0], SensitiveHeader)


NAMES = st.sampled_from((b"n", b"name" * 10))
VALUES = st.sampled_from((b"", b"0" * 10, b"1" * 300, b"2" * 3000, b"0" * 5000))
PIECES = st.one_of(
    st.just(b"\x82"),
    st.sampled_from((b"\xbe", b"\xbf")),
    st.builds(
        lambda kind, name, value, encode: bytes((kind,)) + string(name) + encode(value),
        st.sampled_from((0, 0x10, 0x40)),
        NAMES,
        VALUES,
        st.sampled_from((string, huffman)),
    ),
)


@given(st.lists(st.lists(PIECES, max_size=30).map(b"".join), max_size=6), st.booleans())
def test_limits_do_not_change_the_table(blocks: list[bytes], small: bool) -> None:
    """Under any limit, a decoder has the table of one without, and a part of its fields."""
    prefix = literal(b"a", 0x40) + literal(b"b", 0x40)
    limited = Decoder(2000 if small else 20_000, 5 if small else 20)
    free = Decoder(1 << 30, 1 << 30)
    for block in blocks:
        try:
            whole = free.decode(prefix + block)
        except CompressionError:  # a reference to an entry that does not exist
            return
        try:
            headers = limited.decode(prefix + block)
        except LimitError:
            assert len(whole) > 10 or len(block) > 2000
            return
        size = sum(len(name) + len(value) + 32 for name, value in whole)
        fits = size <= limited._list_limit and len(whole) <= limited._field_limit
        assert is_truncated(headers) is not fits
        assert (headers == whole) is fits
        remaining = iter(whole)
        assert all(field in remaining for field in headers)
        assert limited.table == free.table

"""Header blocks: every representation, the table, and errors (RFC 7541)."""

import tracemalloc

import hpack
import pytest

from criproxy.wire.errors import CompressionError, LimitError
from criproxy.wire.hpack.decoder import STATIC_TABLE, Decoder
from tests.support.wire import Header, integer, string

LITERAL, NEVER, INDEXED, TABLE_SIZE = 0x00, 0x10, 0x40, 0x20


def entry(name: bytes, value: bytes) -> bytes:
    """A literal that goes into the table, with its name spelled out."""
    return b"\x40" + string(name) + string(value)


def reference(index: int) -> bytes:
    return integer(index, 7, 0x80)


def size_update(size: int) -> bytes:
    return integer(size, 5, TABLE_SIZE)


def test_static_table() -> None:
    """The 61 static entries are those of appendix A."""
    assert STATIC_TABLE[1:] == hpack.table.HeaderTable.STATIC_TABLE
    decoder = Decoder()
    decoded = decoder.decode(b"".join(reference(index) for index in range(1, 62)))
    assert tuple(decoded) == STATIC_TABLE[1:]
    assert decoder.table == ()


@pytest.mark.parametrize("kind", [LITERAL, NEVER, INDEXED])
@pytest.mark.parametrize("index", [1, 14, 15, 16, 61])
def test_literal_with_an_indexed_name(kind: int, index: int) -> None:
    """A literal takes its name from any entry; only the indexing kind adds to the table."""
    decoder = Decoder()
    header = (STATIC_TABLE[index][0], b"value")
    block = integer(index, 6 if kind == INDEXED else 4, kind) + string(b"value")
    assert decoder.decode(block) == [header]
    assert decoder.table == ((header,) if kind == INDEXED else ())


@pytest.mark.parametrize("kind", [LITERAL, NEVER, INDEXED])
def test_literal_with_its_name(kind: int) -> None:
    """A literal may spell its name; only the indexing kind adds to the table."""
    decoder = Decoder()
    block = bytes((kind,)) + string(b"name") + string(b"value")
    assert decoder.decode(block) == [(b"name", b"value")]
    assert decoder.table == (((b"name", b"value"),) if kind == INDEXED else ())


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 256, 16383, 16384, 70000])
def test_string_lengths(length: int) -> None:
    """A string has any length, whatever number of bytes its length takes."""
    header = (b"n" * length, b"v" * length)
    decoder = Decoder(list_limit=1 << 20)
    assert decoder.decode(b"\x00" + string(header[0]) + string(header[1])) == [header]


def test_entries_count_from_the_newest() -> None:
    """The newest entry is 62; each block may refer to insertions of those before it."""
    decoder = Decoder()
    entries = [(b"name-%d" % number, b"value") for number in range(80)]
    decoder.decode(b"".join(entry(*header) for header in entries))
    assert decoder.table == tuple(reversed(entries))
    for number, header in enumerate(reversed(entries)):
        assert decoder.decode(reference(62 + number)) == [header]
        literal = integer(62 + number, 4) + string(b"other")
        assert decoder.decode(literal) == [(header[0], b"other")]


def test_the_size_counts_32_bytes_for_each_entry() -> None:
    """An entry of 4064 bytes fits the table of 4096 and one of 4065 does not: it empties it."""
    decoder = Decoder()
    decoder.decode(entry(b"old", b""))
    exact = (b"n" * 64, b"v" * 4000)
    assert decoder.decode(entry(*exact)) == [exact]
    assert decoder.table == (exact,)
    assert decoder.decode(entry(b"n" * 65, b"v" * 4000)) == [(b"n" * 65, b"v" * 4000)]
    assert decoder.table == ()


def test_eviction_takes_the_oldest() -> None:
    """An entry that does not fit puts out as many of the oldest as make room for it."""
    decoder = Decoder()
    a, b, c, d = ((name, b"v" * 1330) for name in (b"a", b"b", b"c", b"d"))
    decoder.decode(entry(*a) + entry(*b) + entry(*c))
    assert decoder.table == (c, b, a)
    decoder.decode(entry(*d))
    assert decoder.table == (d, c, b)
    large: Header = (b"e", b"v" * 2600)
    decoder.decode(entry(*large))
    assert decoder.table == (large, d)


def test_an_entry_may_be_named_by_the_one_that_puts_it_out() -> None:
    """A name taken from an entry that is evicted by its own addition stays (section 4.4)."""
    decoder = Decoder()
    decoder.decode(entry(b"name", b"v" * 2000))
    block = integer(62, 6, INDEXED) + string(b"w" * 4000)
    assert decoder.decode(block) == [(b"name", b"w" * 4000)]
    assert decoder.table == ((b"name", b"w" * 4000),)


def test_resizes_in_band() -> None:
    """A size update evicts at once; several in a row each count; growing back adds nothing."""
    decoder = Decoder()
    a, b = (b"a", b"1"), (b"b", b"2")
    decoder.decode(entry(*a) + entry(*b))
    assert decoder.decode(size_update(67)) == []
    assert decoder.table == (b,)
    assert decoder.decode(size_update(0) + size_update(4096) + reference(2)) == [
        (b":method", b"GET")
    ]
    assert decoder.table == ()
    decoder.decode(size_update(34) + entry(*a) + entry(*b))
    assert decoder.table == (b,)
    decoder.decode(size_update(33) + entry(*a))
    assert decoder.table == ()


def test_the_peer_allows_a_larger_table() -> None:
    """A larger SETTINGS_HEADER_TABLE_SIZE lets the encoder announce more, and changes no more."""
    decoder = Decoder()
    decoder.allow(10_000)
    large = (b"name", b"v" * 5000)
    decoder.decode(entry(*large))
    assert decoder.table == ()
    decoder.decode(size_update(10_000) + entry(*large))
    assert decoder.table == (large,)


def test_the_peer_allows_a_smaller_table() -> None:
    """A smaller SETTINGS_HEADER_TABLE_SIZE takes effect only as the encoder announces it."""
    decoder = Decoder()
    header = (b"name", b"value")
    decoder.decode(entry(*header))
    decoder.allow(0)
    assert decoder.decode(reference(62)) == [header]
    assert decoder.decode(size_update(0)) == []
    assert decoder.table == ()
    assert decoder.decode(size_update(4096)) == []


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(reference(0), id="entry 0"),
        pytest.param(reference(62), id="an entry beyond the table"),
        pytest.param(reference(126), id="the last index of one byte"),
        pytest.param(reference(127), id="an index of two bytes"),
        pytest.param(reference(1 << 20), id="an index of four bytes"),
        pytest.param(integer(62, 6, INDEXED) + string(b""), id="a name beyond the table"),
        pytest.param(integer(62, 4, LITERAL) + string(b""), id="a name beyond the table, literal"),
        pytest.param(b"\xff" + b"\x80" * 5 + b"\x00", id="an index of six bytes"),
        pytest.param(b"\x00\x7f" + b"\xff" * 9 + b"\x00", id="a length of ten bytes"),
        pytest.param(b"\x3f" + b"\x80" * 5 + b"\x00", id="a table size of six bytes"),
        pytest.param(b"\x00\x04abc", id="a string that reaches past the end"),
        pytest.param(b"\x00\x01n\x81", id="a Huffman string without its bytes"),
        pytest.param(b"\x00\x01n\x81\xff", id="a Huffman string of padding alone"),
        pytest.param(b"\x00\x01n\x84\xff\xff\xff\xff", id="the end-of-string symbol"),
        pytest.param(size_update(4097), id="a table over the peer's limit"),
        pytest.param(b"\x82" + size_update(100), id="a size update behind a field"),
    ],
)
def test_refused(block: bytes) -> None:
    """A malformed block is a CompressionError and nothing else."""
    with pytest.raises(CompressionError):
        Decoder().decode(block)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\xff\x00", id="index"),
        pytest.param(b"\x40\x81\x1f\x82\x1f\x1f", id="Huffman strings"),
        pytest.param(b"\x0f\x10\x01v", id="name of two bytes"),
        pytest.param(b"\x00\x7f\x00" + b"n" * 127 + b"\x01v", id="length of two bytes"),
        pytest.param(b"\x3f\xe1\x1f", id="table size"),
    ],
)
def test_truncated_anywhere(block: bytes) -> None:
    """A field that is cut short is refused, wherever the cut."""
    decoder = Decoder()
    decoder.decode(b"".join(entry(b"n", b"%d" % number) for number in range(80)))
    decoder.decode(block)
    for length in range(1, len(block)):
        with pytest.raises(CompressionError):
            Decoder().decode(block[:length])


def test_an_integer_has_five_bytes_at_most() -> None:
    """Zeros that only lengthen an integer are read up to five bytes beyond its prefix."""
    assert Decoder().decode(b"\x00\x7f\x81\x80\x80\x80\x00" + b"n" * 128 + b"\x00") == [
        (b"n" * 128, b"")
    ]
    with pytest.raises(CompressionError):
        Decoder().decode(b"\x00\x7f\x81\x80\x80\x80\x80\x00" + b"n" * 128 + b"\x00")


def test_the_mirrored_table_has_a_limit() -> None:
    """A table of 64 KiB is mirrored; a larger one is a LimitError, though the peer allows it."""
    decoder = Decoder()
    decoder.allow((1 << 32) - 1)
    assert decoder.decode(size_update(64 << 10)) == []
    with pytest.raises(LimitError):
        decoder.decode(size_update((64 << 10) + 1))


def test_more_huffman_strings_than_are_remembered() -> None:
    """Strings decode alike before, when and after the memory of them is full."""
    encoder, decoder = hpack.Encoder(), Decoder()
    for number in range(3000):
        fields = [(b"x-number", b"%d" % number), (b"x-long", b"%d" % number * 40)]
        assert decoder.decode(encoder.encode(fields, huffman=True)) == fields


def test_the_memory_of_strings_is_bounded() -> None:
    """However many different Huffman strings pass, only some of them are remembered."""
    encoder, decoder = hpack.Encoder(), Decoder()
    decoder.decode(encoder.encode([(b"x-warm", b"up")]))
    blocks = [encoder.encode([(b"x", b"%040d" % number, True)]) for number in range(10_000)]
    tracemalloc.start()
    try:
        for block in blocks:
            decoder.decode(block)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000

"""HPACK compared with the `hpack` library, for encoded headers and for arbitrary bytes."""

from typing import NamedTuple

import hpack
from hypothesis import example, given
from hypothesis import strategies as st

from criproxy.wire.errors import CompressionError, LimitError
from criproxy.wire.hpack import huffman
from criproxy.wire.hpack.decoder import Decoder
from tests.support.wire import Header, integer

COMMON_NAMES = [b":path", b":status", b"content-type", b"grpc-timeout", b"te", b"x-a", b"x-b"]
COMMON_VALUES = [b"", b"200", b"application/grpc", b"59998327u", b"v" * 60, b"w" * 2000]
NAMES = st.one_of(st.sampled_from(COMMON_NAMES), st.binary(max_size=30))
VALUES = st.one_of(
    st.sampled_from(COMMON_VALUES),
    st.binary(max_size=200),
    st.integers(0, 5000).map(lambda size: b"x" * size),  # up to more than the table holds
)


class Block(NamedTuple):
    """A block to encode; ``sizes``: table sizes that the decoding side allows before it."""

    fields: list[tuple[bytes, bytes, bool]]
    huffman: bool
    sizes: list[int]


FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=12)
SIZES = st.lists(st.sampled_from([0, 31, 64, 200, 4096, 8192, 60_000]), max_size=2)
BLOCKS = st.builds(Block, FIELDS, st.booleans(), st.one_of(st.just([]), SIZES))


@given(st.lists(BLOCKS, max_size=12))
def test_an_encoder_s_blocks(blocks: list[Block]) -> None:
    """Whatever hpack encodes is decoded as hpack decodes it, and leaves the same table."""
    encoder, oracle, decoder = hpack.Encoder(), hpack.Decoder(), Decoder()
    oracle.max_header_list_size = 1 << 30
    for block in blocks:
        for size in block.sizes:
            decoder.allow(size)
            oracle.max_allowed_table_size = max(size, oracle.max_allowed_table_size)
            if size != encoder.header_table_size:  # hpack forgets a change that is made twice
                encoder.header_table_size = size
        encoded = encoder.encode(block.fields, huffman=block.huffman)
        decoded = decoder.decode(encoded)
        assert decoded == [(name, value) for name, value, _ in block.fields]
        assert decoded == [tuple(field) for field in oracle.decode(encoded, raw=True)]
        assert decoder.table == tuple(oracle.header_table.dynamic_entries)


def decoded_by_us(decoder: Decoder, block: bytes) -> list[Header] | None:
    """The headers of a block, or None where it is refused."""
    try:
        return decoder.decode(block)
    except CompressionError:
        return None


def decoded_by_oracle(oracle: hpack.Decoder, block: bytes) -> list[Header] | None:
    try:
        return [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


INDEXES = st.one_of(st.integers(0, 70), st.integers(0, 1 << 36))
SMALL_STRINGS = st.binary(max_size=6).flatmap(
    lambda raw: st.builds(
        lambda coded, length: integer(length, 7, 0x80 if coded else 0) + raw,
        st.booleans(),
        st.one_of(st.just(len(raw)), st.integers(0, 300)),
    )
)
ALMOST_A_BLOCK = st.lists(
    st.one_of(
        INDEXES.map(lambda index: integer(index, 7, 0x80)),
        st.builds(lambda i, s: integer(i, 6, 0x40) + s, INDEXES, SMALL_STRINGS),
        st.builds(lambda i, s: integer(i, 4, 0x10) + s, INDEXES, SMALL_STRINGS),
        st.builds(lambda n, v: b"\x40" + n + v, SMALL_STRINGS, SMALL_STRINGS),
        st.builds(lambda n, v: b"\x00" + n + v, SMALL_STRINGS, SMALL_STRINGS),
        st.integers(0, 4200).map(lambda size: integer(size, 5, 0x20)),
    ),
    max_size=8,
).map(b"".join)


@given(st.lists(st.one_of(ALMOST_A_BLOCK, st.binary(max_size=60)), max_size=5))
@example([b"\x82\x3f\x45"])
@example([b"\x00\x01n\x81\xff"])
def test_any_bytes(blocks: list[bytes]) -> None:
    """Any bytes are decoded, or refused with a CompressionError, exactly where hpack does so."""
    decoder, oracle = Decoder(), hpack.Decoder()
    for block in blocks:
        decoded = decoded_by_us(decoder, block)
        assert decoded == decoded_by_oracle(oracle, block)
        if decoded is None:
            return
        assert decoder.table == tuple(oracle.header_table.dynamic_entries)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 32))
def test_size_updates(size: int, allowed: int) -> None:
    """A size update over the peer's limit is malformed; over our own limit, a LimitError."""
    decoder = Decoder()
    decoder.allow(allowed)
    try:
        assert decoder.decode(integer(size, 5, 0x20)) == []
    except CompressionError:
        assert size > max(allowed, 4096)
    except LimitError:
        assert 64 << 10 < size <= allowed
    else:
        assert size <= min(max(allowed, 4096), 64 << 10)


@given(st.binary(max_size=300))
def test_huffman(data: bytes) -> None:
    """Any string decodes from its Huffman code; cut short, it is a prefix of it or refused."""
    encoded = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    ).encode(data)
    assert huffman.decode(encoded) == data
    for length in range(len(encoded)):
        try:
            assert data.startswith(huffman.decode(encoded[:length]))
        except CompressionError:
            continue


@given(st.binary(max_size=60))
def test_huffman_of_any_bytes(data: bytes) -> None:
    """Any bytes are a Huffman string exactly where hpack takes them for one."""
    try:
        decoded: bytes | None = huffman.decode(data)
    except CompressionError:
        decoded = None
    try:
        expected: bytes | None = hpack.huffman_table.decode_huffman(data)
    except hpack.HPACKError:
        expected = None
    assert decoded == expected

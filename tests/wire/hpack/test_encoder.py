"""Re-encoded header blocks: they decode to the same fields, within the table that is allowed."""

import hpack
from hypothesis import given
from hypothesis import strategies as st

from criproxy.wire.hpack.decoder import Header, SensitiveHeader
from criproxy.wire.hpack.encoder import Encoder, encode

FIELDS = st.tuples(
    st.sampled_from((b":path", b":method", b"te", b"x-a", b"x-b", b"n" * 60)),
    st.one_of(
        st.sampled_from((b"", b"POST", b"/", b"trailers", b"v" * 100, b"w" * 3000, b"x" * 5000)),
        st.binary(max_size=20),
    ),
)
LISTS = st.lists(st.one_of(FIELDS, FIELDS, st.builds(SensitiveHeader, FIELDS)), max_size=12)
LIMITS = st.sampled_from((0, 31, 100, 1000, 4096))


def decoded(decoder: hpack.Decoder, block: bytes) -> list[Header]:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


@given(LIMITS, st.lists(st.tuples(LISTS, st.one_of(st.none(), LIMITS)), max_size=8))
def test_every_list_decodes(limit: int, steps: list[tuple[list[Header], int | None]]) -> None:
    """What is encoded decodes to the same fields, with a table within the limits announced."""
    encoder, decoder = Encoder(limit), hpack.Decoder()
    decoder.max_header_list_size = 1 << 30
    decoder.decode(hpack.Encoder().encode([(b"old", b"entry")]))
    for fields, reduced in steps:
        if reduced is not None:
            encoder.reduce(reduced)
            limit = min(limit, reduced)
        assert decoded(decoder, encoder.encode(fields, fields)) == fields
        assert decoder.header_table_size == limit
        assert decoder.header_table._current_size <= limit
        assert (b"old", b"entry") not in decoder.header_table.dynamic_entries


def test_a_repeated_field_is_indexed() -> None:
    """A field of 4,000 bytes is encoded once, then as one byte, as is the name of another."""
    encoder, decoder = Encoder(4096), hpack.Decoder()
    field, other = (b"x-large", b"v" * 4000), (b"x-large", b"w")
    first = encoder.encode([field, field, field], [field])
    assert 4000 < len(first) < 4030
    assert encoder.encode([field] * 10) == b"\xbe" * 10
    assert len(encoder.encode([other])) == 4
    assert decoded(decoder, first) == [field] * 3


def test_other_fields_are_not_inserted() -> None:
    """A field that is not in the sender's table is not inserted, so that it evicts nothing."""
    encoder, field = Encoder(4096), (b"x-large", b"v" * 4000)
    encoder.encode([field], [field])
    encoder.encode([(b"other", b"%d" % number) for number in range(100)], [field])
    assert encoder.encode([field], [field]) == b"\xbe"


def test_a_field_larger_than_the_table() -> None:
    """A field that the table cannot hold is not inserted, and evicts nothing."""
    encoder, large = Encoder(100), (b"a", b"v" * 200)
    encoder.encode([(b"a", b"b")], [(b"a", b"b")])
    assert len(encoder.encode([large], [large])) > 200
    assert encoder.encode([(b"a", b"b")]) == b"\xbe"


def test_sensitive_fields_stay_so() -> None:
    """A field that must not be indexed is encoded as such (RFC 7541 section 7.1.3), each time."""
    secret = SensitiveHeader((b"authorization", b"secret"))
    encoder = Encoder(4096)
    for block in (
        encode([secret]),
        Encoder(4096).encode([secret], [secret])[4:],
        encoder.encode([secret]),
    ):
        assert b"secret" in block
    (field,) = hpack.Decoder().decode(encode([secret]), raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)
    (field,) = hpack.Decoder().decode(Encoder(4096).encode([secret]), raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)
    assert b"secret" in encoder.encode([secret])

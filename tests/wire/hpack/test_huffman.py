"""Valid and invalid Huffman strings (RFC 7541 section 5.2)."""

import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from criproxy.wire.errors import CompressionError
from criproxy.wire.hpack import huffman


def bits(*codes: tuple[int, int]) -> bytes:
    """Codes, each with its number of bits, in a row and padded with ones."""
    written = "".join(f"{code:0{length}b}" for code, length in codes)
    written += "1" * (-len(written) % 8)
    return int(written, 2).to_bytes(len(written) // 8, "big") if written else b""


def code(symbol: int) -> tuple[int, int]:
    return REQUEST_CODES[symbol], REQUEST_CODES_LENGTH[symbol]


@pytest.mark.parametrize("symbol", range(256))
def test_each_symbol(symbol: int) -> None:
    """Each of the 256 symbols decodes from its code in appendix B, wherever it stands in a byte."""
    for others in range(4):
        data = bits(*[code(ord("a"))] * others, code(symbol), code(ord("0")))
        assert huffman.decode(data) == b"a" * others + bytes((symbol,)) + b"0"


def test_empty() -> None:
    """No bytes are an empty string."""
    assert huffman.decode(b"") == b""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bits(code(ord("a"))) + b"\xff", id="a whole byte of padding"),
        pytest.param(b"\xff", id="nothing but a byte of padding"),
        pytest.param(bits(code(ord("a")), (0b110, 3)), id="padding of a one and a zero"),
        pytest.param(bits(code(ord("a")), (0, 3)), id="padding of zeros"),
        pytest.param(bits(code(0))[:-1], id="cut within a symbol"),
        pytest.param(b"\xff\xff\xff\xff", id="the end-of-string symbol"),
        pytest.param(bits(code(ord("a")), code(256)), id="the end-of-string symbol at the end"),
        pytest.param(bits(code(256), code(ord("a"))), id="the end-of-string symbol within"),
    ],
)
def test_refused(data: bytes) -> None:
    """Padding is at most seven ones, and the end-of-string symbol never stands in a string."""
    with pytest.raises(CompressionError):
        huffman.decode(data)


@pytest.mark.parametrize("padding", range(8))
def test_padding_of_up_to_seven_bits(padding: int) -> None:
    """Padding of none to seven bits is accepted: eight symbols of seven bits end at every place."""
    seven, eight = code(ord(":")), code(ord("&"))
    data = bits(*[seven] * padding, eight)
    assert huffman.decode(data) == b":" * padding + b"&"

"""Decodes Huffman-coded header strings (RFC 7541 section 5.2 and appendix B).

The code is canonical: codes of one length are consecutive, in the order of their symbols, so their
lengths define them. Decoding follows the code's tree one byte at a time, with one lookup for each:
the transitions from all nodes by all bytes are computed before, so that no string, whatever it is,
costs more than another of its length. They take 5 MB; processes share them.
"""

from functools import cache
from typing import Final, NamedTuple

from criproxy.wire.errors import CompressionError

_EOS: Final = 256

# fmt: off
_SYMBOLS_BY_LENGTH: Final[dict[int, tuple[int, ...]]] = {
    5: tuple(b"012aceiost"),
    6: tuple(b" %-./3456789=A_bdfghlmnpru"),
    7: tuple(b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    8: tuple(b"&*,;XZ"),
    10: tuple(b'!"()?'),
    11: tuple(b"'+|"),
    12: tuple(b"#>"),
    13: tuple(b"\x00$@[]~"),
    14: tuple(b"^}"),
    15: tuple(b"<`{"),
    19: (92, 195, 208),
    20: (128, 130, 131, 162, 184, 194, 224, 226),
    21: (153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230),
    22: (129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186,
         187, 189, 190, 196, 198, 228, 232, 233),
    23: (1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166,
         168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239),
    24: (9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237),
    25: (199, 207, 234, 235),
    26: (192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255),
    27: (203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253,
         254),
    28: (2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29,
         30, 31, 127, 220, 249),
    30: (10, 13, 22, _EOS),
}
# fmt: on


_Transition = tuple["_Row", bytes]
"""The row of the node that is reached, and the symbols that are complete."""

_Row = list["_Transition"]
"""The transitions from a node, by the next byte."""


class _Code(NamedTuple):
    """The transitions of the whole code."""

    root: _Row
    complete: frozenset[int]
    """The ids of the rows at which a string may end: the root's, and those that it leads to by one
    to seven one-bits."""
    refused: _Row
    """The row behind an end-of-string symbol, which leads to itself."""


def _tree() -> list[list[int]]:
    """Return the code as a binary tree: of each node its two children by the next bit.

    A child is the number of a node, or ``~symbol`` for a leaf. The root is node 0.
    """
    children: list[list[int]] = [[0, 0]]
    code = length = 0
    for bits, symbols in _SYMBOLS_BY_LENGTH.items():
        code <<= bits - length
        length = bits
        for symbol in symbols:
            node = 0
            for shift in range(bits - 1, 0, -1):
                bit = code >> shift & 1
                if not children[node][bit]:
                    children.append([0, 0])
                    children[node][bit] = len(children) - 1
                node = children[node][bit]
            children[node][code & 1] = ~symbol
            code += 1
    return children


@cache
def _code() -> _Code:
    children = _tree()
    refused = len(children)
    # The transitions by one, two, four and eight bits: each is two by half the bits.
    steps = [[_step(child, refused) for child in pair] for pair in children]
    steps.append([(refused, b"")] * 2)
    for _ in range(3):
        steps = [
            [(end, before + after) for node, before in first for end, after in steps[node]]
            for first in steps
        ]
    rows: list[_Row] = [[] for _ in steps]
    shared: dict[bytes, bytes] = {}
    for row, transitions in zip(rows, steps, strict=True):
        for node, symbols in transitions:
            row.append((rows[node], shared.setdefault(symbols, symbols)))
    node, complete = 0, [0]
    for _ in range(7):
        node = children[node][1]
        complete.append(node)
    return _Code(rows[0], frozenset(id(rows[node]) for node in complete), rows[refused])


def _step(child: int, refused: int) -> tuple[int, bytes]:
    """Return the transition to a child of a node: a node and the symbol that is complete."""
    if child >= 0:
        return child, b""
    return (refused, b"") if ~child == _EOS else (0, bytes((~child,)))


def prepare() -> None:
    """Compute what the first call of :func:`decode` would compute, in about 50 ms."""
    _code()


def decode(data: bytes) -> bytes:
    """Decode a Huffman-coded string.

    Raises CompressionError for the end-of-string symbol within it and for padding that is longer
    than seven bits or not all ones (RFC 7541 section 5.2).
    """
    row, complete, refused = _code()
    decoded: list[bytes] = []
    append = decoded.append
    for byte in data:
        row, symbols = row[byte]
        append(symbols)
    if id(row) not in complete:
        if row is refused:
            raise CompressionError("a Huffman string contains the end-of-string symbol")
        raise CompressionError("a Huffman string ends in wrong padding")
    return b"".join(decoded)

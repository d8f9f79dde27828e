"""Decodes Huffman-coded header strings (RFC 7541 section 5.2 and appendix B).

The code is canonical: codes of one length are consecutive, in the order of their symbols, so their
lengths define them. Decoding follows the code's tree one byte at a time, with one lookup for each.
A transition by a byte is made of two by four bits when it is first taken, and kept: all of them,
from each of 257 nodes, would take 5 MB, of which real headers use little.
"""

from typing import Final

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


def _step(child: int) -> tuple[int, bytes]:
    """Return the transition to a child of a node: a node and the symbol that is complete."""
    if child >= 0:
        return child, b""
    return (_REFUSED, b"") if ~child == _EOS else (0, bytes((~child,)))


_children: Final = _tree()
_REFUSED: Final = len(_children)
"""The node behind an end-of-string symbol, which leads to itself."""


def _halves() -> list[list[tuple[int, bytes]]]:
    """Return the transitions from each node by four bits: a node and the symbol that is complete.

    Those by two bits are two by one, and those by four are two by two.
    """
    steps = [[_step(child) for child in pair] for pair in _children]
    steps.append([(_REFUSED, b"")] * 2)
    for _ in range(2):
        steps = [
            [(end, before + after) for node, before in first for end, after in steps[node]]
            for first in steps
        ]
    return steps


_Row = list["tuple[_Row, bytes] | None"]
"""The transitions from a node by the next byte: a row and the symbols that are complete."""

_HALVES: Final = _halves()
_rows: Final[list[_Row]] = [[None] * 256 for _ in _HALVES]
_nodes: Final = {id(row): node for node, row in enumerate(_rows)}


def _fill(row: _Row, byte: int) -> "tuple[_Row, bytes]":
    """Compute a transition, which is kept."""
    node, first = _HALVES[_nodes[id(row)]][byte >> 4]
    node, second = _HALVES[node][byte & 15]
    found = row[byte] = (_rows[node], first + second)
    return found


def _ends() -> frozenset[int]:
    """Return the nodes at which a string may end: the root, and those that it leads to by one to
    seven one-bits."""
    node, found = 0, [0]
    for _ in range(7):
        node = _children[node][1]
        found.append(node)
    return frozenset(found)


_ENDS: Final = _ends()


def decode(data: bytes) -> bytes:
    """Decode a Huffman-coded string.

    Raises CompressionError for the end-of-string symbol within it and for padding that is longer
    than seven bits or not all ones (RFC 7541 section 5.2).
    """
    row = _rows[0]
    decoded: list[bytes] = []
    append = decoded.append
    for byte in data:
        row, symbols = row[byte] or _fill(row, byte)
        append(symbols)
    node = _nodes[id(row)]
    if node == _REFUSED:
        raise CompressionError("a Huffman string contains the end-of-string symbol")
    if node not in _ENDS:
        raise CompressionError("a Huffman string ends in wrong padding")
    return b"".join(decoded)

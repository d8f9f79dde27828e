"""Decodes Huffman-coded header strings (RFC 7541 section 5.2 and appendix B).

The code is canonical: codes of one length are consecutive, in the order of their symbols, so their
lengths define them. Decoding follows the code's tree one byte at a time. Each transition is cached
when it is first taken (at most 256 nodes times 256 bytes), so that a byte then costs one lookup.
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


class _Tree:
    """The code as a binary tree. A node is a number; the root is 0.

    ``children[node][bit]`` is a node, or ``~symbol`` for a leaf. ``padding`` are the nodes at which
    a string may end: the root, and those reached from it by one to seven one-bits.
    """

    def __init__(self) -> None:
        self.children: list[list[int]] = [[0, 0]]
        code = length = 0
        for bits, symbols in _SYMBOLS_BY_LENGTH.items():
            code <<= bits - length
            length = bits
            for symbol in symbols:
                self._insert(code, bits, symbol)
                code += 1
        node = 0
        padding = [node]
        for _ in range(7):
            node = self.children[node][1]
            padding.append(node)
        self.padding = frozenset(padding)

    def _insert(self, code: int, bits: int, symbol: int) -> None:
        node = 0
        for shift in range(bits - 1, 0, -1):
            bit = code >> shift & 1
            if not self.children[node][bit]:
                self.children.append([0, 0])
                self.children[node][bit] = len(self.children) - 1
            node = self.children[node][bit]
        self.children[node][code & 1] = ~symbol

    def step(self, node: int, byte: int) -> tuple[int, bytes]:
        """Follow the bits of ``byte`` from ``node``; return the node reached and the symbols."""
        decoded_bytes = bytearray()
        for shift in range(7, -1, -1):
            node = self.children[node][byte >> shift & 1]
            if node < 0:
                if ~node == _EOS:
                    raise CompressionError("a Huffman string contains the end-of-string symbol")
                decoded_bytes.append(~node)
                node = 0
        return node, bytes(decoded_bytes)


_tree = _Tree()


class _Row(dict[int, tuple["_Row", bytes]]):
    """The transitions of one node by byte: the next node's row and the symbols; filled on use."""

    __slots__ = ("node",)

    def __init__(self, node: int) -> None:
        super().__init__()
        self.node = node

    def __missing__(self, byte: int) -> tuple["_Row", bytes]:
        node, decoded_bytes = _tree.step(self.node, byte)
        found = self[byte] = (_rows[node], decoded_bytes)
        return found


_rows = [_Row(node) for node in range(len(_tree.children))]
_ends = frozenset(map(id, (_rows[node] for node in _tree.padding)))


def decode(data: bytes) -> bytes:
    """Decode a Huffman-coded string.

    Raises CompressionError for the end-of-string symbol within it and for padding that is longer
    than seven bits or not all ones (RFC 7541 section 5.2).
    """
    row = _rows[0]
    decoded = bytearray()
    for byte in data:
        row, decoded_bytes = row[byte]
        decoded += decoded_bytes
    if id(row) not in _ends:
        raise CompressionError("a Huffman string ends in wrong padding")
    return bytes(decoded)

"""Scans a client's bytes, before they are forwarded, for calls whose path is wanted.

This delays every call on a listener with rules, so it does little: DATA is skipped by its length,
and of a header block only the path is decoded, with the table of the decoder that will read the
block after it has been forwarded.
"""

from collections.abc import Callable
from typing import Final

from criproxy.wire import constants
from criproxy.wire.errors import FrameSizeError
from criproxy.wire.hpack.decoder import LONG_BLOCK, Decoder, Header
from criproxy.wire.http2.frame_buffer import fragment_of
from criproxy.wire.http2.frames import check_beginning, unpack_header

IsWanted = Callable[[bytes], bool]
"""Returns whether calls of a path may have to be held."""

_WHOLE: Final = constants.FLAG_END_HEADERS
_NOT_WHOLE: Final = constants.FLAG_END_HEADERS | constants.FLAG_PADDED | constants.FLAG_PRIORITY


class PathScanner:
    """Scans a client's bytes, in order."""

    __slots__ = ("_block_limit", "_decoder", "_preface", "_skip", "_wanted", "needed")

    def __init__(
        self, wanted: IsWanted, decoder: Decoder, skip: int, begun: bool, block_limit: int
    ) -> None:
        """``decoder`` reads the forwarded bytes before the next scan.

        ``skip``: bytes still to come of the current frame. ``begun``: the connection preface has
        been received. ``block_limit``: maximum bytes of a frame that is not DATA.
        """
        self._wanted = wanted
        self._decoder = decoder
        self._skip = skip
        self._preface = b"" if begun else constants.PREFACE
        self._block_limit = block_limit
        self.needed = 0
        """Bytes of an incomplete frame from which it is scanned again."""

    def scan(self, data: bytes) -> tuple[int, bool]:
        """Return how many bytes to forward, and whether a wanted call follows them.

        If none does, an incomplete frame follows: scan it again with at least :attr:`needed` bytes.
        A long header block, or one with CONTINUATION frames, is taken for that of a wanted call.
        Raises a WireError for bytes that cannot be read.
        """
        size = len(data)
        position = self._scan_preface(data) if self._preface else 0
        if position is None:
            self.needed = size + 1
            return 0, False
        if self._skip:
            skipped = min(self._skip, size - position)
            self._skip -= skipped
            position += skipped
        inserted: list[Header] = []
        while size - position >= constants.FRAME_HEADER_SIZE:
            high, low, kind, flags, _ = unpack_header(data, position)
            start = position + constants.FRAME_HEADER_SIZE
            end = start + (high << 8 | low)
            if kind == constants.DATA:
                if end > size:
                    self._skip = end - size
                    return size, False
            elif end > size:
                if end - start > self._block_limit:
                    raise FrameSizeError(f"a frame of type {kind} has {end - start} bytes")
                self.needed = end - position
                return position, False
            elif kind == constants.HEADERS:
                if end - start > LONG_BLOCK:
                    return position, True
                block = data[start:end]
                if flags & _NOT_WHOLE != _WHOLE:
                    if not flags & constants.FLAG_END_HEADERS:
                        return position, True
                    block = fragment_of(flags, block)
                if self._wanted(self._decoder.find_path(block, inserted)):
                    return position, True
            position = end
        self.needed = constants.FRAME_HEADER_SIZE
        return position, False

    def _scan_preface(self, data: bytes) -> int | None:
        """Return the bytes of the preface; None if it is another protocol's beginning."""
        expected = self._preface[: len(data)]
        if not data.startswith(expected):
            check_beginning(b"", self._preface, data)
            return None
        self._preface = self._preface[len(expected) :]
        return len(expected)


def path_of(fields: list[Header]) -> bytes:
    """Return a request's ``:path``; empty if it has none."""
    path = b""
    for name, value in fields:
        if name == b":path":
            path = value
    return path

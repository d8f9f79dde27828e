"""The last blocks of a recording, in memory, until they are wanted."""

from collections import deque
from collections.abc import Iterator

import msgspec

from criproxy.cassette.blocks import RecordBlocks, records_in
from criproxy.cassette.open_calls import KEPT_BYTES, OpenCalls
from criproxy.cassette.records import decode


class Ring:
    """Keeps blocks up to a size; what began in an older block and goes on is kept as well."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes of compressed blocks; the newest one is kept in any case. Requests
        of what is older have half of it beside them, so that a cassette has room for both."""
        self.size = 0
        """Bytes of the blocks."""
        self._limit = limit
        self._blocks: deque[bytes] = deque()
        self._older = OpenCalls(min(limit // 2, KEPT_BYTES), responses=False)

    def add(self, block: bytes) -> None:
        """Add a block, and give up the oldest ones over the limit."""
        self._blocks.append(block)
        self.size += len(block)
        while self.size > self._limit and len(self._blocks) > 1:
            oldest = self._blocks.popleft()
            self.size -= len(oldest)
            for data in records_in(oldest):
                self._follow(data)

    def blocks(self) -> Iterator[bytes]:
        """Yield what a cassette needs of the time before, then the blocks."""
        older: list[bytes] = []
        blocks = RecordBlocks(older.append)
        for connection in self._older.connections.values():
            blocks.write(connection)
        for call in self._older.calls.values():
            blocks.write(call.began)
            if call.request is not None:
                blocks.write(call.request)
        blocks.flush()
        yield from older
        yield from self._blocks

    def _follow(self, data: bytes) -> None:
        try:
            record = decode(data)
        except msgspec.DecodeError:  # not of this version
            return
        self._older.follow(record)

"""The last blocks of a recording, in memory, until they are wanted."""

from collections import deque
from collections.abc import Iterator

import msgspec

from criproxy.cassette.blocks import build, frame, records_in
from criproxy.cassette.open_calls import OpenCalls
from criproxy.cassette.records import decode, encode


class Ring:
    """Keeps blocks up to a size; what began in an older block and goes on is kept as well."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes of compressed blocks; the newest one is kept in any case."""
        self.size = 0
        """Bytes of the blocks."""
        self._limit = limit
        self._blocks: deque[bytes] = deque()
        self._older = OpenCalls()

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
        older = self._older
        records = [
            *map(encode, older.connections.values()),
            *(
                encode(record)
                for call in older.calls.values()
                for record in (call.began, call.request)
                if record is not None
            ),
        ]
        if records:
            yield build(b"".join(map(frame, records)))
        yield from self._blocks

    def _follow(self, data: bytes) -> None:
        try:
            record = decode(data)
        except msgspec.DecodeError:  # not of this version
            return
        call = self._older.follow(record)
        if call is not None:
            call.response.clear()  # of what is older, only that it goes on is of interest

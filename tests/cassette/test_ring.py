"""A recording whose last part is kept in memory."""

import os
from pathlib import Path

from criproxy.cassette.blocks import BLOCK_SIZE, RecordBlocks, records_in
from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import (
    Began,
    CallBegan,
    ConnectionOpened,
    MessagePassed,
    decode,
)
from criproxy.cassette.ring import Ring
from criproxy.cassette.writer import CassetteWriter
from criproxy.cri.pb import runtime_v1_pb2 as v1
from tests.support.cassettes import Made

LIMIT = 100_000


def test_the_last_of_a_recording(tmp_path: Path) -> None:
    """A ring keeps the newest blocks up to its size, and of what is older only the connections and
    calls that go on; before it is released, nothing is in the file."""
    writer = CassetteWriter(tmp_path / "a")
    writer.write(Began(version=1, began=1))
    ring = Ring(LIMIT)
    writer.keep(ring)
    begun = writer.size
    stream = Made("GetContainerEvents", 1, 900, v1.GetEventsRequest(), code="CANCELLED")
    first, asked, last = stream.make(1)
    writer.write(ConnectionOpened(connection=1, at=1, pid=7))
    writer.write(first)
    writer.write(asked)
    for number in range(2, 500):
        answer = v1.VersionResponse(version=os.urandom(500).hex())
        call = Made("Version", number, number + 0.5, v1.VersionRequest(), [answer])
        for record in call.make(number):
            writer.write(record)
        writer.flush()
        assert ring.size <= LIMIT
    assert (tmp_path / "a").stat().st_size == writer.size == begun
    writer.release()
    writer.write(last)
    writer.close()
    assert LIMIT * 0.9 < writer.size < LIMIT * 1.1
    with CassetteReader(tmp_path / "a") as reader:
        index = CallIndex(reader)
        oldest, *numbers = [call.number for call in index.calls]
        assert oldest == 1
        assert numbers == list(range(numbers[0], 500))
        assert 50 < len(numbers) < 400
        assert all(call.complete for call in index.calls)
        _, opened, began, request, *_ = reader
    assert isinstance(opened, ConnectionOpened)
    assert isinstance(began, CallBegan)
    assert isinstance(request, MessagePassed)
    assert (opened.pid, began.call, request.call) == (7, 1, 1)


def test_a_ring_that_is_never_released(tmp_path: Path) -> None:
    """What is kept is written when the cassette is closed; the newest block is kept in any case."""
    writer = CassetteWriter(tmp_path / "a")
    writer.write(Began(version=1, began=1))
    writer.keep(Ring(1))
    call = Made("Version", 1, 2, v1.VersionRequest(), [v1.VersionResponse(version="1")])
    for record in call.make(1):
        writer.write(record)
    writer.close()
    with CassetteReader(tmp_path / "a") as reader:
        assert [each.complete for each in CallIndex(reader).calls] == [True]


def test_large_requests_of_older_calls() -> None:
    """Requests of calls that began in older blocks are kept up to half of the size, and noted as
    missing beyond it, in blocks that a reader accepts; the responses of a stream take none of it.
    """
    limit = 2 << 20
    ring = Ring(limit)
    blocks = RecordBlocks(ring.add)

    def message(call: int, size: int, *, response: bool = False) -> MessagePassed:
        return MessagePassed(call=call, at=2, size=size, response=response, data=os.urandom(size))

    path = "/runtime.v1.RuntimeService/StreamContainers"
    blocks.write(CallBegan(call=1, connection=1, at=1, path=path))
    blocks.write(message(1, 100))
    large = 300_000
    for _ in range(2 * limit // large):
        blocks.write(message(1, large, response=True))
    for number in range(2, 7):
        blocks.write(CallBegan(call=number, connection=1, at=number, path="/other"))
        blocks.write(message(number, large))
    for _ in range(2 * limit // large):
        blocks.write(message(1, large, response=True))
    found = [
        [each for data in records_in(block) if isinstance(each := decode(data), MessagePassed)]
        for block in ring.blocks()
    ]
    assert max(sum(len(each.data) for each in block) for block in found) <= BLOCK_SIZE + large
    messages = [each for block in found for each in block]
    kept = {each.call: len(each.data) for each in messages if not each.response}
    assert kept == {1: 100, 2: large, 3: large, 4: large, 5: 0, 6: 0}
    assert {each.missing for each in messages if each.call in (5, 6)} == {"too_large"}
    assert sum(len(block) for block in ring.blocks()) <= 1.5 * limit

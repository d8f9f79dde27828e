"""A recording whose last part is kept in memory."""

import os
from pathlib import Path

from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import Began, CallBegan, ConnectionOpened, MessagePassed
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
